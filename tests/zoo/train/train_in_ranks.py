"""Run by torchrun: trains as the command does, then saves what each process holds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import safetensors.torch

from zoo.train.tasks.question_answering import QuestionAnswering

if __name__ == "__main__":
    run = QuestionAnswering.of(sys.argv[1:])
    run.go()
    state = {name: value.contiguous() for name, value in run.model.state_dict().items()}
    safetensors.torch.save_file(state, Path(str(run.run_args.output_dir)).with_suffix(f".rank{os.environ['RANK']}"))
