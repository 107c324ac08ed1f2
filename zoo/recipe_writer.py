"""The canonical text of a recipe: tags with block mappings, one list of modifiers, every value on one line.

Written so that YAML 1.1 loaders, SparseML's among them, read the same values: numbers carry a dot, doubtful text is
quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from zoo.modifiers import Modifier
from zoo.recipe_variables import Plain

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WORDS_OF_YAML = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def write_yaml(variables: Mapping[str, Plain], modifiers: Iterable[Modifier], metadata: Mapping[str, Plain]) -> str:
    """YAML text of the parts of a recipe, ending in a line break."""
    lines = [f"{_text(name)}: {_flow(value)}" for name, value in (*variables.items(), *metadata.items())]
    items = [line for modifier in modifiers for line in _item(modifier)]
    return "\n".join([*lines, "modifiers:" if items else "modifiers: []", *items]) + "\n"


def _item(modifier: Modifier) -> list[str]:
    fields = modifier.canonical_fields()
    if not fields:
        return [f"  - !{modifier.name} {{}}"]
    return [f"  - !{modifier.name}", *(f"      {_text(name)}: {_flow(value)}" for name, value in fields.items())]


def _flow(value: Plain) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(key)}: {_flow(item)}' for key, item in value.items())}}}"
    return _text(value)


def _float(value: float) -> str:
    mantissa, exponent, digits = repr(value).partition("e")
    return (mantissa if "." in mantissa else mantissa + ".0") + exponent + digits


def _text(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    return f'"{"".join(_escaped(character) for character in value)}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"
