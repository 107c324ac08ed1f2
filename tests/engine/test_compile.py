"""From a file to a running model: against ONNX Runtime, for the forms that exporters write."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import engine
from engine import ModelError, UnsupportedModelError
from engine.compiler import compile_graph, compile_onnx
from engine.graph import Array
from engine.model_source import find_model
from engine.onnx_reader import parse
from engine.reference import run_program
from tests.engine.models import VOCABULARY, Bert, feed, model_of, session

PADDING = 3
FORMS = ["fp32", "qdq", "qdqs8", "qdqpc", "qat", "integer", "everywhere"]


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize("form", FORMS)
def test_program_agrees_with_onnxruntime(form: str, sparsity: float) -> None:
    model = Bert(form, sparsity=sparsity).build()
    program = compile_graph(parse(model.SerializeToString()))
    running = session(model)
    names = [i.name for i in running.get_inputs()]
    for batch, sequence in ((1, 1), (3, 11), (1, 48)):
        inputs = feed(names, batch, sequence)
        found = run_program(program, inputs)
        expected = running.run(None, inputs)
        for info, array in zip(running.get_outputs(), expected, strict=True):
            # One rounding that goes the other way moves a logit by a step of the last quantization at most.
            np.testing.assert_allclose(found[info.name], array, atol=1e-4 if form == "fp32" else 0.05)
            assert np.mean(np.abs(found[info.name] - array)) < (1e-5 if form == "fp32" else 5e-3)


@pytest.mark.parametrize("outside", [True, False])
def test_half_precision_is_computed_in_single(outside: bool) -> None:
    """As near to the float32 model as ONNX Runtime's float16 is, or nearer; casts between floats change nothing."""
    plain = Bert(layers=1).build()
    half = convert_float_to_float16(plain, keep_io_types=outside, op_block_list=["Softmax", "Erf"])
    assert sum(node.op_type == "Cast" for node in half.graph.node) > 4
    inputs = feed([i.name for i in plain.graph.input], 3, 11)
    exact, rounded = session(plain).run(None, inputs), session(half).run(None, inputs)
    found = run_program(compile_graph(parse(half.SerializeToString())), inputs)
    for output, theirs, real in zip(plain.graph.output, rounded, exact, strict=True):
        assert 0 < np.abs(found[output.name] - real).max() <= 1.1 * np.abs(theirs - real).max()


@pytest.mark.parametrize("form", FORMS)
def test_compiled_model_agrees_with_its_program(form: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(Bert(form, sparsity=0.5).build().SerializeToString())
    program = compile_onnx(path)
    inputs = feed([i.name for i in program.inputs], 3, 11)
    compiled = engine.compile(path, num_cores=1)
    found, expected = compiled.run(inputs), run_program(program, inputs)
    assert list(compiled.output_names) == list(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-4 if form == "fp32" else 0.05)


def test_compile_takes_files_folders_and_plans(tmp_path: Path) -> None:
    from engine.plan import write_plan

    (tmp_path / "deployment").mkdir()
    path = tmp_path / "deployment" / "model.onnx"
    path.write_bytes(Bert(layers=1).build().SerializeToString())
    write_plan(compile_onnx(path), tmp_path / "model.plan")
    inputs = feed(["input_ids", "attention_mask", "token_type_ids"], 2, 5)
    results = [
        engine.compile(source, num_cores=1).run(inputs)["start_logits"]
        for source in (path, str(path), path.parent, tmp_path, tmp_path / "model.plan")
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_missing_models_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        find_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="zoo export"):
        engine.compile(tmp_path)


def test_public_names_are_there() -> None:
    assert engine.__all__ == sorted(engine.__all__)
    for name in engine.__all__:
        assert getattr(engine, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        engine.__getattr__("nothing")


def test_import_is_light() -> None:
    heavy = "{'onnx', 'torch', 'transformers', 'numpy', 'cffi', 'fastapi', 'httpx', 'tokenizers', 'zoo'}"
    check = f"import sys, engine; engine.ModelError; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


class TestRow88Quantization:
    """One quantized linear layer whose parameters are wrong in one way at a time."""

    def model(self, **changes: Any) -> onnx.ModelProto:
        random = np.random.default_rng(2)
        constants: dict[str, Array] = {
            "table": random.normal(0, 1, (VOCABULARY, 4)).astype(np.float32),
            "x_scale": np.array(0.02, np.float32),
            "x_zero": np.array(120, np.uint8),
            "w": random.integers(-127, 128, (4, 6)).astype(np.int8),
            "w_scale": np.linspace(0.01, 0.02, 6).astype(np.float32),
            "w_zero": np.zeros(6, np.int8),
        }
        axis = changes.pop("axis", 1)
        attributes = changes.pop("attributes", {})
        constants.update({name: np.asarray(array) for name, array in changes.items()})
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["x"], name="embed"),
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"], name="quantize"),
            helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"], name="dequantize"),
            helper.make_node(
                "DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], name="weight", axis=axis, **attributes
            ),
            helper.make_node("MatMul", ["d", "wd"], ["y"], name="product"),
        ]
        inputs, outputs = {"input_ids": ["b", "s"]}, {"y": ["b", "s", 6]}
        return model_of(nodes, inputs, outputs, constants, opset=21 if attributes else 13)

    def test_row_88_good_parameters(self) -> None:
        model = self.model()
        ids = feed(["input_ids"], 2, 5)
        found = run_program(compile_graph(parse(model.SerializeToString())), ids)["y"]
        np.testing.assert_allclose(found, session(model).run(None, ids)[0], atol=1e-5)

    @pytest.mark.parametrize("name", ["x_scale", "w_scale"])
    @pytest.mark.parametrize("value", [0.0, -0.01, np.nan, np.inf, 1e-40], ids=repr)
    def test_row_88_scale(self, name: str, value: float) -> None:
        scale = np.full(6, 0.01, np.float32) if name == "w_scale" else np.zeros((), np.float32)
        scale.reshape(-1)[-1:] = value
        self.refused(name, **{name: scale})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("x_zero", np.array(3, np.int32)),
            ("x_zero", np.array(3.0, np.float32)),
            ("x_zero", np.array(3, np.int64)),
            ("w_zero", np.zeros(6, np.uint8)),
            ("w_zero", np.zeros(6, np.float32)),
            ("w_scale", np.ones(6, np.int32)),
            ("w_scale", np.zeros(0, np.float32)),
        ],
    )
    def test_row_88_type(self, name: str, value: Array) -> None:
        self.refused(name, **{name: value})

    def test_row_88_zero_point_out_of_range(self) -> None:
        model = self.model()
        tensor = helper.make_tensor("x_zero", onnx.TensorProto.UINT8, [], [0])
        tensor.int32_data[0] = 256
        next(t for t in model.graph.initializer if t.name == "x_zero").CopyFrom(tensor)
        with pytest.raises(ModelError, match="x_zero"):
            compile_graph(parse(model.SerializeToString()))

    @pytest.mark.parametrize("axis", [2, -3, 99])
    def test_row_88_axis(self, axis: int) -> None:
        self.refused("w_scale", axis=axis)

    def test_row_88_length(self) -> None:
        self.refused("w_scale", w_scale=np.ones(5, np.float32), w_zero=np.zeros(5, np.int8))
        self.refused("w_zero", w_zero=np.zeros(5, np.int8))
        self.refused("w_scale", axis=0)
        self.refused("w_scale", w_scale=np.ones((2, 3), np.float32))

    def test_row_88_blocked(self) -> None:
        self.refused("w_scale", attributes={"block_size": 2})

    def refused(self, tensor: str, **changes: Any) -> None:
        with pytest.raises(ModelError, match=tensor):
            compile_graph(parse(self.model(**changes).SerializeToString()))


Export = Callable[[str, str, int], onnx.ModelProto]


@pytest.fixture(scope="session")
def export() -> Export:
    """Tiny random transformers, exported by torch; each once."""
    import torch
    import transformers

    torch.set_num_threads(1)
    made: dict[tuple[str, str, int], onnx.ModelProto] = {}
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 48}
    bert = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    distil = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
    roberta = {**bert, "pad_token_id": PADDING, "type_vocab_size": 1, "max_position_embeddings": 48 + PADDING + 1}
    families = {
        "Albert": (transformers.AlbertConfig, {**bert, "embedding_size": 16, "num_hidden_layers": 2}),
        "Bert": (transformers.BertConfig, bert),
        "Distil": (transformers.DistilBertConfig, distil),
        "Electra": (transformers.ElectraConfig, {**bert, "embedding_size": 16}),
        "MPNet": (transformers.MPNetConfig, {**bert, "max_position_embeddings": 50}),
        "Roberta": (transformers.RobertaConfig, roberta),
        "XLMRoberta": (transformers.XLMRobertaConfig, roberta),
    }

    def build(architecture: str, attention: str, opset: int) -> onnx.ModelProto:
        family = next(f for f in families if architecture.startswith(f))
        config, own = families[family]
        settings = config(**{**sizes, **own}, attn_implementation=attention)
        torch.manual_seed(0)
        model = getattr(transformers, architecture)(settings).eval()
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * 0.2
        names = ["input_ids", "attention_mask", "token_type_ids"][: 2 + (family in ("Albert", "Bert", "Electra"))]

        class Wrapped(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return tuple(self.model(**dict(zip(names, inputs, strict=True))).values())

        ids = torch.ones((2, 7), dtype=torch.long)
        if opset < 18:
            return traced(Wrapped(), names, ids, opset)
        shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
        program = torch.onnx.export(
            Wrapped(),
            tuple(ids for _ in names),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=(tuple(shape for _ in names),),
            input_names=names,
            verbose=False,
        )
        return program.model_proto

    def traced(module: torch.nn.Module, names: list[str], ids: torch.Tensor, opset: int) -> onnx.ModelProto:
        file = io.BytesIO()
        axes = {name: {0: "batch", 1: "sequence"} for name in names}
        torch.onnx.export(
            module,
            tuple(ids for _ in names),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=names,
            dynamic_axes=axes,
        )
        return onnx.load_model_from_string(file.getvalue())

    def once(*key: Any) -> onnx.ModelProto:
        if key not in made:
            made[key] = build(*key)
        return made[key]

    return once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "attention", "opset"),
    [
        ("BertForQuestionAnswering", "eager", 20),
        ("DistilBertForQuestionAnswering", "eager", 18),
        ("BertForSequenceClassification", "sdpa", 23),
        ("BertForQuestionAnswering", "sdpa", 14),
        ("AlbertForQuestionAnswering", "eager", 18),
        ("ElectraForQuestionAnswering", "sdpa", 20),
        ("MPNetForQuestionAnswering", "eager", 20),
        ("RobertaForSequenceClassification", "sdpa", 20),
        ("RobertaForQuestionAnswering", "eager", 17),
        ("XLMRobertaForTokenClassification", "eager", 20),
    ],
)
def test_exported_transformer_agrees_with_onnxruntime(
    export: Export, architecture: str, attention: str, opset: int
) -> None:
    model = export(architecture, attention, opset)
    program = compile_graph(parse(model.SerializeToString()))
    running = session(model, optimised=True)
    names = [i.name for i in running.get_inputs()]
    for batch, sequence in ((1, 1), (2, 7), (3, 48)):
        inputs = feed(names, batch, sequence)
        inputs["input_ids"][inputs["attention_mask"] == 0] = PADDING
        found = run_program(program, inputs)
        for info, expected in zip(running.get_outputs(), running.run(None, inputs), strict=True):
            assert found[info.name].shape == expected.shape
            np.testing.assert_allclose(found[info.name], expected, atol=1e-4)


def test_positions_that_depend_on_tokens_in_another_way_are_refused_by_name() -> None:
    """The engine counts tokens other than padding, as RoBERTa does; it has no step for positions that it looks up."""
    model = Bert(layers=1).build()
    gather = next(n for n in model.graph.node if n.op_type == "Gather" and n.input[0] == "position")
    gather.input[1] = "input_ids"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1), "padding"))
    for node in (
        helper.make_node("Equal", ["input_ids", "padding"], ["is_padding"], name="compare"),
        helper.make_node("Where", ["is_padding", "padding", "input_ids"], ["counted"], name="count"),
    ):
        model.graph.node.append(node)
    gather.input[1] = "counted"
    with pytest.raises(UnsupportedModelError, match="compare"):
        compile_graph(parse(model.SerializeToString()))
