"""Where the library looks for its registry and its cache.

Precedence: argument (a flag of the command line), environment, project file, user file, default.

    ZOO_HOME      folder of config.toml and tokens.json; with it, the cache is ZOO_HOME/cache
    ZOO_CACHE     folder of the cache
    ZOO_ENDPOINT  the registry's address, http or https
    ZOO_TOKEN     the token for it
    ZOO_OFFLINE   1: make no request, use what the cache holds; HF_HUB_OFFLINE is read where it is absent

The project file is `zoo.toml`, the user file `config.toml` in the home folder; both hold `cache`, `endpoint` and
`offline`. A token lies in neither: files are shared. `zoo auth login` keeps it in tokens.json, mode 0600, by endpoint.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import platformdirs

from zoo.errors import UnavailableError, ZooError
from zoo.progress import ZooWarning

APP = "sparrow-zoo"
PROJECT_FILE = "zoo.toml"
USER_FILE = "config.toml"
TOKENS_FILE = "tokens.json"
DEFAULT_ENDPOINT = "http://127.0.0.1:8080"
_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class SettingsError(ZooError):
    """A setting is wrong; the message names the variable, or the file and line."""

    exit_code = 2


@dataclass(frozen=True)
class Patience:
    """How long a request may take and how often it is repeated; times in seconds.

    `total_s` bounds one call with all its repetitions. A blob's download has no such bound: there, an attempt that
    stays below `slow_bytes_per_s` over `slow_window_s` counts as failed, and `attempts` failures without progress
    end it.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    request_s: float = 60.0
    total_s: float = 120.0
    attempts: int = 5
    connect_attempts: int = 2
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0
    slow_bytes_per_s: float = 1024.0
    slow_window_s: float = 30.0


@dataclass(frozen=True)
class Settings:
    """What `load` found. `origins` tells for each setting where it came from."""

    home: Path
    cache: Path
    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    patience: Patience = Patience()
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(
        cls,
        *,
        home: str | Path | None = None,
        cache: str | Path | None = None,
        endpoint: str | None = None,
        token: str | None = None,
        offline: bool | None = None,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> Self:
        """Reads the settings; an argument that is None comes from the next source.

        `environ` defaults to the process's environment, `folder`, where the search for zoo.toml starts, to the
        current one.
        Raises `SettingsError`.
        """
        environ = os.environ if environ is None else environ
        flags = {"home": home, "cache": cache, "endpoint": endpoint, "token": token, "offline": offline}
        found = _find([_flag_layer(flags), _environment_layer(environ)], folder)
        values: dict[str, Any] = {key: value for key, (value, _) in found.items()}
        return cls(**values, origins={key: origin for key, (_, origin) in found.items()})

    def check_online(self, purpose: str) -> None:
        """Raises `UnavailableError` if no request may be made; whatever makes one calls it first."""
        if self.offline:
            origin = self.origins.get("offline", "a setting")
            raise UnavailableError(f"can't {purpose} while offline; {origin} says so, change that first")


def save_token(settings: Settings, token: str) -> Path:
    """Keeps the token for the settings' endpoint, in a file that only its owner can read; returns the file."""
    tokens = _read_tokens(settings.home)
    tokens[settings.endpoint] = _token(token, "the token")
    return _write_tokens(settings.home, tokens)


def forget_token(settings: Settings) -> bool:
    """Removes the token kept for the settings' endpoint; returns whether there was one."""
    tokens = _read_tokens(settings.home)
    if tokens.pop(settings.endpoint, None) is None:
        return False
    _write_tokens(settings.home, tokens)
    return True


@dataclass(frozen=True)
class _Layer:
    values: Mapping[str, object]
    where: Callable[[str], str]


def _find(layers: list[_Layer], folder: Path | None) -> dict[str, tuple[object, str]]:
    """Value and origin of each setting."""
    given_home = _first(layers, "home")
    home = Path(str(given_home[0])) if given_home else platformdirs.user_config_path(APP)
    project = _project_file(folder)
    layers = [*layers, *(_file_layer(path) for path in (project, home / USER_FILE) if path)]
    defaults = {
        "home": home,
        "cache": home / "cache" if given_home else platformdirs.user_cache_path(APP),
        "endpoint": DEFAULT_ENDPOINT,
        "offline": False,
    }
    found: dict[str, tuple[object, str]] = {
        key: _first(layers, key) or (value, "default") for key, value in defaults.items()
    }
    found["token"] = _first(layers, "token") or _stored_token(home, str(found["endpoint"][0]))
    return found


def _first(layers: list[_Layer], key: str) -> tuple[object, str] | None:
    for layer in layers:
        value = layer.values.get(key)
        if value is not None:
            where = layer.where(key)
            return _CHECKS[key](value, where), where
    return None


def _flag_layer(flags: Mapping[str, object]) -> _Layer:
    return _Layer(flags, lambda key: f"the argument {key}")


def _environment_layer(environ: Mapping[str, str]) -> _Layer:
    names = {key: f"ZOO_{key.upper()}" for key in _CHECKS}
    if not environ.get("ZOO_OFFLINE") and environ.get("HF_HUB_OFFLINE"):
        names["offline"] = "HF_HUB_OFFLINE"
        if _SWITCH.get(environ["HF_HUB_OFFLINE"].strip().lower()):
            warnings.warn("HF_HUB_OFFLINE is set: zoo makes no requests either", ZooWarning, stacklevel=4)
    values = {key: environ[name] for key, name in names.items() if environ.get(name)}
    return _Layer(values, lambda key: f"the variable {names[key]}")


def _file_layer(path: Path) -> _Layer:
    try:
        text = path.read_bytes().decode()
        values = tomllib.loads(text)
    except FileNotFoundError:
        return _Layer({}, lambda _: str(path))
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is no TOML file: {error}") from None

    def where(key: str) -> str:
        return f"{path} line {_line_of(text, key)}"

    for key in values:
        if key == "token":
            raise SettingsError(f"{where(key)}: a token doesn't belong in a settings file; run `zoo auth login`")
        if key not in ("cache", "endpoint", "offline"):
            raise SettingsError(f"{where(key)}: the setting {key!r} is unknown; known: cache, endpoint, offline")
    if isinstance(values.get("cache"), str):
        values["cache"] = str(path.parent / Path(values["cache"]).expanduser())
    return _Layer(values, where)


def _line_of(text: str, key: str) -> int:
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}\b")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _project_file(folder: Path | None) -> Path | None:
    for path in _candidates(folder or Path.cwd()):
        if not path.is_file():
            continue
        owner = path.stat().st_uid
        if hasattr(os, "getuid") and owner not in (os.getuid(), 0):
            warnings.warn(f"{path} belongs to another user and is ignored", ZooWarning, stacklevel=4)
            return None
        return path
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    for level in (folder, *folder.parents):
        yield level / PROJECT_FILE
        if (level / ".git").exists():
            return


def _folder(value: object, where: str) -> Path:
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise SettingsError(f"{where}: a folder is expected, not {value!r}")
    return Path(value).expanduser().absolute()


def _endpoint(value: object, where: str) -> str:
    text = str(value).strip().rstrip("/") if isinstance(value, str) else ""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isascii() or not text.isprintable() or " " in text:
        shown = re.sub(r"(?s)^([^:/]*://)?.*@", r"\1***@", value) if isinstance(value, str) else value
        raise SettingsError(f"{where}: {shown!r} is no registry address; write it like {DEFAULT_ENDPOINT}")
    if "@" in parts.netloc:
        raise SettingsError(f"{where}: a registry address carries no user or password; use ZOO_TOKEN for the token")
    if parts.query or parts.fragment:
        raise SettingsError(f"{where}: a registry address has neither '?' nor '#'")
    return text


def _token(value: object, where: str) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not re.fullmatch(r"[\x21-\x7e]{1,4096}", text):
        raise SettingsError(f"{where}: a token is 1 to 4096 printable ASCII characters without spaces")
    return text


def _offline(value: object, where: str) -> bool:
    if isinstance(value, bool):
        return value
    switch = _SWITCH.get(value.strip().lower()) if isinstance(value, str) else None
    if switch is None:
        raise SettingsError(f"{where}: {value!r} is no switch; write 1 or 0")
    return switch


_CHECKS: Mapping[str, Callable[[object, str], object]] = {
    "home": _folder,
    "cache": _folder,
    "endpoint": _endpoint,
    "token": _token,
    "offline": _offline,
}


def _stored_token(home: Path, endpoint: str) -> tuple[str | None, str]:
    token = _read_tokens(home).get(endpoint)
    return token, "default" if token is None else str(home / TOKENS_FILE)


def _read_tokens(home: Path) -> dict[str, str]:
    path = home / TOKENS_FILE
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & 0o077:
            shown = stat.S_IMODE(mode)
            raise SettingsError(f"{path} can be read by others (mode {shown:o}); run: chmod 600 {path}")
        tokens = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise SettingsError(f"{path} is no JSON file; run `zoo auth login` after removing it") from None
    if not isinstance(tokens, dict):
        raise SettingsError(f"{path} holds no tokens by endpoint; run `zoo auth login` after removing it")
    return {str(endpoint): _token(token, f"{path}, {endpoint}") for endpoint, token in tokens.items()}


def _write_tokens(home: Path, tokens: Mapping[str, str]) -> Path:
    path = home / TOKENS_FILE
    fresh = path.with_name(f"{TOKENS_FILE}.{os.getpid()}")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(tokens, stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} can't be written: {error.strerror}") from None
    return path
