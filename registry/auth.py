"""Tokens: 32 random bytes that are shown once; only their sha256 is kept."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime

from registry import queries
from registry.caller import ANYONE, EVERYTHING, Caller, Grant
from registry.db import Database
from registry.errors import UnauthorizedError
from registry.scopes import any_private
from registry.settings import Settings

TOKEN = re.compile(r"zoo_[A-Za-z0-9_-]{43}")
_BEARER = re.compile(r"[Bb]earer +(" + TOKEN.pattern + r") *\Z")


def new_token() -> str:
    """A fresh token's text."""
    return "zoo_" + secrets.token_urlsafe(32)


def hash_token(text: str) -> str:
    """What is kept of a token: it is random, so that a plain sha256 can't be guessed back."""
    return hashlib.sha256(text.encode()).hexdigest()


def token_in(authorization: str) -> str | None:
    """The token of an Authorization header, whether this registry knows it or not."""
    match = _BEARER.match(authorization)
    return match[1] if match else None


def redact(text: str) -> str:
    """The text with every token in it made unreadable."""
    return TOKEN.sub("zoo_***", text)


class Gate:
    """Decides who may write. Reading is open."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings

    def identify(self, authorization: str | None) -> Caller:
        """The caller behind an Authorization header; raises `UnauthorizedError` if it holds no valid token."""
        if authorization is None:
            return ANYONE if self._needs_token() else Caller(grants=(EVERYTHING,))
        text = token_in(authorization)
        if text is None:
            raise UnauthorizedError("the Authorization header is not 'Bearer zoo_...' with a token of this registry")
        with self._database.read() as session:
            token = queries.token_by_hash(session, hash_token(text))
        if token is None:
            raise UnauthorizedError("this registry doesn't know the token; log in again with one it made")
        if token.revoked_at is not None:
            raise UnauthorizedError(f"the token {token.name!r} was revoked; ask for a new one")
        if token.expires_at is not None and token.expires_at <= datetime.now(UTC):
            raise UnauthorizedError(f"the token {token.name!r} expired; ask for a new one")
        grants = tuple(Grant.parse(grant) for grant in token.grants.split())
        return Caller(token.name, grants, token.id, token.expires_at)

    def check_writer(self, authorization: str | None) -> Caller:
        """The caller, if it may write; raises `UnauthorizedError`."""
        caller = self.identify(authorization)
        if not caller.may_write:
            raise UnauthorizedError("writing to this registry needs a token: send 'Authorization: Bearer zoo_...'")
        return caller

    def _needs_token(self) -> bool:
        if self._settings.require_token is not None:
            return self._settings.require_token
        if not self._settings.is_loopback:
            return True
        with self._database.read() as session:
            return queries.any_token(session) or any_private(session)
