"""Recipes for a tiny model, and the flags of a run with them."""

from __future__ import annotations

from pathlib import Path

RECIPE = """
num_epochs: 4.0
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: eval(num_epochs)}
  - !LearningRateFunctionModifier
      {lr_func: linear, init_lr: 5.0e-3, final_lr: 0.0, start_epoch: 0.0, end_epoch: eval(num_epochs)}
  - !MagnitudePruningModifier
      {init_sparsity: 0.0, final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 2.0, update_frequency: 0.25,
       mask_type: block4, params: ["re:bert.encoder.layer.*.dense.weight", "re:.*query.weight"]}
  - !QuantizationModifier
      {start_epoch: 2.5, disable_quantization_observer_epoch: 3.5, quantize_linear_activations: 0,
       exclude_module_types: [LayerNorm], submodules: [bert.embeddings, bert.encoder, qa_outputs]}
  - !DistillationModifier {hardness: 0.5, temperature: 2.0, distill_output_keys: [start_logits, end_logits]}
"""


SECOND_ORDER = """
modifiers:
  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 4.0}
  - !SetLearningRateModifier {learning_rate: 2.0e-3}
  - !LayerOBSPruningModifier
      {init_sparsity: 0.25, final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 2.0, update_frequency: 0.5,
       mask_type: block4, num_samples: 16, block_size: 16,
       params: ["re:bert.encoder.layer.*.dense.weight", "re:.*self.(query|key|value).weight"]}
  - !QuantizationModifier
      {start_epoch: 2.5, disable_quantization_observer_epoch: 3.5, quantize_linear_activations: 0,
       exclude_module_types: [LayerNorm], submodules: [bert.embeddings, bert.encoder, qa_outputs]}
  - !PerLayerDistillationModifier
      gain: 1.0
      student_layer_names: [bert.encoder.layer.0, bert.encoder.layer.1.output.dense]
      teacher_layer_names: [bert.encoder.layer.0, bert.encoder.layer.1.output.dense]
"""


# The same, for a classifier.
TEXT_RECIPE = RECIPE.replace("qa_outputs", "bert.pooler, classifier").replace(
    "distill_output_keys: [start_logits, end_logits]", "distill_output_keys: [logits]"
)

TOKEN_RECIPE = TEXT_RECIPE.replace("bert.pooler, classifier", "classifier")


def flags(base: Path, out: Path, train: Path, dev: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(base), "--output_dir", str(out), "--do_train", "--do_eval"),
        *("--train_file", str(train), "--validation_file", str(dev), "--max_seq_length", "48", "--doc_stride", "8"),
        *("--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "8", "--disable_tqdm", "true"),
        *("--save_strategy", "no", *more),
    ]


def text_flags(base: Path, out: Path, train: Path, dev: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", str(base), "--output_dir", str(out), "--do_train", "--do_eval"),
        *("--train_file", str(train), "--validation_file", str(dev), "--max_seq_length", "48"),
        *("--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "8", "--disable_tqdm", "true"),
        *("--save_strategy", "no", *more),
    ]
