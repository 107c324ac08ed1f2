"""Reads an ONNX file, which may come from anybody, into a `Graph`.

Every size is checked before memory is asked for, and every complaint is a `ModelError` that names the tensor or
the node. Weights are read straight from the file (see `onnx_weights`), or by `external_data` from others.
"""

from __future__ import annotations

import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no annotations
from onnx import TensorProto

from engine.errors import ModelError
from engine.external_data import ExternalFiles
from engine.graph import FUSED, Array, Attribute, Graph, GraphInput, Node, Opaque
from engine.onnx_weights import Blob, take_weights_out

MAX_FILE_BYTES = 2**31 - 1
"""Protocol buffers can't hold more; larger models keep their weights as external data."""
MAX_NODES = 100_000
MAX_RANK = 8
MAX_ELEMENTS = 2**31
MIN_OPSET, MAX_OPSET = 11, 25
MIN_IR, MAX_IR = 4, 13

_T = TensorProto
_DTYPES: dict[int, np.dtype[Any]] = {
    _T.FLOAT: np.dtype(np.float32),
    _T.UINT8: np.dtype(np.uint8),
    _T.INT8: np.dtype(np.int8),
    _T.UINT16: np.dtype(np.uint16),
    _T.INT16: np.dtype(np.int16),
    _T.INT32: np.dtype(np.int32),
    _T.INT64: np.dtype(np.int64),
    _T.BOOL: np.dtype(np.bool_),
    _T.FLOAT16: np.dtype(np.float16),
    _T.DOUBLE: np.dtype(np.float64),
    _T.UINT32: np.dtype(np.uint32),
    _T.UINT64: np.dtype(np.uint64),
}
_TYPED_FIELDS: dict[int, str] = {
    _T.FLOAT: "float_data",
    _T.DOUBLE: "double_data",
    _T.INT64: "int64_data",
    _T.UINT32: "uint64_data",
    _T.UINT64: "uint64_data",
}
_ALL_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def read(path: str | os.PathLike[str]) -> Graph:
    """Reads the ONNX file at `path`, its external data from the same folder.

    Raises ModelError for whatever is not a well-formed model: damage, sizes that don't fit, names that clash.
    Operators are not judged here.
    """
    try:
        with _open(path) as file:
            status = os.fstat(file.fileno())
            graph = _parse(file, status.st_size, Path(path).parent)
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror}") from error
    graph.files[Path(path).name] = status
    return graph


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(handle)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "not a regular file"
    elif status.st_size > MAX_FILE_BYTES:
        problem = f"{status.st_size} bytes; an ONNX file holds at most {MAX_FILE_BYTES}"
    if problem:
        os.close(handle)
        raise ModelError(f"{path}: {problem}")
    return os.fdopen(handle, "rb")


def parse(data: bytes, folder: str | os.PathLike[str] | None = None) -> Graph:
    """Reads a model from memory; without a `folder`, external data is refused."""
    return _parse(io.BytesIO(data), len(data), folder)


def _parse(file: BinaryIO, size_bytes: int, folder: str | os.PathLike[str] | None) -> Graph:
    if size_bytes == 0:
        raise ModelError("the model file is empty; fetch or export it again")
    skeleton = take_weights_out(file, size_bytes)
    try:
        model = onnx.ModelProto.FromString(skeleton.model)
    except (DecodeError, RecursionError) as error:
        raise ModelError(
            "the file is no ONNX model, or it is damaged or nested too deep; fetch or export it again"
        ) from error
    opset = _opset(model)
    with ExternalFiles(None if folder is None else Path(folder)) as files:
        graph = _graph(model.graph, opset, files, _weights(file, skeleton.blobs))
        graph.files.update(files.opened)
        return graph


def _weights(file: BinaryIO, blobs: Sequence[Blob | None]) -> Iterator[memoryview | None]:
    """The raw data of each initializer that was taken out of the file, else None, for ever."""
    for blob in blobs:
        if blob is None:
            yield None
            continue
        data = memoryview(bytearray(blob.size))
        file.seek(blob.offset)
        if file.readinto(data) != blob.size:  # type: ignore[attr-defined]  # every seekable binary file has it
            raise ModelError("the model file became shorter while it was read")
        yield data
    yield from repeat(None)


def _opset(model: onnx.ModelProto) -> int:
    if not MIN_IR <= model.ir_version <= MAX_IR:
        raise ModelError(f"IR version {model.ir_version}; versions {MIN_IR} to {MAX_IR} can be read")
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    domains = Counter(entry.domain for entry in model.opset_import)
    twice = [domain for domain, count in domains.items() if count > 1]
    if len(versions) != 1 or twice:
        raise ModelError("opset_import must name each operator set once, the default one among them")
    if not MIN_OPSET <= versions[0] <= MAX_OPSET:
        raise ModelError(f"opset {versions[0]}; opsets {MIN_OPSET} to {MAX_OPSET} can be read: export it again")
    return int(versions[0])


def _graph(proto: onnx.GraphProto, opset: int, files: ExternalFiles, weights: Iterator[memoryview | None]) -> Graph:
    if len(proto.node) > MAX_NODES:
        raise ModelError(f"{len(proto.node)} nodes; at most {MAX_NODES} can be read")
    if proto.sparse_initializer:
        raise ModelError("sparse initializers can't be read; store the weights dense, zeros included")
    constants = _initializers(proto.initializer, files, weights)
    nodes = []
    for node in proto.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            constants[_constant_name(node, constants)] = _constant(node, files)
        else:
            nodes.append(_node(node, files))
    inputs = [_input(info) for info in proto.input if info.name not in constants]
    _refuse_duplicates("input", [info.name for info in proto.input])
    _refuse_duplicates("output", [info.name for info in proto.output])
    if not proto.output:
        raise ModelError("the graph has no outputs")
    graph = Graph(inputs, {info.name: info.name for info in proto.output}, constants, nodes, opset)
    graph.sort()
    graph.check()
    return graph


def _initializers(
    tensors: Iterable[TensorProto], files: ExternalFiles, weights: Iterator[memoryview | None]
) -> dict[str, Array]:
    constants: dict[str, Array] = {}
    for tensor, raw_data in zip(tensors, weights, strict=False):
        if not tensor.name:
            raise ModelError("an initializer has no name")
        if tensor.name in constants:
            raise ModelError(f"two initializers are called {tensor.name!r}")
        constants[tensor.name] = _array(tensor, tensor.name, files, raw_data)
    return constants


def _refuse_duplicates(what: str, names: Sequence[str]) -> None:
    for name, count in Counter(names).items():
        if not name:
            raise ModelError(f"an {what} of the graph has no name")
        if count > 1:
            raise ModelError(f"two {what}s of the graph are called {name!r}")


def _input(info: onnx.ValueInfoProto) -> GraphInput:
    if info.type.WhichOneof("value") != "tensor_type":
        raise ModelError(f"the input {info.name!r} is no tensor")
    tensor = info.type.tensor_type
    if tensor.elem_type not in _DTYPES:
        raise ModelError(f"the input {info.name!r} has element type {tensor.elem_type}, which can't be read")
    if len(tensor.shape.dim) > MAX_RANK:
        raise ModelError(f"the input {info.name!r} has more than {MAX_RANK} dimensions")
    dims: list[int | None] = []
    for dim in tensor.shape.dim:
        fixed = dim.WhichOneof("value") == "dim_value"
        if fixed and not 0 < dim.dim_value <= MAX_ELEMENTS:
            raise ModelError(f"the input {info.name!r} has a dimension of {dim.dim_value}")
        dims.append(dim.dim_value if fixed else None)
    return GraphInput(info.name, _DTYPES[tensor.elem_type], tuple(dims))


def _node(proto: onnx.NodeProto, files: ExternalFiles) -> Node:
    label = f"{proto.name or '(unnamed)'} [{proto.op_type}]"
    if not proto.op_type:
        raise ModelError(f"the node {label} has no operator")
    if proto.domain == FUSED:
        raise ModelError(f"the node {label} is of the domain {FUSED!r}, which no file may use")
    if not any(proto.output):
        raise ModelError(f"the node {label} has no outputs")
    _refuse_duplicates(f"attribute of {label}", [a.name for a in proto.attribute])
    attributes = {a.name: _attribute(a, label, files) for a in proto.attribute}
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return Node(proto.op_type, tuple(proto.input), tuple(proto.output), proto.name, domain, attributes)


def _attribute(proto: onnx.AttributeProto, label: str, files: ExternalFiles) -> Attribute:
    kinds = onnx.AttributeProto
    match proto.type:
        case kinds.INT:
            return int(proto.i)
        case kinds.FLOAT:
            return float(proto.f)
        case kinds.STRING:
            return str(proto.s, "utf-8", errors="backslashreplace")
        case kinds.INTS:
            return tuple(proto.ints)
        case kinds.FLOATS:
            return tuple(proto.floats)
        case kinds.STRINGS:
            return tuple(s.decode("utf-8", errors="backslashreplace") for s in proto.strings)
        case kinds.TENSOR:
            return _array(proto.t, f"{label}.{proto.name}", files)
        case kinds.GRAPH | kinds.GRAPHS:
            return Opaque("subgraph")
        case _:
            return Opaque(f"attribute of type {proto.type}")


def _constant_name(proto: onnx.NodeProto, constants: dict[str, Array]) -> str:
    if len(proto.output) != 1 or not proto.output[0]:
        raise ModelError(f"the Constant node {proto.name!r} must have one output")
    name = str(proto.output[0])
    if name in constants:
        raise ModelError(f"two constants are called {name!r}")
    return name


def _constant(proto: onnx.NodeProto, files: ExternalFiles) -> Array:
    dtypes = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if len(proto.attribute) != 1 or proto.input:
        raise ModelError(f"the Constant node of {proto.output[0]!r} must have one attribute and no inputs")
    name = proto.attribute[0].name
    value = _attribute(proto.attribute[0], proto.output[0], files)
    if name == "value" and isinstance(value, np.ndarray):
        return value
    if name not in dtypes or isinstance(value, str | Opaque):
        raise ModelError(f"the Constant node of {proto.output[0]!r} holds {name!r}, which can't be read")
    return np.array(value, dtype=dtypes[name])


def _array(tensor: TensorProto, name: str, files: ExternalFiles, raw_data: memoryview | None = None) -> Array:
    """The tensor's numbers, as a read-only array of the declared shape.

    `raw_data` is the field of that name where it was taken out of the tensor.
    """
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise ModelError(f"the tensor {name!r} has element type {tensor.data_type}, which can't be read")
    shape = _tensor_shape(tensor, name)
    count = int(np.prod(shape, dtype=object)) if shape else 1
    filled = [field for field in _ALL_TYPED_FIELDS if len(getattr(tensor, field))]
    if tensor.HasField("segment"):
        raise ModelError(f"the tensor {name!r} is stored in segments, which can't be read")
    has_raw_data = raw_data is not None or tensor.HasField("raw_data")
    if tensor.data_location == _T.EXTERNAL:
        if filled or has_raw_data:
            raise ModelError(f"the tensor {name!r} has its data both in the file and outside")
        data = files.read(name, [(e.key, e.value) for e in tensor.external_data], count * dtype.itemsize)
        return _from_bytes(data, dtype, shape, name)
    if has_raw_data:
        if filled:
            raise ModelError(f"the tensor {name!r} has both raw_data and {filled[0]}")
        return _from_bytes(tensor.raw_data if raw_data is None else raw_data, dtype, shape, name)
    return _from_field(tensor, dtype, filled, count, name).reshape(shape)


def _tensor_shape(tensor: TensorProto, name: str) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if len(shape) > MAX_RANK:
        raise ModelError(f"the tensor {name!r} has {len(shape)} dimensions, at most {MAX_RANK} can be read")
    if any(dim < 0 or (dim == 0 and len(shape) > 1) for dim in shape):
        raise ModelError(f"the tensor {name!r} has the impossible shape {list(shape)}")
    count = 1
    for dim in shape:
        count *= dim
        if count > MAX_ELEMENTS:
            raise ModelError(f"the tensor {name!r} of shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return shape


def _from_bytes(data: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    whole = len(data) % dtype.itemsize == 0
    array = np.frombuffer(memoryview(data).toreadonly(), dtype=dtype.newbyteorder("<")) if whole else None
    if array is None or array.size != int(np.prod(shape, dtype=np.int64)):
        raise ModelError(f"the tensor {name!r} of shape {list(shape)} and type {dtype.name} holds {len(data)} bytes")
    if dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise ModelError(f"the tensor {name!r} of type bool holds bytes other than 0 and 1")
    return array.astype(dtype, copy=False).reshape(shape)


def _from_field(tensor: TensorProto, dtype: np.dtype[Any], filled: list[str], count: int, name: str) -> Array:
    expected = _TYPED_FIELDS.get(tensor.data_type, "int32_data")
    if filled not in ([], [expected]):
        raise ModelError(f"the tensor {name!r} of type {dtype.name} has its numbers in {', '.join(filled)}")
    numbers = getattr(tensor, expected)
    if len(numbers) != count:
        raise ModelError(f"the tensor {name!r} of shape {list(tensor.dims)} holds {len(numbers)} numbers")
    if expected != "int32_data" and expected != "uint64_data":
        return np.array(numbers, dtype=dtype)
    wide = np.array(numbers, dtype=np.int64 if expected == "int32_data" else np.uint64)
    if dtype == np.float16:
        return _narrow(wide, np.dtype(np.uint16), name).view(np.float16)
    return _narrow(wide, dtype, name)


def _narrow(wide: Array, dtype: np.dtype[Any], name: str) -> Array:
    narrow = wide.astype(dtype)
    if not np.array_equal(narrow.astype(wide.dtype), wide):
        raise ModelError(f"the tensor {name!r} of type {dtype.name} holds a number out of its range")
    return narrow
