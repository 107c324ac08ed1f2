"""Who asks, and which names that opens.

grant  = [ "read:" | "write:" ] prefix      write includes read, and is what a bare prefix means
prefix = "*"                                every name
       | "@" scope [ "/*" ]                 a scope
       | name | beginning "*"               one name, or every name that begins so; zoo: may stand before it
       | beginning "/"                      the same as beginning "/*", since no name ends so
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from registry.errors import InvalidRequestError
from zoo.stub import PREFIX

MAX_GRANTS = 32
_GRANT = re.compile(r"(?:(read|write):)?(?:zoo:)?(\*|@[a-z0-9][a-z0-9._-]{0,127}|@?[a-z0-9][a-z0-9._/-]{0,400}\*?)\Z")


@dataclass(frozen=True)
class Grant:
    """Leave to read, or to read and write, the names that begin with `beginning`; only that name if it is `exact`."""

    writes: bool
    beginning: str
    exact: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a grant's text; raises `InvalidRequestError`."""
        match = _GRANT.match(text)
        if match is None:
            raise InvalidRequestError(
                f"{text[:80]!a} is no scope of a token; examples: write:@acme/*  read:nlp/question_answering/*  write:*"
            )
        action, prefix = match[1] or "write", match[2]
        if prefix.startswith("@") and "/" not in prefix:
            prefix = prefix.removesuffix("*") + "/"
        if prefix.endswith("/"):
            prefix += "*"
        return cls(action == "write", prefix.removesuffix("*"), not prefix.endswith("*"))

    def __str__(self) -> str:
        return f"{'write' if self.writes else 'read'}:{self.beginning}{'' if self.exact else '*'}"

    def covers(self, full_name: str) -> bool:
        """Whether the grant is for this name."""
        return full_name == self.beginning if self.exact else full_name.startswith(self.beginning)


EVERYTHING = Grant(writes=True, beginning="")


@dataclass(frozen=True)
class Caller:
    """Who sent a request, as far as its token says. `token_id` is 0 for those without one."""

    name: str | None = None
    grants: tuple[Grant, ...] = ()
    token_id: int = 0
    expires_at: datetime | None = None
    address: str | None = None

    @property
    def may_write(self) -> bool:
        """Whether there is any name that the caller may write."""
        return any(grant.writes for grant in self.grants)

    @property
    def sees_everything(self) -> bool:
        """Whether no private model is hidden from the caller."""
        return any(not grant.beginning for grant in self.grants)

    def may_read(self, full_name: str, *, private: bool) -> bool:
        """Whether a model of this name is there for the caller."""
        return not private or any(grant.covers(full_name) for grant in self.grants)

    def may_write_to(self, full_name: str) -> bool:
        """Whether the caller may publish, tag, yank and delete under this name."""
        return any(grant.writes and grant.covers(full_name) for grant in self.grants)


ANYONE = Caller()


def scope_of(full_name: str) -> str | None:
    """The scope of a full name, without its sign."""
    return full_name[1:].partition("/")[0] if full_name.startswith("@") else None


def parse_scope(text: str) -> str:
    """A scope's name from acme, @acme or zoo:@acme; raises `InvalidRequestError`."""
    name = text.removeprefix(PREFIX).removeprefix("@").removesuffix("/*").removesuffix("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,127}", name):
        raise InvalidRequestError(f"{text[:80]!a} is no scope; one looks like @acme")
    return name
