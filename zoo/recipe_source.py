"""Where a recipe's text comes from, and which part of it is YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import RecipeError

MAX_FILE_BYTES = 1024 * 1024
YAML_SUFFIXES = (".yaml", ".yml")
_FENCES = ("---", "+++")
_GROUP_KEY = re.compile(r"[^\s#]*modifiers[^\s#]*:")


@dataclass(frozen=True)
class Source:
    """A recipe's text, without byte order mark and with \\n line ends, and its parts.

    `yaml` keeps the lines of `text`, so that positions in one are positions in the other. `second_block_line` is the
    line of a second front matter that looks like a recipe, and is only description.
    """

    text: str
    yaml: str
    description: str
    second_block_line: int | None = None


def read_source(source: str | Path) -> Source:
    """The text behind a path (.yaml, .yml, .md), a `zoo:` stub, or a string with a line break, which is the text.

    Raises RecipeError where there is no such file, it is too large, no UTF-8, or Markdown without front matter; for a
    stub, whatever `zoo.resolver.pull` raises.
    """
    if isinstance(source, str) and ("\n" in source or "\r" in source):
        text = _lines_of(source)
        return _split(text, _first_line(text)) or Source(text, text, "")
    path = _path(source)
    text = _read(path)
    if path.suffix.lower() in YAML_SUFFIXES:
        return Source(text, text, "")
    opening = _first_line(text)
    split = _split(text, opening)
    if split is None:
        what = "is not closed" if text.split("\n")[opening].rstrip() in _FENCES else "is missing"
        raise RecipeError(
            f"the front matter of {path.name} {what}: a recipe in Markdown stands between two --- lines", 1
        )
    return split


def _path(source: str | Path) -> Path:
    if isinstance(source, str) and source.startswith("zoo:"):
        from zoo.resolver import pull

        return pull(source, role="recipe")
    path = Path(source)
    if path.suffix.lower() not in (*YAML_SUFFIXES, ".md"):
        shown = ascii(str(source)[:80])
        raise RecipeError(
            f"{shown} is no recipe: name a .yaml, .yml or .md file or a zoo: stub, or give the text itself"
        )
    return path


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError(f"the recipe {str(path)!a} can't be read: {reason}") from error
    if len(data) > MAX_FILE_BYTES:
        raise RecipeError(f"{path.name} is larger than {MAX_FILE_BYTES // 1024} KiB")
    try:
        return _lines_of(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise RecipeError(
            f"the byte 0x{data[error.start]:02x} is no UTF-8; save {path.name} as UTF-8", line, column
        ) from error


def _lines_of(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _first_line(text: str) -> int:
    """Index of the first line that is not blank; 0 where all are."""
    return next((i for i, line in enumerate(text.split("\n")) if line.strip()), 0)


def _split(text: str, opening: int) -> Source | None:
    """Front matter and description; None where no pair of equal whole-line fences opens at line `opening`."""
    lines = text.split("\n")
    closing = _closing(lines, opening)
    if closing is None:
        return None
    yaml = "\n" * (opening + 1) + "\n".join(lines[opening + 1 : closing]) + "\n"
    rest = "\n".join(lines[closing + 1 :])
    return Source(text, yaml, rest.strip("\n"), _second_block(lines, closing + 1))


def _closing(lines: list[str], opening: int) -> int | None:
    fence = lines[opening].rstrip() if opening < len(lines) else ""
    if fence not in _FENCES:
        return None
    return next((i for i in range(opening + 1, len(lines)) if lines[i].rstrip() == fence), None)


def _second_block(lines: list[str], start: int) -> int | None:
    opening = next((i for i in range(start, len(lines)) if lines[i].strip()), len(lines))
    closing = _closing(lines, opening)
    if closing is None or not any(_GROUP_KEY.match(line) for line in lines[opening:closing]):
        return None
    return opening + 1
