"""Tensors of ONNX files that may be damaged or made to do harm: their bytes, where those lie, and initializers."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine import ModelError
from engine.compiler import compile_graph
from engine.graph import Array
from engine.onnx_reader import parse, read
from engine.reference import run_graph
from tests.engine.test_onnx_reader import refused, tiny


class TestRow86Tensors:
    def test_row_86_raw_data_of_another_length(self) -> None:
        for data in (b"", b"\0" * 31, b"\0" * 33, b"\0" * 36):
            model = tiny()
            model.graph.initializer[1].raw_data = data
            refused(model, "'w'")

    def test_row_86_raw_and_typed_data(self) -> None:
        model = tiny()
        model.graph.initializer[1].float_data.extend([1.0] * 8)
        refused(model, "'w'", "float_data")

    def test_row_86_wrong_typed_field(self) -> None:
        model = tiny()
        model.graph.initializer[1].ClearField("raw_data")
        model.graph.initializer[1].int64_data.extend([1] * 8)
        refused(model, "'w'", "int64_data")

    def test_row_86_typed_data_of_another_length(self) -> None:
        model = tiny()
        model.graph.initializer[1].ClearField("raw_data")
        model.graph.initializer[1].float_data.extend([1.0] * 7)
        refused(model, "'w'")

    def test_row_86_number_out_of_range(self) -> None:
        model = tiny()
        tensor = helper.make_tensor("w", TensorProto.INT8, [4, 2], [0] * 8)
        tensor.int32_data[3] = 300
        model.graph.initializer[1].CopyFrom(tensor)
        refused(model, "'w'", "range")

    def test_row_86_strings_and_small_types(self) -> None:
        for kind in (TensorProto.STRING, TensorProto.INT4, TensorProto.BFLOAT16, TensorProto.UNDEFINED, 77):
            model = tiny()
            model.graph.initializer[1].data_type = kind
            refused(model, "'w'", "element type")

    @pytest.mark.parametrize(
        "dtype", [np.float32, np.float64, np.float16, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_]
    )
    def test_row_86_raw_and_typed_data_read_alike(self, dtype: Any) -> None:
        array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
        raw = numpy_helper.from_array(array, "c")
        kind = raw.data_type
        values: list[Any] = array.reshape(-1).tolist()
        typed = helper.make_tensor("c", kind, array.shape, values)
        for tensor in (raw, typed):
            model = tiny()
            model.graph.initializer.append(tensor)
            found = parse(model.SerializeToString()).constants["c"]
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, array)


class TestRow87ExternalData:
    def write(self, folder: Path, **entries: str) -> Path:
        """The tiny model with its weight in weights.bin; `entries` replace or add keys."""
        (folder / "weights.bin").write_bytes(np.ones((4, 2), np.float32).tobytes() + bytes(64))
        model = tiny()
        tensor = model.graph.initializer[1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": "weights.bin", "offset": "0", "length": "32", **entries}.items():
            tensor.external_data.add(key=key, value=value)
        path = folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def test_row_87_good_external_data(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        np.testing.assert_array_equal(read(path).constants["w"], np.ones((4, 2), np.float32))
        digest = hashlib.sha1((tmp_path / "weights.bin").read_bytes(), usedforsecurity=False).hexdigest()
        assert read(self.write(tmp_path, checksum=digest)).constants["w"].shape == (4, 2)

    @pytest.mark.parametrize(
        "entries",
        [
            {"location": "../weights.bin"},
            {"location": "sub/../../weights.bin"},
            {"location": "/etc/hostname"},
            {"location": "missing.bin"},
            {"location": ""},
            {"location": "..\\weights.bin"},
            {"location": "weights.bin\0"},
            {"location": "."},
            {"offset": "-4"},
            {"offset": "1e3"},
            {"offset": "90"},
            {"offset": "9" * 30},
            {"length": "-1"},
            {"length": "31"},
            {"length": "9223372036854775807"},
            {"checksum": "0" * 40},
            {"surprise": "1"},
        ],
        ids=repr,
    )
    def test_row_87_refused(self, tmp_path: Path, entries: dict[str, str]) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "weights.bin").write_bytes(bytes(96))
        path = self.write(folder, **entries)
        with pytest.raises(ModelError, match="'w'"):
            read(path)

    def test_row_87_links_are_refused(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside.bin"
        outside.write_bytes(bytes(96))
        (tmp_path / "m" / "sub").mkdir(parents=True)
        folder = tmp_path / "m"
        (folder / "soft.bin").symlink_to(outside)
        os.link(outside, folder / "hard.bin")
        (folder / "linked").symlink_to(tmp_path)
        os.mkfifo(folder / "pipe")
        for location in ("soft.bin", "hard.bin", "linked/outside.bin", "sub", "pipe"):
            with pytest.raises(ModelError, match="'w'"):
                read(self.write(folder, location=location))

    def test_row_87_overlapping_ranges(self, tmp_path: Path) -> None:
        path = self.write(tmp_path)
        model = onnx.load(path, load_external_data=False)
        other = model.graph.initializer.add()
        other.CopyFrom(model.graph.initializer[1])
        other.name = "w2"
        path.write_bytes(model.SerializeToString())
        assert read(path).constants["w2"].shape == (4, 2)
        other.external_data[1].value = "4"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="overlap"):
            read(path)

    def test_row_87_model_from_memory(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="memory"):
            parse(self.write(tmp_path).read_bytes())


class TestRow90Initializers:
    def run(self, model: onnx.ModelProto) -> dict[str, Array]:
        return run_graph(parse(model.SerializeToString()), {"ids": np.zeros((1, 2), np.int64)})

    def test_row_90_initializer_that_is_an_input_too(self) -> None:
        model = tiny()
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 2]))
        graph = parse(model.SerializeToString())
        assert [i.name for i in graph.inputs] == ["ids"]
        assert compile_graph(graph).inputs[0].name == "ids"

    def test_row_90_unused_initializer(self) -> None:
        model = tiny()
        model.graph.initializer.append(numpy_helper.from_array(np.ones(3), "unused"))
        assert compile_graph(parse(model.SerializeToString())).steps

    def test_row_90_empty_optional_input(self) -> None:
        model = tiny()
        clip = helper.make_node("Clip", ["y", "", "top"], ["z"], name="clip")
        model.graph.node.append(clip)
        model.graph.initializer.append(numpy_helper.from_array(np.array(2.5, np.float32), "top"))
        model.graph.output[0].name = "z"
        np.testing.assert_array_equal(self.run(model)["z"], np.full((1, 2, 2), 2.5, np.float32))
        refused(model, "clip")

    def test_row_90_output_that_is_an_initializer_or_an_input(self) -> None:
        model = tiny()
        model.graph.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [2]))
        np.testing.assert_array_equal(self.run(model)["b"], np.zeros(2, np.float32))
        refused(model, "'b'")
        model.graph.output[1].name = "ids"
        np.testing.assert_array_equal(self.run(model)["ids"], np.zeros((1, 2), np.int64))
        refused(model, "'ids'")
