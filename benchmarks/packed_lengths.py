"""What packing gains on a real mix of lengths: SQuAD questions with their contexts, batches packed against padded.

    python -m benchmarks.packed_lengths model.onnx --squad dev.json --tokenizer tokenizer.json

The same batches are run in turns, end to end without padding and filled up to the longest length that is allowed. It
prints one JSON document; `throughput_ratio` is the median over batches of padded time over packed time, `length_ratio`
what the tokens alone would give.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

import engine
from engine.bench.noise import Noise
from zoo.squad import read_squad

Inputs = dict[str, NDArray[np.int64]]


def batches(tokenizer: Path, squad: Path, size: int, longest: int, count: int) -> list[Inputs]:
    """The file's first `count` batches of `size` questions, in its order, padded to `longest` tokens."""
    encode = Tokenizer.from_file(str(tokenizer))
    encode.enable_truncation(longest, strategy="only_second")
    encode.enable_padding(length=longest)
    pairs = [(example.question, example.context) for example in read_squad(squad)[: size * count]]
    found = []
    for first in range(0, len(pairs) - size + 1, size):
        rows = encode.encode_batch(pairs[first : first + size])
        found.append(
            {
                "input_ids": np.array([row.ids for row in rows], np.int64),
                "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
                "token_type_ids": np.array([row.type_ids for row in rows], np.int64),
            }
        )
    return found


def measure(model: Path, all_batches: list[Inputs], num_cores: int | None, progress: Callable[[str], None]) -> Any:
    """Times every batch both ways, after one run of each that isn't counted."""
    packed_s, padded_s = [], []
    with engine.compile(model, num_cores) as compiled:
        feeds = [{name: batch[name] for name in compiled.input_names} for batch in all_batches]
        lengths = [batch["attention_mask"].sum(axis=1) for batch in all_batches]
        compiled.run(feeds[0])
        noise = Noise.start()
        for done, (feed, tokens) in enumerate(zip(feeds, lengths, strict=True), 1):
            packed_s.append(_seconds(lambda feed=feed, tokens=tokens: compiled.run(feed, tokens)))  # type: ignore[misc]
            padded_s.append(_seconds(lambda feed=feed: compiled.run(feed)))  # type: ignore[misc]
            progress(f"batch {done} of {len(feeds)}")
        cores, others = compiled.num_cores, noise.others_share()
    every = np.concatenate(lengths)
    longest = feeds[0]["input_ids"].shape[1]
    return {
        "model": str(model),
        "batch_size": len(lengths[0]),
        "batches": len(feeds),
        "num_cores": cores,
        "mean_tokens": round(float(every.mean()), 1),
        "padded_tokens": longest,
        "packed_items_per_s": round(every.size / sum(packed_s), 2),
        "padded_items_per_s": round(every.size / sum(padded_s), 2),
        "throughput_ratio": round(statistics.median(b / a for a, b in zip(packed_s, padded_s, strict=True)), 3),
        "length_ratio": round(longest / float(every.mean()), 3),
        "others_share": round(others, 3),
    }


def _seconds(run: Callable[[], Mapping[str, Any]]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    """Reads the command line and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an .onnx file with the tokenizer's vocabulary")
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--longest", type=int, default=384)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--num_cores", type=int)
    given = parser.parse_args()
    all_batches = batches(given.tokenizer, given.squad, given.batch_size, given.longest, given.batches)
    found = measure(given.model, all_batches, given.num_cores, lambda text: print(text, end="\r", file=sys.stderr))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
