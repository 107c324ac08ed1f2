"""Where settings come from, and what a wrong one says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import zoo
from zoo.progress import ZooWarning
from zoo.settings import DEFAULT_ENDPOINT, Settings, SettingsError, forget_token, save_token


def load(tmp_path: Path, environ: dict[str, str] | None = None, **given: object) -> Settings:
    environ = {"ZOO_HOME": str(tmp_path / "home"), **(environ or {})}
    return Settings.load(environ=environ, folder=tmp_path / "project", **given)  # type: ignore[arg-type]  # by keyword


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_row_09_precedence_flag_environment_project_user_default(tmp_path: Path) -> None:
    assert load(tmp_path).endpoint == DEFAULT_ENDPOINT
    user = write(tmp_path / "home" / "config.toml", 'endpoint = "http://user:1"\n')
    assert load(tmp_path).endpoint == "http://user:1"
    project = write(tmp_path / "project" / "zoo.toml", '# ours\nendpoint = "http://project:1/"\n')
    found = load(tmp_path)
    assert (found.endpoint, found.origins["endpoint"]) == ("http://project:1", f"{project} line 2")
    environ = {"ZOO_ENDPOINT": "http://variable:1"}
    assert load(tmp_path, environ).endpoint == "http://variable:1"
    assert load(tmp_path, environ).origins["endpoint"] == "the variable ZOO_ENDPOINT"
    assert load(tmp_path, environ, endpoint="https://flag").endpoint == "https://flag"
    project.unlink()
    assert load(tmp_path).origins["endpoint"] == f"{user} line 1"


def test_project_file_is_looked_for_upwards_to_the_repository(tmp_path: Path) -> None:
    write(tmp_path / "zoo.toml", 'cache = "outside"\n')
    write(tmp_path / "project" / "zoo.toml", 'cache = "here"\n')
    deep = tmp_path / "project" / "a" / "b"
    deep.mkdir(parents=True)
    environ = {"ZOO_HOME": str(tmp_path / "home")}
    assert Settings.load(environ=environ, folder=deep).cache == tmp_path / "project" / "here"
    (tmp_path / "project" / "a" / ".git").mkdir()
    assert Settings.load(environ=environ, folder=deep).cache == tmp_path / "home" / "cache"


def test_empty_variables_count_as_absent(tmp_path: Path) -> None:
    assert load(tmp_path, {"ZOO_ENDPOINT": "", "ZOO_OFFLINE": "", "ZOO_TOKEN": ""}).endpoint == DEFAULT_ENDPOINT


def test_hf_hub_offline_is_honoured_with_a_notice(tmp_path: Path) -> None:
    with pytest.warns(ZooWarning, match="HF_HUB_OFFLINE"):
        assert load(tmp_path, {"HF_HUB_OFFLINE": "1"}).offline
    assert not load(tmp_path, {"HF_HUB_OFFLINE": "1", "ZOO_OFFLINE": "0"}).offline


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"ZOO_OFFLINE": "maybe"}, "ZOO_OFFLINE: 'maybe' is no switch"),
        ({"ZOO_ENDPOINT": "ftp://x"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "127.0.0.1:8080"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://[::1"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://a:99999"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://a b"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://a\r\nX: y"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://me:pw@host"}, "ZOO_TOKEN"),
        ({"ZOO_ENDPOINT": "ftp://me:pw@host"}, "ZOO_ENDPOINT: 'ftp://.*@host' is no registry address"),
        ({"ZOO_ENDPOINT": "me:pw@host"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://me:pw@host:99999"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://me:a/pw@host b"}, "ZOO_ENDPOINT"),
        ({"ZOO_ENDPOINT": "http://host/?a=b"}, "ZOO_ENDPOINT"),
        ({"ZOO_TOKEN": "a\nb"}, "ZOO_TOKEN"),
        ({"ZOO_CACHE": "a\0b"}, "ZOO_CACHE"),
    ],
)
def test_wrong_variables_are_named(tmp_path: Path, environ: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text) as caught:
        load(tmp_path, environ)
    assert caught.value.exit_code == 2
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("offline = 1\n", "zoo.toml line 1"),
        ("\n\nendpoint = 5\n", "zoo.toml line 3"),
        ("# a\ncolour = 'red'\n", "zoo.toml line 2.*unknown"),
        ("token = 'x'\n", "zoo.toml line 1.*auth login"),
        ("endpoint = \n", "line 1"),
        ("\x00", "zoo.toml"),
        ("[table]\nx = 1\n", "zoo.toml line 1"),
    ],
)
def test_wrong_files_are_named_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "project" / "zoo.toml", text)
    with pytest.raises(SettingsError, match=message):
        load(tmp_path)


def test_row_25_tokens_are_kept_by_endpoint_in_a_file_of_mode_600(tmp_path: Path) -> None:
    settings = load(tmp_path)
    path = save_token(settings, "secret")
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(tmp_path).token == "secret"
    assert load(tmp_path, endpoint="http://other:1").token is None
    assert load(tmp_path, {"ZOO_TOKEN": "own"}).token == "own"
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load(tmp_path)
    path.chmod(0o600)
    assert forget_token(settings)
    assert not forget_token(settings)
    assert load(tmp_path).token is None


def test_row_25_a_token_is_in_no_printed_form(tmp_path: Path) -> None:
    settings = load(tmp_path, {"ZOO_TOKEN": "secret"})
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings.origins)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"http://127.0.0.1:8080": 5}', "[" * 100_000])
def test_damaged_token_files_are_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "home" / "tokens.json", text)
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=r"tokens\.json"):
        load(tmp_path)


def test_public_names_are_exactly_these() -> None:
    errors = [
        "Access",
        "Cache",
        "Check",
        "Conflict",
        "Integrity",
        "Manifest",
        "NotFound",
        "Recipe",
        "Settings",
        "Stub",
        "Training",
        "Unavailable",
        "Zoo",
    ]
    types = ["Manifest", "ProgressEvent", "Recipe", "Role", "Settings", "Stub", "ZooWarning"]
    functions = ["publish", "publish_benchmark", "pull", "resolve", "search"]
    assert sorted(zoo.__all__) == dir(zoo) == sorted([*(f"{name}Error" for name in errors), *types, *functions])
    for name in zoo.__all__:
        assert getattr(zoo, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zoo.nothing  # type: ignore[attr-defined]  # noqa: B018


LIGHT = """
import sys, time
began = time.process_time()
import zoo
took = time.process_time() - began
heavy = {"torch", "httpx", "transformers", "pydantic", "onnx", "numpy", "socket"} & set(sys.modules)
assert not heavy, heavy
assert took < 0.1, took
zoo.pull
assert not {"torch", "httpx", "transformers", "onnx", "numpy"} & set(sys.modules)
import zoo.publish
assert callable(zoo.publish) and not hasattr(zoo.publish, "__path__") and zoo.publish.__name__ == "publish"
from zoo import publish
assert publish is zoo.publish
"""


def test_import_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
