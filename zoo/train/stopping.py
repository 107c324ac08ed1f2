"""SIGTERM and SIGINT while training: the step is finished, a checkpoint saved, and the run ends.

A second signal ends the process at once, as if it had never been caught.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from zoo.errors import TrainingError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class TrainingStoppedError(TrainingError):
    """A signal ended the run; its checkpoint is complete. The exit code is 128 + the signal's number."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}; the checkpoint is saved, and the same "
            "command goes on from it (without --overwrite_output_dir)"
        )
        self.exit_code = 128 + number


class StopOnSignal(TrainerCallback):
    """Saves and stops at the end of the step in which a signal came, on all processes at the same step."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Catch the signals; only a process's main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ask for a checkpoint and an end."""
        if distributed.is_initialized():
            latest = torch.tensor(self.received, device=args.device)
            distributed.all_reduce(latest, distributed.ReduceOp.MAX)
            self.received = int(latest)
        if self.received:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Give the signals back."""
        self._restore()
