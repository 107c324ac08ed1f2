"""How a stub's name is written as a repository id of the Hugging Face Hub, and back.

    zoo:NAME             NAME
    zoo:@SCOPE/NAME      SCOPE/NAME
    a long NAME          L. and its segments, joined by dots

A stub has no upper-case letters, so that these can stand for what an id may not hold: P is a dot (within a long
name's segment, after another dot, at the end, before a last `git`), H a dash (after another dash, at the end).
Reading an id that was written gives the same stub back. An id's name has at most 96 characters; a longer one has no id.
"""

from __future__ import annotations

import re

from registry.errors import UnknownModelError
from zoo.errors import StubError
from zoo.stub import LONG_SEGMENTS, PREFIX, Stub

MAX_NAME = 96
_LONG = "L."
_MARKS = str.maketrans({"P": ".", "H": "-"})


def write_repo_id(stub: Stub) -> str | None:
    """The repository id of a stub's name; None if it would be too long."""
    if stub.is_long:
        name = _LONG + ".".join(_plain(segment.replace(".", "P")) for segment in stub.name.split("/"))
    else:
        name = _plain(stub.name)
    scope = f"{_plain(stub.scope)}/" if stub.scope else ""
    return scope + name if max(len(name), len(scope) - 1) <= MAX_NAME else None


def read_repo_id(owner: str | None, name: str) -> Stub:
    """The stub that an id names; raises `UnknownModelError` for a text that is no id of ours."""
    segments = name.removeprefix(_LONG).split(".") if name.startswith(_LONG) else [name]
    scope = f"@{owner.translate(_MARKS)}/" if owner else ""
    path = "/".join(segment.translate(_MARKS) for segment in segments)
    try:
        stub = Stub.parse(f"{PREFIX}{scope}{path}")
    except StubError as error:
        raise UnknownModelError(f"{name[:100]!a} is no model's id here: {error.reason}", nearest=[]) from None
    if len(segments) not in (1, LONG_SEGMENTS) or stub.pin or stub.query:
        raise UnknownModelError(f"{name[:100]!a} is no model's id here", nearest=[])
    return stub


def _plain(text: str) -> str:
    """The text without what an id may not hold."""
    text = re.sub(r"(?<=-)-|-\Z", "H", text)
    return re.sub(r"(?<=\.)\.|\.\Z|\.(?=git\Z)", "P", text)
