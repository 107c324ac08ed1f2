"""Weights taken out of a file before it is parsed: the same model, with each weight in memory once."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from engine import ModelError
from engine.onnx_reader import parse, read
from engine.onnx_weights import take_weights_out
from tests.engine.models import Bert, model_of


def weighty(sizes: list[int]) -> onnx.ModelProto:
    """A model with float32 vectors of these sizes, all added up."""
    constants = {f"w{i}": np.arange(i, size + i, dtype=np.float32) for i, size in enumerate(sizes)}
    return model_of([onnx.helper.make_node("Identity", ["x"], ["y"])], {"x": ["b", "s"]}, {"y": ["b", "s"]}, constants)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, its length in as many bytes as it takes."""
    length, head = len(content), [number << 3 | 2]
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length]) + content


def test_large_weights_are_left_in_the_file() -> None:
    data = weighty([10, 5000, 3, 1024]).SerializeToString()
    skeleton = take_weights_out(io.BytesIO(data), len(data))
    assert len(skeleton.model) < 1000
    assert [blob and blob.size for blob in skeleton.blobs] == [None, 20000, None, 4096]
    for i, blob in enumerate(skeleton.blobs):
        if blob is not None:
            found = np.frombuffer(data, np.float32, blob.size // 4, blob.offset)
            assert np.array_equal(found, np.arange(i, len(found) + i))


def test_the_model_reads_as_if_it_had_been_parsed_whole() -> None:
    model = Bert("qdq", layers=1).build()
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3000.0), "unused"))
    constants = parse(model.SerializeToString()).constants
    for tensor in model.graph.initializer:
        assert np.array_equal(constants[tensor.name], numpy_helper.to_array(tensor))
        assert not constants[tensor.name].flags.writeable


def test_parts_of_a_message_that_is_written_twice_are_merged() -> None:
    one, other = weighty([2000]), weighty([3, 4000])
    for tensor in other.graph.initializer:
        tensor.name = "v" + tensor.name
    del other.graph.node[:], other.graph.input[:], other.graph.output[:]
    constants = parse(one.SerializeToString() + field(7, other.graph.SerializeToString())).constants
    assert {name: array.size for name, array in constants.items()} == {"w0": 2000, "vw0": 3, "vw1": 4000}


@pytest.mark.parametrize("sizes", [(2000, 3000), (2, 3000), (2000, 3)])
def test_the_last_of_several_raw_data_counts(sizes: tuple[int, int]) -> None:
    tensors = [numpy_helper.from_array(np.full(size, size, np.float32), "w") for size in sizes]
    raw = field(9, tensors[0].raw_data) + tensors[1].SerializeToString()
    model = weighty([]).SerializeToString() + field(7, field(5, raw))
    assert np.array_equal(parse(model).constants["w"], np.full(sizes[1], sizes[1], np.float32))
    assert onnx.ModelProto.FromString(model).graph.initializer[0].raw_data == tensors[1].raw_data


def test_wrong_sizes_and_two_kinds_of_data_are_refused() -> None:
    model = weighty([2000])
    model.graph.initializer[0].dims[0] = 2001
    with pytest.raises(ModelError, match="holds 8000 bytes"):
        parse(model.SerializeToString())
    model.graph.initializer[0].dims[0] = 2000
    model.graph.initializer[0].float_data.append(1)
    with pytest.raises(ModelError, match="both raw_data and float_data"):
        parse(model.SerializeToString())
    model.graph.initializer[0].ClearField("float_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="both in the file and outside"):
        parse(model.SerializeToString())


def test_truncated_and_flipped_bytes_are_refused_or_still_a_model() -> None:
    data = weighty([1100, 2, 1500]).SerializeToString()
    random = np.random.default_rng(0)
    damaged = [data[: int(cut)] for cut in random.integers(1, len(data), 300)]
    for bit in random.integers(0, len(data) * 8, 500):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(changed))
    for content in damaged:
        try:
            parse(content)
        except ModelError:
            continue


@pytest.mark.parametrize("tail", [b"\x0b\x0c", b"\x80" * 20, b"\x3a\xff\xff\xff\xff\x0f", b"\x08" * 3])
def test_what_the_walk_does_not_know_is_left_to_the_parser(tail: bytes) -> None:
    data = weighty([2000]).SerializeToString() + tail
    skeleton = take_weights_out(io.BytesIO(data), len(data))
    assert skeleton.model == data
    assert not skeleton.blobs


def test_each_weight_is_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    onnx.save(weighty([16_000_000]), path)
    size = path.stat().st_size
    program = (
        "import resource, sys; from engine import onnx_reader\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"graph = onnx_reader.read({str(path)!r})\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.3 * size
    assert set(read(path).files) == {"big.onnx"}
