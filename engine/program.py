"""The typed program between the graph compiler and the plan file.

`lower` turns an optimised graph into a `Program`; `plan` packs its constants and writes it as a plan. Every
activation is a `Buffer` with one row per token. Tokens of a batch lie end to end, each sequence padded to a
whole tile of 16 tokens, so that a kernel keeps one token in each lane and no lane ever depends on another.

Layouts of a buffer with C channels (token t, channel c, tile = t // 16, lane = t % 16):

    f32   [tile][C][16]             float32
    u8    [tile][ceil(C/4)][16][4]  uint8, real value = (q - zero_point) * scale

Weights here are plain NumPy arrays of any strides, output rows first: `W[N, K]`; packing belongs to `pack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

BufferId = int
Activation = Literal["none", "gelu", "relu", "tanh", "gelu_tanh"]
Layout = Literal["sparse", "dense", "code"]
MAX_PRODUCTS = 66_311
"""Largest K for which K * 255 * 127 still fits an int32 sum."""


@dataclass(frozen=True)
class Quantization:
    """Per-tensor affine u8: real = (q - zero_point) * scale, as ONNX QuantizeLinear defines it."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Input:
    """A model input of shape [batch, sequence], int64 (int32 accepted) in the caller's array."""

    name: str


@dataclass(frozen=True)
class Buffer:
    """One activation. `rows` is "tokens" or "batch" (one row a sequence, after `Select`)."""

    name: str
    channels: int
    dtype: Literal["f32", "u8"]
    rows: Literal["tokens", "batch"] = "tokens"


@dataclass(frozen=True)
class Counted:
    """Row numbers as RoBERTa has them: padding takes the row `offset`, which is also its id in the input of index
    `input`; the n-th other token of a sequence takes the row `offset` + n, from 1.
    """

    input: int


@dataclass(frozen=True)
class Table:
    """An embedding table `[rows, C]`, float32, or int8 with a scale (real = q * scale).

    `source` is the index of the input that holds the row numbers, or "position" (the token's place in its
    sequence plus `offset`), or "constant" (row `offset` for every token), or an input whose tokens are counted.
    """

    values: NDArray[np.float32] | NDArray[np.int8]
    source: int | Counted | Literal["position", "constant"]
    scale: float = 1.0
    offset: int = 0


@dataclass(frozen=True)
class Embed:
    """out = ((tables[0] + tables[1]) + tables[2]), float32; at most four tables."""

    name: str
    tables: tuple[Table, ...]
    out: BufferId


@dataclass(frozen=True)
class LayerNorm:
    """y = (x - mean) / sqrt(var + epsilon) * gamma + beta over the channels, x = input (+ residual).

    Writes `out` (f32), `out_quantized` (u8), or both.
    """

    name: str
    input: BufferId
    residual: BufferId | None
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    epsilon: float
    out: BufferId | None
    out_quantized: BufferId | None
    quantization: Quantization | None


@dataclass(frozen=True)
class Quantize:
    """q = clamp(rint(x / scale) + zero_point, 0, 255), ties to even."""

    name: str
    input: BufferId
    out: BufferId
    quantization: Quantization


@dataclass(frozen=True)
class QuantizeTokens:
    """Bytes by a scale and a zero point for each token, found from its channels as ONNX's DynamicQuantizeLinear finds
    one for a whole tensor: x f32 [T, K], `out` u8 [T, K], `scales` f32 [T, 2] the scale and the zero point less 128.
    """

    name: str
    input: BufferId
    out: BufferId
    scales: BufferId


@dataclass(frozen=True)
class Rescale:
    """y = act((x - z offset) s + bias) with s and z of each token, the `scales` of QuantizeTokens; x and y f32 [T, N].

    x is a LinearU8's product of a token's bytes less 128 with a weight in real numbers, of which `offset[n]` is the sum
    of row n.
    """

    name: str
    input: BufferId
    scales: BufferId
    offset: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: Activation
    out: BufferId


@dataclass(frozen=True)
class Dequantize:
    """x = (q - zero_point) * scale, f32: for a value that was quantized and is then read as a float."""

    name: str
    input: BufferId
    out: BufferId
    quantization: Quantization


@dataclass(frozen=True)
class LinearF32:
    """y = act(x W^T + bias); x f32 [T, K], W [N, K], y f32 [T, N].

    Which kernel runs it, sparse or dense, is chosen when the plan is packed.
    """

    name: str
    input: BufferId
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: Activation
    out: BufferId
    layout: Layout | None = None


@dataclass(frozen=True)
class LinearU8:
    """y = act(((x - zero_point) W^T) * scale + bias) (+ residual); x u8 [T, K], W s8 [N, K], accumulated in int32.

    `scale[n]` = input scale times the weight scale of row n. `out` is f32, or u8 when `quantization` is given.
    `layout` says which kernel runs it; None leaves that to `cost_model`. Only an f32 `out` without an activation may
    have a `residual`, f32 [T, N].
    """

    name: str
    input: BufferId
    zero_point: int
    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: Activation
    out: BufferId
    quantization: Quantization | None
    layout: Layout | None = None
    residual: BufferId | None = None


@dataclass(frozen=True)
class Attention:
    """softmax(q k^T * scale + (0 where the mask is 1, `mask_value` where it is 0)) v, head by head.

    q, k, v have heads * head_dim channels, head-major. Either all are f32, or all are u8 with
    `q`, `k`, `v`, `probabilities` quantizations given: then both products are integer and the softmax's
    result is quantized by `probabilities` before the second one. `mask` is the index of an input or None. `bias`
    [heads, 2 L - 1], for f32 alone: element L - 1 + k - q is added to the score of query q and key k; sequences have at
    most L tokens then.
    """

    name: str
    query: BufferId
    key: BufferId
    value: BufferId
    heads: int
    head_dim: int
    scale: float
    mask: int | None
    mask_value: float
    out: BufferId
    query_quantization: Quantization | None = None
    key_quantization: Quantization | None = None
    value_quantization: Quantization | None = None
    probability_quantization: Quantization | None = None
    quantization: Quantization | None = None
    bias: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Add:
    """out = left + right, f32."""

    name: str
    left: BufferId
    right: BufferId
    out: BufferId


@dataclass(frozen=True)
class Activate:
    """out = activation(input), f32; gelu is the exact form 0.5 x (1 + erf(x / sqrt 2)), gelu_tanh the form
    0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""

    name: str
    input: BufferId
    activation: Activation
    out: BufferId


@dataclass(frozen=True)
class Select:
    """out[b] = input[first token of sequence b], f32; `out` has rows "batch"."""

    name: str
    input: BufferId
    out: BufferId


@dataclass(frozen=True)
class Output:
    """Copies a f32 buffer to the caller, row-major.

    `column` None: [batch, sequence, channels] (or [batch, channels] for rows "batch"); otherwise that one
    channel as [batch, sequence] (or [batch]).
    """

    name: str
    input: BufferId
    column: int | None = None


Step = (
    Embed
    | LayerNorm
    | Quantize
    | QuantizeTokens
    | Dequantize
    | LinearF32
    | LinearU8
    | Rescale
    | Attention
    | Add
    | Activate
    | Select
    | Output
)


@dataclass(frozen=True)
class Program:
    """A straight line of steps; each buffer is written by exactly one step before it is read."""

    inputs: tuple[Input, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
