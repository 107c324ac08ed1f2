"""The whole chain on one machine: every step is a `zoo` command that a user could type.

registry -> base model -> dense teacher -> sparse student -> export -> publish -> pull -> serve.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from zoo.demo import base_model
from zoo.disk import file_in_the_way
from zoo.errors import UnavailableError, ZooError

HERE = Path(__file__).parent
MARKER = ".zoo-demo"
TEACHER = "zoo:nlp/question_answering/minilm-l6/pytorch/huggingface/animals/base-none"
STUDENT = "zoo:nlp/question_answering/minilm-l6/pytorch/huggingface/animals/pruned80_quant-none-vnni"
TEACHER_ALIAS = "zoo:minilm-l6-animals-base"
STUDENT_ALIAS = "zoo:minilm-l6-animals-pruned80.4block_quantized"
SEQUENCE_LENGTH = 256


@dataclass
class Demo:
    """One run: its folder, what its commands see of the environment, and what it found out."""

    folder: Path
    console: Console
    registry_port: int
    server_port: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def registry_url(self) -> str:
        """Where the registry answers."""
        return f"http://127.0.0.1:{self.registry_port}"

    @property
    def server_url(self) -> str:
        """Where the inference server answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def say(self, number: int, text: str) -> None:
        """Prints a step's heading."""
        self.console.print(f"\n[bold]{number}. {text}[/bold]")

    def zoo(self, *arguments: str, cache: str = "cache") -> str:
        """Runs a zoo command to its end, its progress on this terminal; returns its standard output."""
        shown = " ".join(_quoted(a) for a in arguments)
        self.console.print(f"   $ zoo {shown}", style="dim", markup=False, soft_wrap=True)
        environment = {**self.environment, "ZOO_CACHE": str(self.folder / cache)}
        done = subprocess.run([*ZOO, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ZooError(
                f"the demo's command `zoo {shown}` ended with exit code {done.returncode}; its message is above"
            )
        return done.stdout.strip()

    def zoo_json(self, *arguments: str) -> Any:
        """Runs a zoo command with --json; returns the document."""
        return json.loads(self.zoo(*arguments, "--json"))

    @contextmanager
    def background(self, name: str, url: str, *arguments: str) -> Iterator[None]:
        """Runs a server while the block lasts; it is ready when `url` answers."""
        shown = " ".join(_quoted(a) for a in arguments)
        self.console.print(f"   $ zoo {shown} &", style="dim", markup=False, soft_wrap=True)
        log = self.folder / f"{name}.log"
        environment = {**self.environment, "ZOO_CACHE": str(self.folder / "cache")}
        with (
            log.open("wb") as out,
            subprocess.Popen([*ZOO, *arguments], env=environment, stdout=out, stderr=out) as process,
        ):
            try:
                _wait_until_up(process, url, log)
                yield
            finally:
                process.terminate()


ZOO = (sys.executable, "-m", "cli")


def run(folder: Path, *, registry_port: int | None = None, server_port: int | None = None) -> dict[str, Any]:
    """Runs the chain in `folder`, which is made anew; returns the figures that its last table shows.

    Raises ZooError when the folder holds anything but an earlier demo, or when a step fails.
    """
    folder = _fresh_folder(folder.resolve())
    console = Console(stderr=True)
    demo = Demo(folder, console, registry_port or _free_port(8080), server_port or _free_port(5543))
    demo.environment = {
        **os.environ,
        "ZOO_HOME": str(folder / "home"),
        "ZOO_ENDPOINT": demo.registry_url,
        "ZOO_OFFLINE": "0",
        "HF_HUB_OFFLINE": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    started = time.monotonic()
    demo.say(1, "A registry, on SQLite and a folder")
    serve = ("registry", "serve", "--folder", str(folder / "registry"), "--port", str(demo.registry_port))
    with demo.background("registry", f"{demo.registry_url}/api/v1/health", *serve):
        _publish_base(demo)
        _train_teacher(demo)
        _train_student(demo)
        _publish_and_pull(demo)
        figures = _measure(demo)
        figures["answer"] = _serve(demo)
    figures["seconds"] = round(time.monotonic() - started)
    _report(demo, figures)
    return figures


def _publish_base(demo: Demo) -> None:
    demo.say(2, "A base model: all-MiniLM-L6-v2, 22.7 M parameters, published with its recipes and card")
    base = base_model.prepare(demo.folder / "base", demo.folder / "downloads")
    demo.zoo("publish", str(base), base_model.STUB, "--alias", base_model.ALIAS)


def _train_teacher(demo: Demo) -> None:
    demo.say(3, "The dense teacher, fine-tuned on questions about animals")
    demo.zoo(*_training(demo, "teacher", base_model.STUB, f"{base_model.STUB}?recipe=dense"))
    demo.zoo("publish", str(demo.folder / "teacher"), TEACHER, "--alias", TEACHER_ALIAS)


def _train_student(demo: Demo) -> None:
    demo.say(4, "The student: 80 % of the 1x4 blocks pruned, INT8, taught by the dense model")
    recipe = f"{base_model.STUB}?recipe=pruned80"
    demo.zoo(*_training(demo, "student", TEACHER_ALIAS, recipe), "--distill_teacher", TEACHER, "--dropout", "0")


def _training(demo: Demo, name: str, model: str, recipe: str) -> tuple[str, ...]:
    data = ("--train_file", str(HERE / "animals-train.json"), "--validation_file", str(HERE / "animals-dev.json"))
    return (
        *("train", "question-answering", "--output_dir", str(demo.folder / name)),
        *("--model_name_or_path", model, "--recipe", recipe, *data, "--do_train", "--do_eval"),
        *("--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "32"),
        *("--max_seq_length", str(SEQUENCE_LENGTH), "--doc_stride", "128", "--bf16", "--seed", "7"),
        *("--save_strategy", "no"),
    )


def _publish_and_pull(demo: Demo) -> None:
    demo.say(5, "Published, and pulled into an empty cache with every file verified")
    demo.zoo("publish", str(demo.folder / "student"), STUDENT, "--alias", STUDENT_ALIAS, "--tag", "demo")
    demo.zoo("pull", STUDENT_ALIAS, cache="second-cache")
    demo.zoo("cache", "verify", cache="second-cache")


def _measure(demo: Demo) -> dict[str, Any]:
    demo.say(6, "Measured: the dense and the sparse model, both on the Sparrow engine")
    return {name: model_figures(demo.zoo_json, demo.folder / name / "deployment") for name in ("teacher", "student")}


def model_figures(zoo_json: Callable[..., Any], folder: Path) -> dict[str, Any]:
    """What the last table shows of the deployment `folder`: F1 in %, bytes, ms and items/s.

    `zoo_json` runs a zoo command, given by its arguments, and returns the JSON document that it prints.
    """
    model = folder / "model.onnx"
    with ThreadPoolExecutor(1) as pool:  # done before the benchmark, which needs the machine for itself
        gzipped = pool.submit(lambda: len(gzip.compress(model.read_bytes(), 6)))
        scores = zoo_json("evaluate", str(folder), "--dataset", str(HERE / "animals-dev.json"))
    benchmark = ("benchmark", str(folder), "--sequence_length", "128", "--time", "1")
    one, many = (zoo_json(*benchmark, "--batch_size", size)["benchmark_result"] for size in ("1", "16"))
    return {
        **scores["engines"]["sparrow"],
        "onnx_bytes": model.stat().st_size,
        "gzip_bytes": gzipped.result(),
        "latency_ms": one["median"],
        "items_per_s": many["items_per_sec"],
    }


def _serve(demo: Demo) -> dict[str, Any]:
    demo.say(7, "Served over HTTP, by its stub")
    question, context = _example()
    serve = ("serve", "--task", "question_answering", "--batch_size", "1", "--model_path", STUDENT_ALIAS)
    with demo.background("server", f"{demo.server_url}/v2/health/ready", *serve, "--port", str(demo.server_port)):
        body = json.dumps({"question": question, "context": context}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own loopback server
            f"{demo.server_url}/predict", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
    demo.console.print(f"   POST /predict  {question!r}\n   -> {answer}")
    demo.zoo("run", STUDENT_ALIAS, "--question", question, "--context", context)
    return {"question": question, **answer}


def _example() -> tuple[str, str]:
    paragraph = json.loads((HERE / "animals-dev.json").read_text("utf-8"))["data"][0]["paragraphs"][0]
    return paragraph["qas"][0]["question"], paragraph["context"]


def _report(demo: Demo, figures: dict[str, Any]) -> None:
    teacher, student = figures["teacher"], figures["student"]
    table = Table(title="Dense against sparse-quantized, on this machine", title_justify="left")
    for heading in ("", "dense FP32", "80 % 1x4 INT8", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, key, scale, form, better in ROWS:
        dense, sparse = teacher[key] / scale, student[key] / scale
        ratio = (sparse / dense if better == "more" else dense / sparse) if dense and sparse else float("nan")
        shown = f"{sparse - dense:+.1f}" if better == "difference" else f"{ratio:.1f}x"
        table.add_row(label, form.format(dense), form.format(sparse), shown)
    demo.console.print()
    demo.console.print(table)
    demo.console.print(
        "Three epochs of a few hundred questions win back most of what pruning to 80 % costs;\n"
        "docs/results.md tells of a longer run.\n\n"
        f"The chain took {figures['seconds']} s. To come back to it:\n"
        f"  ZOO_ENDPOINT={demo.registry_url}\n"
        f"  registry, with a page per model:  zoo registry serve --folder {demo.folder / 'registry'} "
        f"--port {demo.registry_port}\n     {demo.registry_url}/models/{STUDENT.removeprefix('zoo:')}\n"
        f"  server:  zoo serve --task question_answering --model_path {demo.folder / 'student'} "
        f"--port {demo.server_port}\n     {demo.server_url}/\n",
        soft_wrap=True,
    )


ROWS: tuple[tuple[str, str, float, str, str], ...] = (
    ("F1 on unseen animals, %", "f1", 1, "{:.1f}", "difference"),
    ("model.onnx, MB", "onnx_bytes", 1e6, "{:.1f}", "less"),
    ("model.onnx gzipped, MB", "gzip_bytes", 1e6, "{:.1f}", "less"),
    ("latency, 1 x 128 tokens, ms", "latency_ms", 1, "{:.2f}", "less"),
    ("throughput, 16 x 128 tokens, items/s", "items_per_s", 1, "{:.0f}", "more"),
)


def _fresh_folder(folder: Path) -> Path:
    if blocked := file_in_the_way(folder):
        raise ZooError(f"{blocked} is a file; name another folder with --folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise ZooError(f"{folder} exists and is no earlier demo; name another with --folder, or empty it")
    keep = folder / "downloads"
    for entry in folder.iterdir() if folder.exists() else ():
        if entry != keep:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UnavailableError("no free port on 127.0.0.1")


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own loopback server
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    tail = log.read_text("utf-8", "replace")[-800:]
    raise UnavailableError(f"{url} did not answer; the end of {log}:\n{tail}")


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text
