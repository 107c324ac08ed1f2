"""Settings of the registry: arguments, then ZOO_REGISTRY_* environment variables, then defaults."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from registry.errors import StartError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_BLOB_STORE = (  # a bucket, a prefix without dots at a part's start, options; never a key
    r"(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?"
    r"(\?(endpoint=https?://[A-Za-z0-9._:\[\]-]+/?|region=[a-z0-9-]+)(&(endpoint=https?://[A-Za-z0-9._:\[\]-]+/?"
    r"|region=[a-z0-9-]+))?)?)?"
)
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """What one registry is made of.

    storage             folder of the blobs, of files being received, and of the default database
    blob_store          s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME]; the storage folder when empty
    database_url        sqlite:///FILE or postgresql://...; SQLite in the storage folder when empty
    host, port          where to listen; port 0 takes a free one
    public_url          how clients reach the registry, for pages; derived from host and port when empty
    trusted_hosts       names between commas, accepted in the Host header besides host's and public_url's own
    require_token       None: writes need a token once one exists, or when host, public_url or trusted_hosts name
                        more than loopback
    max_blob_bytes      largest file accepted
    max_chunk_bytes     largest chunk of an upload accepted
    max_body_bytes      largest JSON body of a version accepted; that of other requests is 64 KiB, or a MiB for the
                        digests that a client is about to upload and for GraphQL
    max_requests        requests served at once; more get 503
    requests_per_minute of one token or address; more get 429. None: 6,000, and unlimited on loopback; 0: unlimited
    upload_idle_s       a body that stays silent for this many seconds ends, as does one that comes very slowly
    upload_expires_s    an upload that isn't continued for this many seconds is forgotten
    """

    model_config = SettingsConfigDict(env_prefix="ZOO_REGISTRY_", frozen=True, extra="forbid")

    storage: Path = Field(default_factory=lambda: user_data_path("sparrow-zoo") / "registry")
    blob_store: str = ""
    database_url: str = ""
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    public_url: Annotated[str, Field(pattern=r"^(https?://[A-Za-z0-9._:\[\]/~-]+)?$")] = ""
    trusted_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    require_token: bool | None = None
    max_blob_bytes: Annotated[int, Field(ge=1, le=1 << 40)] = 1 << 36
    max_chunk_bytes: Annotated[int, Field(ge=1 << 16, le=1 << 32)] = 1 << 26
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 28)] = 1 << 24
    max_requests: Annotated[int, Field(ge=1, le=100_000)] = 512
    requests_per_minute: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    upload_idle_s: Seconds = 60.0
    upload_expires_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 86_400.0

    @classmethod
    def load(cls, **given: object) -> Self:
        """Reads the settings; raises `StartError` naming the first wrong one."""
        try:
            return cls(**given)  # type: ignore[arg-type]  # pydantic checks each value
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            reason = first["msg"].removeprefix("Value error, ")
            name = "_".join(str(part) for part in first["loc"]) or "settings"
            raise StartError(f"the setting {name} (ZOO_REGISTRY_{name.upper()}) is wrong: {reason}") from None

    @field_validator("blob_store")
    @classmethod
    def _known_store(cls, url: str) -> str:
        if re.fullmatch(_BLOB_STORE, url):
            return url
        raise ValueError("it is s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME], or empty for a folder")

    @field_validator("trusted_hosts", mode="before")
    @classmethod
    def _host_names(cls, given: str | tuple[str, ...]) -> tuple[str, ...]:
        listed = given.split(",") if isinstance(given, str) else given
        names = tuple(name for name in (text.strip().lower() for text in listed) if name)
        if all(re.fullmatch(r"[a-z0-9._-]+", name) or is_address(name) for name in names):
            return names
        raise ValueError("it is names between commas, without ports, such as zoo.example,10.0.0.7")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url.startswith("postgresql://"):
            return url.replace("postgresql://", "postgresql+psycopg://", 1)
        if not url or url.startswith("postgresql+psycopg://"):
            return url
        if url.startswith("sqlite:///") and len(url) > len("sqlite:///") and ":memory:" not in url:
            return url
        raise ValueError("it is sqlite:///FILE or postgresql://USER@HOST/NAME")

    @model_validator(mode="after")
    def _absolute_storage(self) -> Self:
        object.__setattr__(self, "storage", self.storage.expanduser().absolute())
        return self

    @property
    def database(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url or f"sqlite:///{self.storage / 'registry.db'}"

    @property
    def blobs_at(self) -> str:
        """Where the blobs lie: the bucket's URL or the folder."""
        return self.blob_store or str(self.storage)

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only programs on this machine can connect to the registry; one of them may be a proxy."""
        return _is_loopback(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the registry, and no proxy is spoken of."""
        named = (urlsplit(self.public_url).hostname or self.host, *self.trusted_hosts)
        return self.listens_on_loopback and all(_is_loopback(name) for name in named)

    @property
    def rate(self) -> int:
        """Requests that one client may send a minute; 0 is no limit."""
        if self.requests_per_minute is not None:
            return self.requests_per_minute
        return 0 if self.is_loopback else 6_000

    @property
    def is_any_address(self) -> bool:
        """Whether the registry listens on every address of the machine."""
        return self.host in ("", "0.0.0.0", "::")  # noqa: S104  # a comparison, not a bind

    @property
    def endpoint(self) -> str:
        """The URL that pages show to clients."""
        host = "127.0.0.1" if self.is_any_address else self.host
        shown = f"[{host}]" if ":" in host else host
        return self.public_url.rstrip("/") or f"http://{shown}:{self.port}"


def _is_loopback(name: str) -> bool:
    return name in LOOPBACK_NAMES or (is_address(name) and ipaddress.ip_address(name).is_loopback)


def is_address(name: str) -> bool:
    """Whether a host's name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
