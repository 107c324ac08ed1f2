"""The graph that the reader makes and the passes rewrite.

A value is named once, and a rewrite never changes what a name stands for: a pass gives a value a cheaper
definition with `redefine`, and what nobody reads any more is dropped by `prune`. Shapes that were inferred for
a name therefore stay true; only tokens that were counted in one row are counted by sequence again (`chains`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ModelError

Array = NDArray[Any]
Shape = tuple[int, ...]

FUSED = "sparrow"
"""Domain of the operators that the passes make; no file may use it."""


@dataclass(frozen=True)
class Opaque:
    """An attribute that no operator here reads, such as a subgraph; `kind` says what it is."""

    kind: str


Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | Array | Opaque


@dataclass(frozen=True)
class Node:
    """One operator. An absent optional input or output is the empty name."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""
    domain: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The first named output: what a graph files the node under."""
        return next(o for o in self.outputs if o)

    @property
    def label(self) -> str:
        """What messages call the node."""
        return f"{self.name or self.key} [{self.op_type}]"

    def number(self, name: str, default: float | None = None) -> float:
        """A numeric attribute; without a default it must be there."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise ModelError(f"{self.label}: attribute {name!r} must be a number")
        return float(value)

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute; without a default it must be there."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise ModelError(f"{self.label}: attribute {name!r} must be an integer")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string attribute; without a default it must be there."""
        value = self.attributes.get(name, default)
        if not isinstance(value, str):
            raise ModelError(f"{self.label}: attribute {name!r} must be a string")
        return value


@dataclass(frozen=True)
class GraphInput:
    """A model input; a dimension that the caller chooses is None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


class Graph:
    """Nodes in topological order, with constants as arrays.

    `outputs` maps each public output name to the value that it shows. `shapes` holds the shape of every value
    once for each probe of `shapes.annotate`. `notes` says, by node key, why a pass left a node alone. `files` are
    those that it was read from, by path beneath the model's folder, as they were when they were opened.
    """

    def __init__(
        self,
        inputs: Iterable[GraphInput],
        outputs: Mapping[str, str],
        constants: Mapping[str, Array],
        nodes: Iterable[Node],
        opset: int,
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = dict(outputs)
        self.constants = dict(constants)
        self.opset = opset
        self.shapes: tuple[dict[str, Shape], ...] = ()
        self.notes: dict[str, str] = {}
        self.files: dict[str, os.stat_result] = {}
        self._nodes: dict[str, Node] = {}
        self._producers: dict[str, str] = {}
        self._consumers: dict[str, dict[str, None]] = {}
        self._next_name = 0
        for node in nodes:
            self._attach(node)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, in the order in which they can run (after `sort`)."""
        return list(self._nodes.values())

    def each(self, *op_types: str) -> Iterator[Node]:
        """The nodes of these types, as they are when their turn comes: a pass may rewrite while it walks."""
        for key in list(self._nodes):
            node = self._nodes.get(key)
            if node is not None and node.op_type in op_types:
                yield node

    def producer(self, value: str) -> Node | None:
        """The node that makes `value`, or None for an input or a constant."""
        key = self._producers.get(value)
        return None if key is None else self._nodes[key]

    def consumers(self, value: str) -> list[Node]:
        """The nodes that read `value`, each once."""
        return [self._nodes[key] for key in self._consumers.get(value, ())]

    def is_output(self, value: str) -> bool:
        """True where the caller sees `value`."""
        return value in self.outputs.values()

    def constant(self, value: str) -> Array | None:
        """The array of a constant, or None."""
        return self.constants.get(value)

    def scalar(self, value: str) -> float | None:
        """The number in a constant of one element, or None."""
        array = self.constants.get(value)
        return None if array is None or array.size != 1 else float(array.reshape(-1)[0])

    def made_by(self, value: str, *op_types: str) -> Node | None:
        """The node that makes `value` when it is one of `op_types`."""
        node = self.producer(value)
        return node if node is not None and node.op_type in op_types else None

    def new_name(self, hint: str) -> str:
        """A name that nothing in the graph has."""
        while True:
            self._next_name += 1
            name = f"{hint}#{self._next_name}"
            if name not in self._producers and name not in self.constants:
                return name

    def add_constant(self, hint: str, array: Array) -> str:
        """Adds an array under a new name and returns that name."""
        name = self.new_name(hint)
        self.constants[name] = array
        for shapes in self.shapes:
            shapes[name] = array.shape
        return name

    def add(self, node: Node, shapes: Sequence[Shape]) -> str:
        """Adds a node with one new output, of these shapes (one a probe); returns the output's name."""
        self._attach(node)
        for known, shape in zip(self.shapes, shapes, strict=True):
            known[node.key] = shape
        return node.key

    def redefine(self, node: Node, op_type: str, inputs: Iterable[str], **attributes: Attribute) -> Node:
        """Gives the values that `node` makes a new definition, a fused operator over `inputs`."""
        new = Node(op_type, tuple(inputs), node.outputs, node.name, FUSED, attributes)
        return self.replace(node, new)

    def replace(self, node: Node, new: Node) -> Node:
        """Puts `new`, which makes the same first value, in the place of `node`."""
        self._disconnect(node)
        self._attach(new)
        return new

    def fix(self, node: Node, values: Mapping[str, Array]) -> None:
        """Lets constants take the place of all outputs of `node`."""
        self._disconnect(node)
        del self._nodes[node.key]
        self.constants.update((name, array) for name, array in values.items() if name)

    def substitute(self, old: str, new: str) -> None:
        """Lets every reader of `old` read `new`, which must stand for the same numbers."""
        for node in self.consumers(old):
            inputs = tuple(new if name == old else name for name in node.inputs)
            self.replace(node, Node(node.op_type, inputs, node.outputs, node.name, node.domain, node.attributes))
        for public, value in self.outputs.items():
            if value == old:
                self.outputs[public] = new

    def prune(self) -> None:
        """Drops nodes and constants that no output needs."""
        needed = set(self.outputs.values())
        pending = list(needed)
        keys: set[str] = set()
        while pending:
            node = self.producer(pending.pop())
            if node is None or node.key in keys:
                continue
            keys.add(node.key)
            fresh = [name for name in node.inputs if name and name not in needed]
            needed.update(fresh)
            pending.extend(fresh)
        for key in [key for key in self._nodes if key not in keys]:
            self._disconnect(self._nodes.pop(key))
        self.constants = {name: array for name, array in self.constants.items() if name in needed}

    def sort(self) -> None:
        """Orders the nodes so that each follows what it reads. Raises ModelError for a cycle."""
        ordered: dict[str, Node] = {}
        open_keys: set[str] = set()
        for root in self._nodes:
            pending = [root]
            while pending:
                key = pending[-1]
                waits = [k for k in self._reads(key) if k not in ordered]
                if key in ordered or not waits:
                    ordered[pending.pop()] = self._nodes[key]
                    open_keys.discard(key)
                elif key in open_keys:
                    raise ModelError(f"{self._nodes[key].label} waits for its own result: the graph has a cycle")
                else:
                    open_keys.add(key)
                    pending.extend(reversed(waits))
        self._nodes = ordered

    def _reads(self, key: str) -> list[str]:
        """Keys of the nodes whose results the node `key` reads."""
        return [self._producers[name] for name in self._nodes[key].inputs if name in self._producers]

    def check(self) -> None:
        """Raises ModelError where a name is undefined, defined twice or used before its definition."""
        known = {i.name for i in self.inputs} | set(self.constants)
        if len(known) < len(self.inputs) + len(self.constants):
            raise ModelError("a constant has the name of an input")
        for node in self._nodes.values():
            for name in node.inputs:
                if name and name not in known:
                    raise ModelError(f"{node.label} reads {name!r}, which nothing before it makes")
            for name in node.outputs:
                if name and name in known:
                    raise ModelError(f"{node.label} makes {name!r}, which exists already")
            known.update(name for name in node.outputs if name)
        for public, value in self.outputs.items():
            if value not in known:
                raise ModelError(f"the output {public!r} is made by no node")

    def _attach(self, node: Node) -> None:
        for name in node.outputs:
            if name and name in self._producers:
                raise ModelError(f"{node.label} makes {name!r}, which another node makes too")
        self._nodes[node.key] = node
        for name in node.outputs:
            if name:
                self._producers[name] = node.key
        for name in node.inputs:
            if name:
                self._consumers.setdefault(name, {})[node.key] = None

    def _disconnect(self, node: Node) -> None:
        for name in node.outputs:
            if name:
                del self._producers[name]
        for name in node.inputs:
            if name:
                self._consumers[name].pop(node.key, None)
