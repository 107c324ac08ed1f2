"""What an ONNX file says of itself: versions, inputs, outputs, external data; read without loading it.

The file is a stranger's. Its messages are walked by the field numbers of onnx.proto; weights are skipped where they
lie, and nesting, parts and kept text are bounded. So a file of any size costs a few MiB and seconds, and no protobuf
library sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from registry.wire import Read, Span, Wire, WireError

MAX_DEPTH = 24  # a graph within a node is three levels
MAX_TEXT_BYTES = 4_096
MAX_KEPT_BYTES = 16 << 20
_MAIN = 2  # the depth of what lies in the model's own graph

_CHILDREN = {
    "model": {7: "graph", 8: "operators", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 11: "input", 12: "output", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass
class Outline:
    """A model's facts. `external` gives the least size in bytes that each file of external data must have."""

    ir_version: int = 0
    operators: dict[str, int] = field(default_factory=dict)
    graphs: int = 0
    nodes: int = 0
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    external: dict[str, int] = field(default_factory=dict)


def read_outline(read: Read, size_bytes: int) -> Outline:
    """The outline of a model that can be opened; `read(start, stop)` gives any of its bytes. Raises `WireError`."""
    walk = _Walk(Wire(read, size_bytes))
    walk.enter("model", walk.wire.whole, 0)
    found = walk.found
    if found.graphs > 1:
        raise WireError("it holds more than one graph")
    found.inputs = [name for name in found.inputs if name not in walk.initializers]
    for fact, name in (
        (found.ir_version, "IR version"),
        (found.operators, "operator set"),
        (found.graphs, "graph"),
        (found.inputs, "input"),
        (found.outputs, "output"),
    ):
        if not fact:
            raise WireError(f"it names no {name}")
    for names in (found.inputs, found.outputs):
        if "" in names or len(set(names)) < len(names):
            raise WireError("an input or output has no name, or that of another")
    return found


class _Walk:
    """Goes through a model once and keeps what an outline needs."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.found = wire, Outline()
        self.initializers: set[str] = set()
        self._kept_bytes = 0

    def enter(self, kind: str, span: Span, depth: int) -> None:
        """Notes a message and what lies in it."""
        if depth > MAX_DEPTH:
            raise WireError(f"it is nested deeper than {MAX_DEPTH} levels")
        if kind == "operators":
            self._operators(span)
        elif kind == "tensor":
            self._tensor(span, is_initializer=depth == _MAIN)
        elif kind in ("input", "output"):
            if depth == _MAIN:
                names = self.found.inputs if kind == "input" else self.found.outputs
                names.append(self._texts(span, 1).get(1, ""))
        else:
            self._inside(kind, span, depth)

    def _inside(self, kind: str, span: Span, depth: int) -> None:
        self.found.nodes += kind == "node"
        self.found.graphs += (kind, depth) == ("graph", 1)
        children = _CHILDREN[kind]
        for number, value in self.wire.fields(span):
            if number in children:
                self.enter(children[number], _span(value), depth + 1)
            elif (kind, number) == ("model", 1) and isinstance(value, int):
                self.found.ir_version = value

    def _operators(self, span: Span) -> None:
        domain, version = "", 0
        for number, value in self.wire.fields(span):
            if number == 1:
                domain = self._text(_span(value))
            elif number == 2 and isinstance(value, int):
                version = value
        self.found.operators[domain] = version

    def _tensor(self, span: Span, *, is_initializer: bool) -> None:
        entries = dict[str, str]()
        for number, value in self.wire.fields(span):
            if number == 13:
                entry = self._texts(_span(value), 1, 2)
                entries[entry.get(1, "")] = entry.get(2, "")
            elif number == 8 and is_initializer:
                self.initializers.add(self._text(_span(value)))
        if entries:
            self._external(entries)

    def _external(self, entries: dict[str, str]) -> None:
        location, numbers = entries.get("location", ""), [entries.get(key, "0") for key in ("offset", "length")]
        if not location or not all(n.isascii() and n.isdigit() and len(n) < 19 for n in numbers):
            raise WireError(f"its external data {location[:80]!a} has no place, or no sound offset and length")
        self.found.external[location] = max(self.found.external.get(location, 0), sum(map(int, numbers)))

    def _texts(self, span: Span, *numbers: int) -> dict[int, str]:
        """Those fields of a message, which are texts."""
        return {number: self._text(_span(value)) for number, value in self.wire.fields(span) if number in numbers}

    def _text(self, span: Span) -> str:
        size_bytes = span.stop - span.start
        self._kept_bytes += size_bytes
        if size_bytes > MAX_TEXT_BYTES or self._kept_bytes > MAX_KEPT_BYTES:
            raise WireError(f"its names are too long, at byte {span.start}")
        try:
            return self.wire.bytes(span).decode()
        except UnicodeDecodeError:
            raise WireError(f"a name at byte {span.start} is no UTF-8") from None


def _span(value: int | Span | None) -> Span:
    if not isinstance(value, Span):
        raise WireError("a part of it is of another type than in a model")
    return value
