"""Recipes load as SparseML's did, are checked before any model is, and never raise anything but RecipeError."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zoo.errors import RecipeError, StubError, UnavailableError
from zoo.modifiers import (
    DistillationModifier,
    GMPruningModifier,
    QuantizationModifier,
)
from zoo.recipe import Recipe, lint

SHIPPED = sorted((Path(__file__).parents[2] / "zoo").glob("*/[rq]*.md"))

RANGE = "  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 10.0}\n"
PRUNER = (
    "  - !GMPruningModifier {init_sparsity: 0.1, final_sparsity: 0.8, start_epoch: 1, end_epoch: 5, "
    "update_frequency: 0.5, params: [a]}\n"
)

TYPICAL = """---
version: 1.1.0
num_epochs: 13
qat_start: 8.0
freeze_at: eval(num_epochs - 1)
lr: 1.75e-4
kd_outputs: [start_logits, end_logits]   # --- inside a comment
__metadata__:
  max_seq_length: 384

training_modifiers:
  - !EpochRangeModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
  - !LearningRateFunctionModifier
      lr_func: linear
      init_lr: eval(lr)
      final_lr: 0.0
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
constant_modifiers:
  - !ConstantPruningModifier
      start_epoch: 0.0
      params: __ALL_PRUNABLE__
distillation_modifiers:
  - !DistillationModifier
      hardness: 1.0
      temperature: 5.0
      distill_output_keys: eval(kd_outputs)
quantization_modifiers:
  - !QuantizationModifier
      start_epoch: eval(qat_start)
      disable_quantization_observer_epoch: eval(freeze_at)
      quantize_embeddings: 1
      quantize_linear_activations: 0
      exclude_module_types: [LayerNorm]
      submodules: [bert.embeddings, bert.encoder, qa_outputs]
---
# A recipe

```yaml
---
modifiers: []
---
```
"""


def recipe(*items: str, head: str = "") -> Recipe:
    return Recipe.load(f"{head}modifiers:\n{''.join(items)}")


def refusal(text: str, **variables: object) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(text, variables or None)
    return caught.value


# What loads


def test_a_typical_old_recipe_loads_with_all_its_parts() -> None:
    loaded = Recipe.load(TYPICAL)
    assert [m.name for m in loaded.modifiers] == [
        "EpochRangeModifier",
        "LearningRateFunctionModifier",
        "ConstantPruningModifier",
        "DistillationModifier",
        "QuantizationModifier",
    ]
    assert loaded.variables["num_epochs"] == 13
    assert loaded.variables["freeze_at"] == 12
    assert loaded.metadata == {"max_seq_length": 384}
    assert loaded.description.startswith("# A recipe")
    assert (loaded.min_epochs, loaded.max_epochs) == (0.0, 13.0)
    assert loaded.of_type(DistillationModifier)[0].distill_output_keys == ("start_logits", "end_logits")
    quantization = loaded.of_type(QuantizationModifier)[0]
    assert quantization.legacy
    assert quantization.freeze_epoch == 12
    assert quantization.quantize_linear_activations is False
    assert quantization.layer_scheme.output_activations is None
    assert quantization.excluded_types == {"Softmax", "LayerNorm"}


def test_plain_keys_say_the_same_as_tags() -> None:
    tagged = recipe(RANGE)
    listed = Recipe.load("modifiers:\n  - EpochRangeModifier: {start_epoch: 0.0, end_epoch: 10.0}\n")
    mapped = Recipe.load("modifiers:\n  EpochRangeModifier:\n    start_epoch: 0\n    end_epoch: 10\n")
    assert tagged == listed == mapped
    assert tagged.digest == listed.digest == mapped.digest
    assert len(tagged.digest) == 64
    assert hash(tagged) == hash(listed)


def test_a_recipe_comes_from_a_path_or_its_text(tmp_path: Path) -> None:
    for name in ("a.yaml", "a.yml"):
        (tmp_path / name).write_text(f"modifiers:\n{RANGE}", "utf-8")
        assert Recipe.load(tmp_path / name) == Recipe.load(str(tmp_path / name)) == recipe(RANGE)
    (tmp_path / "a.md").write_text(TYPICAL, "utf-8")
    assert Recipe.load(tmp_path / "a.md") == Recipe.load(TYPICAL)


def test_a_loaded_recipe_is_taken_as_it_is_or_with_other_variables(tmp_path: Path) -> None:
    loaded = Recipe.load(TYPICAL)
    assert Recipe.load(loaded) is loaded
    assert Recipe.load(loaded, "num_epochs=11") == Recipe.load(TYPICAL, "num_epochs=11") != loaded
    both = Recipe.load(Recipe.load(loaded, "num_epochs=11"), {"freeze_at": 10})
    assert both == Recipe.load(TYPICAL, {"num_epochs": 11, "freeze_at": 10})
    assert Recipe.load(both, "num_epochs=13") == Recipe.load(TYPICAL, "freeze_at=10")
    (tmp_path / "short.yaml").write_text("modifiers: []", "utf-8")
    with pytest.raises(RecipeError, match="no variable 'n'"):
        Recipe.load(Recipe.load(tmp_path / "short.yaml"), "n=9")


def test_a_stub_is_asked_of_the_resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    with pytest.raises(UnavailableError):
        Recipe.load("zoo:bert-large-wikipedia_bookcorpus-pruned80.4block_quantized")
    with pytest.raises(StubError):
        Recipe.load("zoo:not a stub")


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("absent.yaml", None, "No such file"),
        ("a.json", b"{}", "no recipe"),
        ("a.yaml", b"modifiers: []\n# caf\xe9", "line 2, column 6: the byte 0xe9 is no UTF-8"),
        ("a.md", b"# only text\n", "front matter of a.md is missing"),
        ("b.md", b"---\nmodifiers: []\n", "front matter of b.md is not closed"),
        ("c.yaml", b"a: 1\n" * 300_000, "larger than"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, name: str, content: bytes | None, word: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=word):
        Recipe.load(tmp_path / name)


def test_a_path_that_no_system_takes_is_refused(tmp_path: Path) -> None:
    for path in ("a\0b.yaml", "x" * 5000 + ".yaml", str(tmp_path) + ".yaml", "modifiers: []"):
        with pytest.raises(RecipeError):
            Recipe.load(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_clean_and_scale_with_their_length(path: Path) -> None:
    assert lint(path) == []
    loaded = Recipe.load(path, {"num_epochs": 2})
    assert loaded.max_epochs == 2
    assert Recipe.load(loaded.to_yaml()) == loaded
    assert all(modifier.start < 2 for modifier in loaded.modifiers)


def test_importing_recipes_loads_no_torch_and_no_network() -> None:
    code = "import sys, zoo.recipe, zoo.schedule; print({'torch', 'transformers', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Row 68: values out of range


@pytest.mark.parametrize(
    ("item", "word"),
    [
        ("!EpochRangeModifier {start_epoch: 5, end_epoch: 2}", "end_epoch 2 must come after start_epoch 5"),
        ("!EpochRangeModifier {start_epoch: -2, end_epoch: 2}", "must be -1 or an epoch"),
        ("!EpochRangeModifier {start_epoch: 0, end_epoch: 1e9}", "must be -1 or an epoch"),
        ("!EpochRangeModifier {start_epoch: 0}", "end_epoch is missing"),
        ("!EpochRangeModifier {start_epoch: 0, end_epoch: 1, lr: 2}", "no field 'lr'; it has start_epoch, end_epoch"),
        ("!SetLearningRateModifier {learning_rate: -0.1}", "learning rate from 0 to 1"),
        ("!SetLearningRateModifier {learning_rate: 1.5}", "learning rate from 0 to 1"),
        ("!SetLearningRateModifier {learning_rate: 0.1, end_epoch: 3}", "end_epoch must be -1"),
        ("!SetLearningRateModifier {learning_rate: 0.1, param_groups: [0]}", "param_groups is not supported"),
        ("!ConstantPruningModifier {params: []}", "at least one parameter"),
        ("!DistillationModifier {hardness: 1.5}", "hardness"),
        ("!DistillationModifier {temperature: 0}", "temperature"),
        ("!QuantizationModifier {end_epoch: 3}", "end_epoch must be -1"),
        ("!QuantizationModifier {weight_bits: 4}", "weight_bits"),
        ("!QuantizationModifier {reduce_range: 1}", "reduce_range is not supported"),
        ("!QuantizationModifier {scheme: vnni}", "default, deepsparse, tensorrt"),
        ("!QuantizationModifier {scheme: default, submodules: [a]}", "two generations"),
        (
            "!QuantizationModifier {start_epoch: 3, disable_quantization_observer_epoch: 2}",
            "must come after start_epoch",
        ),
        ("!QuantizationModifier {scheme: {weights: {symmetric: false}}}", "symmetric"),
        ("!QuantizationModifier {scheme: {input_activations: {strategy: channel}}}", "strategy must be tensor"),
        ("!QuantizationModifier {scheme: {weights: {bits: 4}}}", "no field 'bits'"),
    ],
)
def test_row_68_values_out_of_range_are_refused(item: str, word: str) -> None:
    error = refusal(f"modifiers:\n  - {item}\n")
    assert word in error.reason
    assert error.line == 2


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("end_epoch", "1", "must come after"),
        ("end_epoch", "-1", "end_epoch must be given"),
        ("final_sparsity", "1.0", "less than 1"),
        ("final_sparsity", "-0.1", "at least 0"),
        ("final_sparsity", "0.05", "at least init_sparsity"),
        ("final_sparsity", "{}", "at least one sparsity"),
        ("final_sparsity", "{0.5: [a]}", "params must be []"),
        ("init_sparsity", "__FROM__", "a number"),
        ("update_frequency", "0", "more than 0"),
        ("update_frequency", "-2", "more than 0"),
        ("params", "[]", "at least one parameter"),
        ("params", "[1]", "params.0"),
        ("inter_func", "quadratic", "inter_func"),
        ("mask_type", "4block", "a recipe says block4"),
        ("mask_type", "block", "a recipe says block4"),
        ("mask_type", "block5", "N:M"),
        ("mask_type", "[1, 0]", "rows, columns"),
        ("mask_type", "[1]", "rows, columns"),
        ("mask_type", "filter", "StructuredPruningModifier"),
        ("mask_type", "4:2", "N:M"),
        ("mask_type", "2:4", "must be 0.5"),
        ("leave_enabled", "'yes'", "true, false, 1 or 0"),
        ("score_type", "magnitude", "no field 'score_type'"),
        ("param", "[a]", "did you mean params"),
    ],
)
def test_row_68_a_pruner_out_of_range_is_refused(field: str, value: str, word: str) -> None:
    fields = {
        "init_sparsity": "0.1",
        "final_sparsity": "0.8",
        "start_epoch": "1",
        "end_epoch": "5",
        "update_frequency": "0.5",
        "params": "[a]",
    } | {field: value}
    body = "".join(f"      {key}: {text}\n" for key, text in fields.items())
    assert word in refusal(f"modifiers:\n  - !GMPruningModifier\n{body}").reason


@pytest.mark.parametrize(
    ("item", "word"),
    [
        ("LayerOBSPruningModifier {mask_type: '2:4', final_sparsity: 0.5, BASE}", "must be unstructured, block4 or"),
        ("LayerOBSPruningModifier {mask_type: [4, 4], final_sparsity: 0.5, BASE}", "must be unstructured, block4 or"),
        ("LayerOBSPruningModifier {mask_type: block4, block_size: 30, final_sparsity: 0.5, BASE}", "multiple of"),
        ("LayerOBSPruningModifier {dampening_frac: 0, final_sparsity: 0.5, BASE}", "dampening_frac"),
        ("LayerOBSPruningModifier {num_samples: 0, final_sparsity: 0.5, BASE}", "num_samples"),
        ("LayerOBSPruningModifier {num_grads: 64, final_sparsity: 0.5, BASE}", "no field 'num_grads'"),
        ("PerLayerDistillationModifier {student_layer_names: [a, b], teacher_layer_names: [a]}", "pair them"),
        ("PerLayerDistillationModifier {student_layer_names: [a]}", "teacher_layer_names is missing"),
        ("PerLayerDistillationModifier {student_layer_names: [], teacher_layer_names: []}", "at least 1 item"),
    ],
)
def test_row_68_second_order_and_layer_fields_out_of_range_are_refused(item: str, word: str) -> None:
    base = "init_sparsity: 0.1, start_epoch: 0, end_epoch: 1, update_frequency: 0.5, params: [a]"
    assert word in refusal(f"modifiers:\n  - !{item.replace('BASE', base)}\n").reason


def test_row_68_overlapping_pruners_are_an_error_and_successive_ones_are_not() -> None:
    overlap = PRUNER.replace("start_epoch: 1, end_epoch: 5", "start_epoch: 4, end_epoch: 8")
    assert (
        "prunes a at the same time as GMPruningModifier in line 2" in refusal(f"modifiers:\n{PRUNER}{overlap}").reason
    )
    everything = overlap.replace("[a]", "__ALL_PRUNABLE__")
    assert "at the same time" in refusal(f"modifiers:\n{PRUNER}{everything}").reason
    assert recipe(PRUNER, overlap.replace("[a]", "[b]")).lint() == []
    assert recipe(PRUNER, overlap.replace("start_epoch: 4", "start_epoch: 5")).lint() == []


def test_row_68_an_epoch_beyond_the_end_is_reported() -> None:
    longer = "  - !DistillationModifier {start_epoch: 0, end_epoch: 12}\n"
    assert [f.level for f in recipe(RANGE, longer).lint()] == ["warning"]
    assert recipe(RANGE, longer).max_epochs == 12
    assert (
        "when the run of 10 epochs has ended"
        in refusal(f"modifiers:\n{RANGE}  - !QuantizationModifier {{start_epoch: 10}}\n").reason
    )
    late = "  - !QuantizationModifier {start_epoch: 8, disable_quantization_observer_epoch: 11}\n"
    assert "would freeze its observers at epoch 11" in recipe(RANGE, late).lint()[0].message


def test_row_68_a_second_quantization_is_an_error() -> None:
    item = "  - !QuantizationModifier {start_epoch: 1}\n"
    error = refusal(f"modifiers:\n{item}{item}")
    assert (error.line, "quantized once" in error.reason) == (3, True)


def test_row_68_zeros_that_quantized_training_would_fill_are_an_error() -> None:
    leaving = PRUNER.replace("params", "leave_enabled: 0, params")
    quantized = "  - !QuantizationModifier {start_epoch: 6}\n"
    assert "leave_enabled" in refusal(f"modifiers:\n{RANGE}{leaving}{quantized}").reason
    assert [f.level for f in recipe(RANGE, leaving).lint()] == ["warning"]
    constant = "  - !ConstantPruningModifier {start_epoch: 5, params: [a]}\n"
    assert recipe(RANGE, leaving, constant, quantized).lint() == []


def test_lint_reports_what_stops_a_recipe_and_what_has_no_effect() -> None:
    assert [(f.level, f.line) for f in lint("modifiers:\n  - !Foo {}\n")] == [("error", 2)]
    findings = lint(f"modifiers:\n{RANGE}  - !QuantizationModifier {{model_fuse_fn_name: no_fuse}}\n")
    reason = "transformers have no Conv-BatchNorm pairs to fuse"
    assert [str(f) for f in findings] == [f"info: line 3: QuantizationModifier ignores model_fuse_fn_name: {reason}"]
    assert [f.level for f in lint("modifiers:\n")] == ["warning"]


# Row 71: old recipes


def test_row_71_old_recipes_are_mapped_ignored_and_refused_with_a_report() -> None:
    text = """
training_modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 40.0}
  - !SetLearningRateModifier {start_epoch: 0.0, learning_rate: 5e-5, constant_logging: False}
pruning_modifiers:
  - !MagnitudePruningModifier
      params: &params
        - re:bert.encoder.layer.*.attention.self.query.weight
        - re:bert.encoder.layer.*.output.dense.weight
      init_sparsity: __FROM_PARAM__
      final_sparsity: 0.5
      start_epoch: 2
      end_epoch: 20
      update_frequency: 0.01
      mask_type: tensorrt
      inter_func: cubic
  - !ConstantPruningModifier {start_epoch: 20, params: *params}
quantization_modifiers:
  - !QuantizationModifier {start_epoch: 30, freeze_bn_stats_epoch: 35, quantize_embeddings: 0, exclude_batchnorm: 1}
"""
    loaded = Recipe.load(text)
    report = "\n".join(str(finding) for finding in loaded.lint())
    assert "maps mask_type tensorrt to 2:4" in report
    assert "ignores freeze_bn_stats_epoch" in report
    assert "ignores exclude_batchnorm" in report
    assert "ignores constant_logging" in report
    assert "warning" not in report
    assert Recipe.load(loaded.to_yaml()) == loaded
    assert (
        "activation_qconfig_kwargs is not supported"
        in refusal(
            "modifiers:\n  - !QuantizationModifier {activation_qconfig_kwargs: {averaging_constant: 0.01}}\n"
        ).reason
    )
    assert (
        "run_type 'oneshot' is not supported"
        in refusal(f"a_stage:\n  run_type: oneshot\n  pruning_modifiers:\n  {RANGE}").reason
    )


def test_row_71_sparsity_by_group_loads() -> None:
    item = (
        "  - !GMPruningModifier {init_sparsity: 0.05, final_sparsity: {0.8: [a, 're:b.*'], 0.6: [c]}, start_epoch: 0, "
        "end_epoch: 4, update_frequency: -1, params: []}\n"
    )
    loaded = recipe(item)
    assert loaded.of_type(GMPruningModifier)[0].targets == ((0.8, ("a", "re:b.*")), (0.6, ("c",)))
    assert Recipe.load(loaded.to_yaml()) == loaded
