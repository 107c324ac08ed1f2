"""Attention: from the heads' products, the softmax between them, or the Attention operator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.graph import FUSED, Array, Attribute, Graph, Node
from engine.passes.chains import LAYOUT, Chain, numbered, run
from engine.passes.masks import LOWEST, Mask, find_mask
from engine.passes.match import append, become, factor
from engine.passes.position_bias import find_position_bias
from engine.shapes import channels, is_tokens

_MAX_CHAIN = 16
_ABSORBING = -1e9
"""A number that replaces a masked score, rather than being added to it, must be at most this."""


@dataclass(frozen=True)
class _Heads:
    """One of q, k, v: `source` [batch, sequence, heads * head_dim], times `factor`, then quantized."""

    source: str
    factor: float
    quantization: tuple[float, int] | None


@dataclass(frozen=True)
class _Scores:
    """What the softmax reads: a product of `query` and `key` times `scale`, a mask, and a bias of positions."""

    query: str
    key: str
    transposed: bool
    scale: float
    mask: Mask
    bias: Array | None


class _Mismatch(Exception):  # noqa: N818 - control flow within this file
    """Why something that looks like attention is none."""


def fuse_attention(graph: Graph) -> None:
    """Attention(q, k, v[, mask[, bias]]){heads, scale, mask_value} over [batch, sequence, channels].

    With `query_scale`, `query_zero` and so on where q, k, v and the probabilities are quantized.
    """
    for node in graph.each("MatMul", "Attention"):
        if node.domain:
            continue
        try:
            if node.op_type == "MatMul":
                _from_products(graph, node)
            else:
                _from_operator(graph, node)
        except _Mismatch as reason:
            graph.notes[node.key] = str(reason)


def _from_products(graph: Graph, node: Node) -> None:
    softmax, quantization = _softmax_above(graph, node.inputs[0])
    if softmax is None:
        return
    rank = len(graph.shapes[0].get(softmax.key, ()))
    if rank != 4 or softmax.integer("axis", -1 if graph.opset >= 13 else 1) not in (-1, 3):
        raise _Mismatch("the softmax must run over the last of four dimensions")
    heads = graph.shapes[0][softmax.key][1]
    scores = _scores(graph, softmax.inputs[0], heads)
    query = _heads(graph, scores.query, heads, (0, 2, 1, 3))
    key = _heads(graph, scores.key, heads, (0, 2, 1, 3) if scores.transposed else (0, 2, 3, 1))
    value = _heads(graph, node.inputs[1], heads, (0, 2, 1, 3))
    scale = scores.scale * query.factor * key.factor
    _redefine(graph, node, heads, scale, scores.mask, (query, key, value), quantization, scores.bias)


def _softmax_above(graph: Graph, value: str) -> tuple[Node | None, tuple[float, int] | None]:
    """The softmax that makes the probabilities `value`, and how they are quantized."""
    quantization = None
    fake = graph.made_by(value, "FakeQuantize")
    if fake is not None:
        quantization, value = _parameters(fake), fake.inputs[0]
    guard = graph.made_by(value, "Where")
    if guard is not None:
        test = graph.made_by(guard.inputs[0], "IsNaN")
        if test is not None and test.inputs[0] == guard.inputs[2] and graph.scalar(guard.inputs[1]) == 0:
            value = guard.inputs[2]
    return graph.made_by(value, "Softmax"), quantization


def _parameters(fake: Node) -> tuple[float, int]:
    return fake.number("scale"), fake.integer("zero_point")


def _scores(graph: Graph, value: str, heads: int) -> _Scores:
    """Walks up from the softmax to the first product."""
    scale, mask = 1.0, Mask(None, 0.0)
    bias: Array | None = None
    for _ in range(_MAX_CHAIN):
        node = graph.producer(value)
        scaled = factor(graph, node)
        if node is None or node.op_type == "FakeQuantize":
            break
        if node.op_type == "MatMul" and not node.domain:
            return _Scores(node.inputs[0], node.inputs[1], False, scale, mask, bias)
        biased = _biased(graph, node, heads) if bias is None else None
        if biased is not None:
            value, bias = biased[0], biased[1] * np.float32(scale)
        elif scaled is not None:
            value, scale = scaled[0], scale * scaled[1]
        elif node.op_type in ("Add", "Where") and mask.input is None:
            value, found = _masked(graph, node)
            if found.input is not None and scale <= 0:
                raise _Mismatch(f"masked scores can't be scaled by {scale}")
            mask = Mask(found.input, max(found.value * scale, LOWEST))
        else:
            break
    raise _Mismatch("the softmax's input is no scaled and masked product of queries and keys")


def _biased(graph: Graph, node: Node, heads: int) -> tuple[str, Array] | None:
    """The scores to which `node` adds a bias of positions, and the bias."""
    for scores, other in (node.inputs, node.inputs[::-1]) if node.op_type == "Add" else ():
        bias = find_position_bias(graph, other, heads)
        if bias is not None and bias.any():
            return scores, bias
    return None


def _masked(graph: Graph, node: Node) -> tuple[str, Mask]:
    """The scores below a mask, and the mask."""
    if node.op_type == "Add":
        for scores, mask in (node.inputs, node.inputs[::-1]):
            found = find_mask(graph, mask, graph.shapes[0][node.key])
            if found is not None:
                return scores, found
    else:
        found, scores = _replacing_mask(graph, node)
        if found is not None:
            return scores, found
    raise _Mismatch("the mask is none that only hides padding, or it depends on more than one input")


def _replacing_mask(graph: Graph, node: Node) -> tuple[Mask | None, str]:
    """Where(condition, number, scores), either way round, as a mask."""
    for scores, number, inverted in ((node.inputs[2], node.inputs[1], True), (node.inputs[1], node.inputs[2], False)):
        value = graph.scalar(number)
        if value is not None and value <= _ABSORBING:
            found = find_mask(graph, node.inputs[0], graph.shapes[0][node.key], value, inverted)
            return found, scores
    return None, ""


def _heads(graph: Graph, value: str, heads: int, perm: tuple[int, ...]) -> _Heads:
    """Follows `value`, whose heads were split off and moved by `perm`, up to where they lie in the channels."""
    nodes: list[Node] = []
    ends: list[str] = []
    scale, quantization = 1.0, None
    for _ in range(_MAX_CHAIN):
        node = graph.producer(value)
        scaled = factor(graph, node)
        if node is not None and node.op_type == "FakeQuantize" and quantization is None:
            quantization = _parameters(node)
            value = node.inputs[0]
        elif is_tokens(graph, value) and _moves_heads(graph, value, nodes, ends, heads, perm):
            return _Heads(value, scale, quantization)
        elif node is not None and node.op_type in LAYOUT and not node.domain:
            nodes.append(node)
            ends.append(value)
            value = node.inputs[0]
        elif scaled is not None and scaled[1] > 0:
            value, scale = scaled[0], scale * scaled[1]
            if quantization is not None:
                quantization = (quantization[0] / scaled[1], quantization[1])
        else:
            break
    raise _Mismatch(f"{value!r} is not [batch, sequence, channels] split into {heads} heads")


def _moves_heads(
    graph: Graph, source: str, nodes: list[Node], ends: list[str], heads: int, perm: tuple[int, ...]
) -> bool:
    size = channels(graph, source)
    if size is None or size % heads:
        return False
    chain = Chain(source, tuple(reversed(nodes)), tuple(reversed(ends)))
    for probe in range(len(graph.shapes)):
        before = numbered(graph, source, probe)
        after = run(graph, chain, before, probe)
        expected = before.reshape(*before.shape[:2], heads, size // heads).transpose(perm)
        if after is None or not np.array_equal(after.reshape(-1), expected.reshape(-1)):
            return False
    return True


def _from_operator(graph: Graph, node: Node) -> None:
    if len(node.inputs) > 4 and any(node.inputs[4:]):
        raise _Mismatch("attention with a cache can't be run")
    if node.integer("is_causal", 0) or node.number("softcap", 0.0) or len(node.outputs) > 1:
        raise _Mismatch("causal attention, softcap and further outputs can't be run")
    shape = graph.shapes[0].get(node.inputs[0], ())
    heads = shape[1] if len(shape) == 4 else node.integer("q_num_heads", 0)
    if len(shape) == 3 and node.integer("kv_num_heads", 0) != heads:
        raise _Mismatch("queries and keys must have the same number of heads")
    perm = (0, 2, 1, 3) if len(shape) == 4 else (0, 1, 2, 3)
    parts = [_heads(graph, name, heads, perm) for name in node.inputs[:3]]
    size = channels(graph, parts[0].source)
    if not heads or size is None:
        raise _Mismatch("the Attention operator needs a fixed number of heads")
    scale = node.number("scale", 1 / math.sqrt(size // heads))
    mask: Mask | None = Mask(None, 0.0)
    if len(node.inputs) > 3 and node.inputs[3]:
        batch, length = graph.shapes[0][parts[0].source][:2]
        mask = find_mask(graph, node.inputs[3], (batch, heads, length, length))
    if mask is None:
        raise _Mismatch("the mask is none that only hides padding, or it depends on more than one input")
    scale *= parts[0].factor * parts[1].factor
    _redefine(graph, node, heads, scale, mask, (parts[0], parts[1], parts[2]), None)


def _redefine(
    graph: Graph,
    node: Node,
    heads: int,
    scale: float,
    mask: Mask,
    parts: tuple[_Heads, _Heads, _Heads],
    probabilities: tuple[float, int] | None,
    bias: Array | None = None,
) -> None:
    size = channels(graph, parts[2].source)
    if size is None or any(channels(graph, part.source) != size for part in parts):
        raise _Mismatch("queries, keys and values must have the same channels")
    if not math.isfinite(np.float32(scale)):
        raise _Mismatch(f"the scores can't be scaled by {scale}")
    if parts[2].factor != 1.0:
        raise _Mismatch("scaled values can't be run")
    attributes: dict[str, Attribute] = {"heads": heads, "scale": scale, "mask_value": mask.value}
    if probabilities is not None:
        if bias is not None:
            raise _Mismatch("quantized attention can't have a bias of positions")
        if any(part.quantization is None for part in parts):
            raise _Mismatch("quantized probabilities need quantized queries, keys and values")
        if size // heads % 4:
            raise _Mismatch(f"quantized heads need a multiple of 4 channels, these have {size // heads}")
        attributes["probability_scale"], attributes["probability_zero"] = probabilities
    inputs = [_input(graph, part) for part in parts] + ([mask.input] if mask.input else [])
    if bias is not None:
        inputs += [""] * (mask.input is None) + [graph.add_constant(node.key, bias)]
    result = _add_attention(graph, node, inputs, attributes)
    _give_back(graph, node, result, heads, size // heads)


def _input(graph: Graph, part: _Heads) -> str:
    if part.quantization is None:
        return part.source
    scale, zero = part.quantization
    name = graph.new_name(part.source)
    node = Node("FakeQuantize", (part.source,), (name,), name, FUSED, {"scale": scale, "zero_point": zero})
    return graph.add(node, [shapes[part.source] for shapes in graph.shapes])


def _add_attention(graph: Graph, node: Node, inputs: list[str], attributes: dict[str, Attribute]) -> str:
    name = graph.new_name(node.key)
    fused = Node("Attention", tuple(inputs), (name,), node.name, FUSED, attributes)
    return graph.add(fused, [shapes[inputs[0]] for shapes in graph.shapes])


def _give_back(graph: Graph, node: Node, result: str, heads: int, head_dim: int) -> None:
    """Lets `node` make what it made before of `result`, in whose channels the heads lie."""
    if len(graph.shapes[0][node.key]) == 3:
        graph.substitute(node.key, result)
        return
    target: Array = np.array([0, 0, heads, head_dim], dtype=np.int64)
    split = append(graph, "Reshape", [result, graph.add_constant(result, target)])
    become(graph, node, "Transpose", [split], perm=(0, 2, 1, 3))
