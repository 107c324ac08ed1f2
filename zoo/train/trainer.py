"""The Hugging Face Trainer, driven by a recipe.

Checkpoints hold safetensors and JSON only, but for the optimizer's own state, which is read with
`weights_only`. A checkpoint is complete once it has its trainer_state.json, which is written last.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import transformers
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback

from zoo.errors import TrainingError
from zoo.modifiers import LearningRateFunctionModifier, QuantizationModifier, SetLearningRateModifier
from zoo.recipe import Recipe
from zoo.train.distillation import Teacher
from zoo.train.quantization import calibrate
from zoo.train.session import RecipeSession
from zoo.train.stopping import StopOnSignal, TrainingStoppedError

SESSION_FILE = "session.safetensors"
RECIPE_FILE = "recipe.yaml"
_STATE_FILE = "trainer_state.json"
_CALIBRATION_BATCHES = 32
_GROUP = 50  # batches whose features are sorted by length together


class LengthGroupedSampler(Sampler[int]):
    """Random order in which neighbours are of about the same length; a function of seed and epoch alone."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of another epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size * _GROUP
        groups = [sorted(order[i : i + size], key=self.lengths.__getitem__) for i in range(0, len(order), size)]
        batches = [g[i : i + self.batch_size] for g in groups for i in range(0, len(g), self.batch_size)]
        short = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        for place in torch.randperm(len(full), generator=generator).tolist():
            yield from full[place]
        for batch in short:  # last, or every later batch would mix lengths
            yield from batch


class _Steps(TrainerCallback):
    """Puts the session around each optimizer step."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.trainer.session.before_step(self.trainer.optimizer)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.trainer.session.after_step()


class _KeepRate(torch.optim.lr_scheduler.LRScheduler):
    """Leaves the learning rate to the recipe."""

    def get_lr(self) -> list[Any]:
        return [group["lr"] for group in self.optimizer.param_groups]


class Trainer(transformers.Trainer):
    """transformers.Trainer with a recipe; steps per epoch come from the real data loader.

    recipe: what to do; where it has epochs, they override `num_train_epochs`. inherited: the quantization that
    the model has already. teacher: called for a batch's inputs. lengths: the tokens of each training feature, for
    batches of like lengths.
    """

    session: RecipeSession
    model: PreTrainedModel

    def __init__(
        self,
        *args: Any,
        recipe: Recipe | None = None,
        inherited: Sequence[QuantizationModifier] = (),
        teacher: Teacher | None = None,
        lengths: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.recipe = with_inherited(recipe or Recipe(modifiers=()), inherited)
        self.teacher, self.lengths = teacher, lengths
        self.loss_is_scaled_for_ga = False
        self.add_callback(_Steps(self))
        self.stopping = StopOnSignal()
        self.add_callback(self.stopping)

    def steps_per_epoch(self) -> int:
        """Return the optimizer steps of one epoch on this process."""
        return max(math.ceil(len(self.get_train_dataloader()) / self.args.gradient_accumulation_steps), 1)

    def train(  # type: ignore[override]  # the base class's other parameters are for sweeps, and pass through
        self, resume_from_checkpoint: Any = None, **kwargs: Any
    ) -> Any:
        """Train, and finish the recipe.

        Raises TrainingError, see RecipeSession; TrainingStoppedError when a signal ended the run early.
        """
        if self.recipe.max_epochs:
            self.args.num_train_epochs = self.recipe.max_epochs
        self.session = RecipeSession(self.model, self.recipe, self.steps_per_epoch(), self.teacher, self._samples)
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.stopping.received and self.state.global_step < self.state.max_steps:
            raise TrainingStoppedError(self.stopping.received, self.state.global_step)
        self.session.finish()
        return result

    def apply_once(self) -> None:
        """Do without training what the recipe does by its end; ranges come from a few training batches."""
        self.session = RecipeSession(self.model, self.recipe, 1, samples=self._samples)
        self.session.apply_at_once()
        calibrate(self.model, self._samples(_CALIBRATION_BATCHES * self.args.train_batch_size))

    def _samples(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield batches of the model's inputs with `count` training samples, the same on every process."""
        data: Any = self.train_dataset
        generator = torch.Generator().manual_seed(self.args.seed)
        chosen = torch.randperm(len(data), generator=generator)[:count].tolist()
        if self.lengths is not None:
            chosen.sort(key=self.lengths.__getitem__)
        collate: Any = self.data_collator
        for first in range(0, len(chosen), self.args.train_batch_size):
            rows = [data[index] for index in chosen[first : first + self.args.train_batch_size]]
            inputs = {k: v for k, v in collate(rows).items() if k not in ("feature_index", *self.label_names)}
            yield self._prepare_inputs(inputs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.lengths is None or (train_dataset is not None and train_dataset is not self.train_dataset):
            return super()._get_train_sampler(train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(self.lengths, size, self.args.seed)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Leave the learning rate to the recipe where it sets one."""
        if any(isinstance(m, LearningRateFunctionModifier | SetLearningRateModifier) for m in self.recipe.modifiers):
            self.lr_scheduler = _KeepRate(cast("torch.optim.Optimizer", optimizer or self.optimizer))  # type: ignore[assignment]  # declared narrower than create_scheduler's result
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002 - the name that Trainer calls it by
    ) -> Any:
        """Return the loss of a batch through the session; `feature_index` is for the teacher alone."""
        outputs = model(**{k: v for k, v in inputs.items() if k != "feature_index"})
        if not model.training:
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]
        with self.accelerator.autocast():  # so that a teacher computes as the student does
            loss = self.session.loss(outputs["loss"], outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the parts of the loss to what is logged while training."""
        if "loss" in logs:
            logs |= self.session.losses
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(str(output_dir or self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        (folder / RECIPE_FILE).write_text(self.recipe.to_yaml(), encoding="utf-8")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            state = {name: value.contiguous() for name, value in self.session.state_dict().items()}
            safetensors.torch.save_file(state, Path(output_dir) / SESSION_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        check_same_recipe(checkpoint, self.recipe)
        self.session.load_state_dict(read_session(checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Run the model without the autocast that accelerate wraps around its forward for --bf16."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped


def with_inherited(recipe: Recipe, inherited: Sequence[QuantizationModifier]) -> Recipe:
    """Return the recipe with modifiers that its base model brings along."""
    if not inherited:
        return recipe
    return Recipe((*inherited, *recipe.modifiers), dict(recipe.variables), dict(recipe.metadata), recipe.description)


def read_session(checkpoint: Path) -> dict[str, Tensor]:
    """Read the session's state of a checkpoint. Raises TrainingError where there is none."""
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(checkpoint / SESSION_FILE)
    except (OSError, safetensors.SafetensorError) as error:
        raise TrainingError(f"{checkpoint} is no complete checkpoint of this trainer: {error}") from error
    return state


def check_same_recipe(checkpoint: Path, recipe: Recipe) -> None:
    """Raise TrainingError, with the lines that differ, when the checkpoint was made with another recipe."""
    path = checkpoint / RECIPE_FILE
    earlier = path.read_text(encoding="utf-8") if path.is_file() else ""
    changes = difflib.unified_diff(
        earlier.splitlines(), recipe.to_yaml().splitlines(), "checkpoint", "now", "", "", 0, ""
    )
    changed = [line for line in changes if not line.startswith("@@")]
    if changed:
        raise TrainingError(
            f"{checkpoint} was made with another recipe; resume with the same, or start anew with "
            f"--overwrite_output_dir:\n" + "\n".join(changed[:40])
        )


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint under `folder`, or None."""
    found = sorted(folder.glob("checkpoint-*"), key=_step_of, reverse=True)
    return next((path for path in found if _complete(path)), None)


def given_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """Return the checkpoint. Raises TrainingError, naming the newest one under `folder`, where it isn't complete."""
    if _complete(checkpoint):
        return checkpoint
    newest = last_checkpoint(folder)
    known = f"{folder} holds none" if newest is None else f"the newest complete one in {folder} is {newest}"
    raise TrainingError(f"--resume_from_checkpoint: {checkpoint} is no complete checkpoint, and {known}")


def _step_of(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _STATE_FILE).read_text(encoding="utf-8"))
        read_session(checkpoint)
    except (OSError, ValueError, TrainingError):
        return False
    return True
