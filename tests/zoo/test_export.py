from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

import zoo.export
from zoo.errors import TrainingError
from zoo.export import export
from zoo.train.deploy import integers
from zoo.train.models import load_model
from zoo.train.pruning import magnitude_masks
from zoo.train.quantization import QuantizedEmbedding, QuantizedLinear, Scheme, quantize, set_observing

WORDS = (  # noqa: SIM905
    "the a who what where wrote it in by ada river ends sea north engine note paper 1843 ? . ,"
).split()
RECIPE = """modifiers:
  - !QuantizationModifier
      quantize_linear_activations: 0
      exclude_module_types: [LayerNorm]
"""
PER_CHANNEL = """modifiers:
  - !QuantizationModifier
      scheme: {weights: {symmetric: true, strategy: channel}}
"""
IGNORING = "modifiers:\n  - !QuantizationModifier {ignore: [classifier]}\n"
SAMPLES = [
    ("who wrote it ?", "ada wrote it in 1843 ."),
    ("where ends the river ?", "the river ends in the north sea ."),
]

torch.set_num_threads(1)


def save_tokenizer(folder: Path) -> None:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)


def bert() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=30, max_position_embeddings=64, initializer_range=0.3, **sizes)
    return BertForQuestionAnswering(config).eval()


def distilbert() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    return DistilBertForQuestionAnswering(DistilBertConfig(vocab_size=30, max_position_embeddings=64, **sizes)).eval()


def roberta() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = RobertaConfig(vocab_size=30, max_position_embeddings=66, type_vocab_size=1, pad_token_id=0, **sizes)
    return RobertaForQuestionAnswering(config).eval()


def prune(model: PreTrainedModel) -> None:
    weights = {n: p for n, p in model.named_parameters() if n.endswith("dense.weight")}
    with torch.no_grad():
        for name, mask in magnitude_masks(weights, 0.75, block=(1, 4)).items():
            weights[name].mul_(mask)


def calibrated(model: PreTrainedModel, scheme: Scheme) -> PreTrainedModel:
    quantize(model, scheme)
    model.train()
    with torch.no_grad():
        for seed in range(4):
            ids = torch.randint(4, 25, (4, 20), generator=torch.Generator().manual_seed(seed))
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    set_observing(model, False)
    return model.eval()


def save(model: PreTrainedModel, folder: Path, recipe: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    if recipe is not None:
        (folder / "recipe.yaml").write_text(recipe)
    return folder


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pruned and quantized, and exported to its deployment folder."""
    folder = tmp_path_factory.mktemp("quantized")
    model = bert()
    prune(model)
    save(calibrated(model, Scheme(exclude_types=frozenset({"LayerNorm"}))), folder, RECIPE)
    export(folder, samples=SAMPLES, num_export_samples=2, max_length=48)
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save(bert(), tmp_path_factory.mktemp("dense"))
    export(folder, max_length=48)
    return folder


def feed(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(seed).integers(4, 25, (batch, length))
    mask = np.ones_like(ids)
    mask[:, length - length // 4 :] = 0
    types = np.zeros_like(ids)
    types[:, length // 2 :] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def run_both(folder: Path, inputs: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    session = onnxruntime.InferenceSession(folder / "deployment" / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        outputs = load_model(folder)(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    return [outputs.start_logits.numpy(), outputs.end_logits.numpy()], session.run(
        ["start_logits", "end_logits"], inputs
    )


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 48), (3, 17), (5, 64)])
def test_row_81_dense_logits_agree_at_any_batch_and_length(dense: Path, batch: int, length: int) -> None:
    ours, theirs = run_both(dense, feed(batch, length))
    for mine, other in zip(ours, theirs, strict=True):
        assert np.abs(mine - other).max() < 1e-4


def test_row_81_quantized_logits_agree(quantized: Path) -> None:
    ours, theirs = run_both(quantized, feed(4, 32))
    kept = slice(0, 24)
    for mine, other in zip(ours, theirs, strict=True):
        difference = (mine - other)[:, kept]
        assert np.sqrt(np.square(difference).mean()) < 0.1 * mine[:, kept].std()


def initializers(folder: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(folder / "deployment" / "model.onnx").graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def test_row_81_weights_and_scales_are_those_of_training_and_zeros_stay_zero(quantized: Path) -> None:
    model = load_model(quantized)
    stored = initializers(quantized)
    layers = [m for m in model.modules() if isinstance(m, QuantizedLinear)]
    eight_bit = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 2]
    scales = {float(value) for value in stored.values() if value.dtype == np.float32 and value.ndim == 0}
    for layer in layers:
        wanted = integers(layer.weight, layer.weight_quantizer).t().numpy()
        assert any(np.array_equal(wanted, value) for value in eight_bit)
        assert float(layer.weight_quantizer.scale) in scales
        assert ((layer.weight.detach().numpy().T == 0) <= (wanted == 0)).all()
    tables = [m for m in model.modules() if isinstance(m, QuantizedEmbedding)]
    assert len(eight_bit) == len(layers) + len(tables)


def test_the_quantized_graph_has_only_what_the_engine_needs(quantized: Path) -> None:
    graph = onnx.load(quantized / "deployment" / "model.onnx").graph
    count = Counter(node.op_type for node in graph.node)
    assert count["QuantizeLinear"] == 2 * 8 + 1
    assert count["MatMul"] == 2 * 8 + 1
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert node.input[0] not in {tensor.name for tensor in graph.initializer}
        if node.op_type == "MatMul":
            assert [producers[name].op_type for name in node.input] == ["DequantizeLinear", "DequantizeLinear"]
        if node.op_type == "Gather" and producers.get(node.input[0]) is not None:
            assert producers[node.input[0]].op_type != "DequantizeLinear"
    quantized_inputs = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized_inputs) == len(set(quantized_inputs))


def test_inputs_and_outputs_are_named_and_free(dense: Path) -> None:
    graph = onnx.load(dense / "deployment" / "model.onnx").graph
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [o.name for o in graph.output] == ["start_logits", "end_logits"]
    for value in graph.input:
        assert [d.dim_param for d in value.type.tensor_type.shape.dim] == ["batch", "sequence"]


def test_the_folder_is_complete_and_its_samples_replay(quantized: Path) -> None:
    deployment = quantized / "deployment"
    assert {path.name for path in deployment.iterdir()} == {
        *("model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "recipe.yaml", "report.json"),
        *("sample-inputs", "sample-outputs"),
    }
    session = onnxruntime.InferenceSession(deployment / "model.onnx", providers=["CPUExecutionProvider"])
    for number in range(2):
        inputs = dict(np.load(deployment / "sample-inputs" / f"inp-{number:04d}.npz"))
        expected = dict(np.load(deployment / "sample-outputs" / f"out-{number:04d}.npz"))
        for got, name in zip(session.run(None, inputs), ("start_logits", "end_logits"), strict=True):
            assert np.array_equal(got, expected[name])
    assert json.loads((deployment / "report.json").read_text())["export"]["argmax_agreement"] >= 0.9


def test_distilbert_has_no_token_types_and_channels_keep_their_scales(tmp_path: Path) -> None:
    folder = save(calibrated(distilbert(), Scheme(per_channel=True)), tmp_path / "distil", PER_CHANNEL)
    graph = onnx.load(export(folder, tmp_path / "out", max_length=48) / "model.onnx").graph
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask"]
    axes = [
        a.i for node in graph.node for a in node.attribute if node.op_type == "DequantizeLinear" and a.name == "axis"
    ]
    assert axes.count(1) >= 7


def test_roberta_reads_no_types_whatever_the_tokenizer_says(tmp_path: Path) -> None:
    folder = save(calibrated(roberta(), Scheme()), tmp_path / "roberta", RECIPE)
    graph = onnx.load(export(folder, tmp_path / "out", samples=SAMPLES, max_length=48) / "model.onnx").graph
    assert [i.name for i in graph.input] == ["input_ids", "attention_mask"]


def test_row_81_a_model_that_differs_is_not_written(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(dense, folder)
    before = (folder / "deployment" / "model.onnx").read_bytes()

    def bent(model: PreTrainedModel, names: tuple[str, ...], path: Path, outputs: tuple[str, ...]) -> None:
        program = onnx.load(dense / "deployment" / "model.onnx")
        weight = next(t for t in program.graph.initializer if numpy_helper.to_array(t).shape == (32, 64))
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.1, weight.name))
        onnx.save(program, path)

    monkeypatch.setattr(zoo.export, "to_onnx", bent)
    with pytest.raises(TrainingError, match="differs from the trained one, so nothing was written"):
        export(folder, max_length=48)
    assert (folder / "deployment" / "model.onnx").read_bytes() == before
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_an_incomplete_folder_is_named(dense: Path, tmp_path: Path, missing: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(dense, folder, ignore=shutil.ignore_patterns("deployment", missing))
    with pytest.raises(TrainingError, match=f"has no {missing}"):
        export(folder)
    assert not (folder / "deployment").exists()


def test_a_quantized_folder_without_its_recipe_is_refused(quantized: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(quantized, folder, ignore=shutil.ignore_patterns("deployment", "recipe.yaml"))
    with pytest.raises(TrainingError, match=r"no recipe\.yaml"):
        export(folder)


def test_another_task_is_refused(dense: Path) -> None:
    with pytest.raises(TrainingError, match="'mlm' can't be exported; known are question_answering, text_classif"):
        export(dense, task="mlm")
    with pytest.raises(TrainingError, match="holds a model for question_answering, not for text_classification"):
        export(dense, task="sentiment-analysis")


def classifier(labels: int = 2) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=30, max_position_embeddings=64, initializer_range=0.3, num_labels=labels, **sizes)
    return BertForSequenceClassification(config).eval()


@pytest.mark.parametrize(
    ("task", "scheme"), [(None, None), ("glue", Scheme()), ("Text-Classification", Scheme(per_channel=True))]
)
def test_a_classifier_is_recognised_and_agrees_at_any_batch_and_length(
    task: str | None, scheme: Scheme | None, tmp_path: Path
) -> None:
    if scheme is None:
        folder = save(classifier(3), tmp_path / "model")
    else:
        recipe = PER_CHANNEL if scheme.per_channel else "modifiers:\n  - !QuantizationModifier {}\n"
        folder = save(calibrated(classifier(3), scheme), tmp_path / "model", recipe)
    samples = [("the river ends .",), ("who wrote it ?", "ada wrote it .")]
    path = export(folder, task=task, samples=samples, num_export_samples=2, max_length=48)
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits"]
    model = load_model(folder, architecture=AutoModelForSequenceClassification)
    for batch, length in ((1, 1), (3, 17), (4, 48)):
        inputs = feed(batch, length)
        with torch.inference_mode():
            ours = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
        theirs = session.run(["logits"], inputs)[0]
        assert theirs.shape == (batch, 3)
        assert np.sqrt(np.square(ours - theirs).mean()) < (1e-4 if scheme is None else 0.1 * ours.std())
    assert np.load(path / "sample-inputs" / "inp-0001.npz")["token_type_ids"].max() == 1


def test_classes_that_are_near_say_nothing_alone(tmp_path: Path) -> None:
    """Two logits that nearly tie have no spread of their own to measure a difference by."""
    model = classifier()
    with torch.no_grad():
        model.classifier.weight[1] = model.classifier.weight[0] + 1e-7
        model.classifier.bias.zero_()
    folder = save(calibrated(model, Scheme(ignore=("classifier",))), tmp_path / "model", IGNORING)
    facts = json.loads((export(folder, max_length=48) / "report.json").read_text())["export"]
    assert facts["relative_rms_difference"] < 1e-3


def test_a_model_of_another_kind_is_named(dense: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(dense, folder, ignore=shutil.ignore_patterns("deployment"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    for task in (None, "qa"):
        with pytest.raises(TrainingError, match="holds a BertModel; models for one of question_answering, text_class"):
            export(folder, task=task)
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match=r"a model that its config\.json doesn't name"):
        export(folder)
    assert export(folder, task="qa", max_length=48).is_dir()
    (folder / "config.json").write_text("[")
    with pytest.raises(TrainingError, match=r"config\.json is no config of a model"):
        export(folder)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("out", ["models/mine", "models", "models/linked"])
def test_the_source_and_what_holds_it_are_never_replaced(
    dense: Path, tmp_path: Path, out: str, overwrite: bool
) -> None:
    source = tmp_path / "models" / "mine"
    shutil.copytree(dense, source)
    (tmp_path / "models" / "linked").symlink_to(source)
    before = files_of(tmp_path)
    with pytest.raises(TrainingError, match=r"holds the trained model .*give another folder to --out"):
        export(source, tmp_path / out, max_length=48, overwrite=overwrite)
    assert files_of(tmp_path) == before


def test_a_folder_that_the_source_is_linked_into_is_not_replaced(dense: Path, tmp_path: Path) -> None:
    source, held = tmp_path / "source", tmp_path / "held"
    shutil.copytree(dense, source)
    held.mkdir()
    weights = (source / "model.safetensors").rename(held / "model.safetensors")
    (source / "model.safetensors").symlink_to(weights)
    with pytest.raises(TrainingError, match="holds the trained model"):
        export(source, held, max_length=48, overwrite=True)
    assert weights.exists()


@pytest.mark.parametrize("name", ["thesis.txt", "sample-inputs/mine.npz", "nested/model.onnx", "model.safetensors"])
def test_a_folder_with_other_files_is_replaced_only_when_asked(dense: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(dense / "deployment", out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = files_of(out)
    with pytest.raises(TrainingError, match=rf"holds {name}, .*another folder to --out, or --overwrite"):
        export(dense, out, max_length=48)
    assert files_of(out) == before
    export(dense, out, max_length=48, overwrite=True)
    assert files_of(out).keys() == files_of(dense / "deployment").keys()


def test_only_a_whole_deployment_counts_as_an_earlier_one(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(dense / "config.json", out)
    with pytest.raises(TrainingError, match=r"no model\.onnx with its report\.json"):
        export(dense, out, max_length=48)
    assert (out / "config.json").exists()


def test_an_empty_folder_and_an_earlier_deployment_with_its_plans_are_replaced(dense: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export(dense, out, max_length=48, num_export_samples=1)
    (out / ".sparrow").mkdir()
    (out / ".sparrow" / "model.plan").write_bytes(b"stale")
    export(dense, out, max_length=48)
    assert files_of(out).keys() == files_of(dense / "deployment").keys()
