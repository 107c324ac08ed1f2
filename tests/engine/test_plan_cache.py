"""Plans on disk: made once, shared, never trusted, and right whatever happens to the files around them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import engine
from engine import plan, plan_cache
from engine.plan_cache import HashedFile, cached_plans, prune_plans
from engine.program import Embed
from tests.engine.models import Bert
from tests.engine.programs import tiny_bert

IDS = np.array([[5, 7, 9, 11]])


def save(folder: Path, seed: int = 0, external: bool = False) -> Path:
    """A tiny BERT as `folder`/model.onnx, old enough to count as settled."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    (folder / "weights.bin").unlink(missing_ok=True)
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 64} if external else {}
    onnx.save(Bert("qdq", layers=1, seed=seed).build(), path, **options)
    return path


def result(path: Path, **options: Any) -> Any:
    """The model's first output for IDS, and whether it had to be compiled."""
    before = {p: p.stat().st_ino for p in path.parent.glob(".sparrow/*.plan")}
    with engine.compile(path, 1, **options) as model:
        out = next(
            iter(model.run({n: IDS if n == "input_ids" else np.ones_like(IDS) for n in model.input_names}).values())
        )
    after = {p: p.stat().st_ino for p in path.parent.glob(".sparrow/*.plan")}
    return out, before != after


def plan_of(path: Path) -> Path:
    (found,) = path.parent.glob(".sparrow/*.plan")
    return found


def test_the_second_start_opens_the_plan_and_imports_no_onnx(tmp_path: Path) -> None:
    path = save(tmp_path)
    first, compiled = result(path)
    assert compiled
    program = (
        f"import sys, engine, numpy; m = engine.compile({str(path)!r}, 1); x = numpy.array({IDS.tolist()});\n"
        "out = m.run({n: x if n == 'input_ids' else numpy.ones_like(x) for n in m.input_names})\n"
        "print('onnx' in sys.modules, numpy.asarray(next(iter(out.values()))).tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", first.tobytes().hex()]
    assert sorted(p.name for p in (tmp_path / ".sparrow").iterdir()) == [plan_of(path).name, "model.onnx.json"]
    assert plan_of(path).stat().st_mode & 0o222 == 0


def test_a_changed_model_is_compiled_again_even_with_equal_size_and_time(tmp_path: Path) -> None:
    path = save(tmp_path)
    first, _ = result(path)
    status = path.stat()
    save(tmp_path, seed=1)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second, compiled = result(path)
    assert compiled
    assert not np.array_equal(first, second)


def test_a_touched_model_keeps_its_plan(tmp_path: Path) -> None:
    path = save(tmp_path)
    first, _ = result(path)
    os.utime(path, (1, 1))
    second, compiled = result(path)
    assert not compiled
    assert np.array_equal(first, second)


@pytest.mark.parametrize("settled", [True, False])
def test_changed_external_data_is_noticed(tmp_path: Path, settled: bool) -> None:
    path = save(tmp_path, external=True)
    first, _ = result(path)
    if settled:
        age_memo(path)
    weights = tmp_path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2 :] = content[len(content) // 2 :][::-1]
    weights.write_bytes(content)
    second, compiled = result(path)
    assert compiled
    assert not np.array_equal(first, second)
    weights.unlink()
    with pytest.raises(engine.ModelError, match=r"weights\.bin"):
        result(path)


def age_memo(path: Path) -> None:
    """Makes the memo say that the files were hashed long after they were written."""
    memo = path.parent / ".sparrow" / "model.onnx.json"
    document = json.loads(memo.read_text())
    for entry in document["files"].values():
        entry["hashed_at_ns"] += 3_600_000_000_000
    memo.write_text(json.dumps(document))


def test_a_settled_model_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path)
    first, _ = result(path)
    age_memo(path)
    path.chmod(0o600)
    result(path)  # the inode's time has changed: hashed again, and noted
    age_memo(path)
    monkeypatch.setattr(HashedFile, "hash", lambda path: pytest.fail(f"{path} is read"))
    before = (tmp_path / ".sparrow" / "model.onnx.json").read_bytes()
    second, compiled = result(path)
    assert not compiled
    assert np.array_equal(first, second)
    assert (tmp_path / ".sparrow" / "model.onnx.json").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\0" * len(content),
        lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:],
        lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
        lambda content: plan.encode(tiny_bert()),
        lambda content: content[:112] + bytes(32) + content[144:],
    ],
    ids=["empty", "short", "zeros", "flipped", "torn", "of another model", "of an unknown source"],
)
def test_damaged_and_foreign_plans_are_replaced(tmp_path: Path, damage: Any) -> None:
    path = save(tmp_path)
    first, _ = result(path)
    target, content = plan_of(path), plan_of(path).read_bytes()
    target.chmod(0o600)
    target.write_bytes(damage(content))
    target.chmod(0o444)
    second, compiled = result(path)
    assert compiled
    assert np.array_equal(first, second)
    assert plan_of(path).read_bytes() == content


@pytest.mark.parametrize(
    "memo",
    [b"", b"\xff", b"[]", b"{}", b'{"files": {}}', b'{"files": {"model.onnx": {}}}', b'{"files": []}', b"[" * 100_000,
     b'{"files": {"model.onnx": {"sha256": 1, "state": {}, "hashed_at_ns": "x"}}}'],
)  # fmt: skip
def test_a_damaged_memo_costs_only_time(tmp_path: Path, memo: bytes) -> None:
    path = save(tmp_path)
    first, _ = result(path)
    (tmp_path / ".sparrow" / "model.onnx.json").write_bytes(memo)
    second, compiled = result(path)
    assert compiled
    assert np.array_equal(first, second)
    assert not result(path)[1]


@pytest.mark.parametrize("name", ["plan", "json"])
def test_what_others_can_write_is_not_used(tmp_path: Path, name: str) -> None:
    path = save(tmp_path)
    result(path)
    (target,) = (tmp_path / ".sparrow").glob(f"*.{name}")
    target.chmod(0o666)
    assert result(path)[1]
    assert target.stat().st_mode & 0o022 == 0


def test_a_plan_of_another_compiler_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path)
    result(path)
    monkeypatch.setattr("engine.plan_cache.compiler_digest", lambda: "another")
    assert result(path)[1]


def test_each_instruction_set_has_its_own_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path)
    first, _ = result(path)
    monkeypatch.setenv("SPARROW_ISA", "scalar")
    second, _ = result(path)
    assert np.array_equal(first, second)
    assert (tmp_path / ".sparrow" / "model.onnx.scalar.plan").is_file()


def test_a_plan_that_is_swapped_after_the_check_is_not_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path)
    first, _ = result(path)
    check = plan_cache._only_we_can_write

    def swap(status: os.stat_result) -> bool:
        if status.st_ino == plan_of(path).stat().st_ino:
            (tmp_path / "other").write_bytes(plan.encode(tiny_bert()))
            (tmp_path / "other").replace(plan_of(path))
        return check(status)

    monkeypatch.setattr(plan_cache, "_only_we_can_write", swap)
    monkeypatch.setattr(plan_cache, "_compile", lambda *_: pytest.fail("compiled again"))
    assert np.array_equal(result(path)[0], first)
    assert plan_of(path).read_bytes() == plan.encode(tiny_bert())


def test_uncached_leaves_nothing(tmp_path: Path) -> None:
    path = save(tmp_path)
    result(path, cached=False)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    path = save(tmp_path)
    (tmp_path / ".sparrow").mkdir()
    old, fresh = (tmp_path / ".sparrow" / f".model.onnx.scalar.plan.{name}" for name in ("old", "fresh"))
    old.touch()
    fresh.touch()
    os.utime(old, (1, 1))
    result(path)
    assert not old.exists()
    assert fresh.exists()


def test_an_unwritable_folder_puts_the_plan_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "model")
    cache = tmp_path / "cache"
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != path.parent)  # root may write everywhere
    first = result(path)[0]
    (found,) = cached_plans(cache)
    assert found.model == path
    assert not (path.parent / ".sparrow").exists()
    written = found.path.stat().st_mtime_ns
    second = result(path)[0]
    assert np.array_equal(first, second)
    assert found.path.stat().st_mtime_ns == written
    assert not prune_plans(cache, max_age_s=3600).plans
    os.utime(found.path.parent / "model.onnx.json", (1, 1))
    assert prune_plans(cache, max_age_s=3600, dry_run=True).freed_bytes == found.size_bytes
    assert found.path.exists()
    assert prune_plans(cache, max_age_s=3600).plans == (str(found.path),)
    assert not found.path.exists()
    assert np.array_equal(result(path)[0], first)


def test_a_full_disk_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path)
    expected = result(path, cached=False)[0]
    (tmp_path / ".sparrow").write_bytes(b"a file where the folder should be")
    monkeypatch.setenv("ZOO_CACHE", "/dev/full/cache")
    assert np.array_equal(result(path)[0], expected)
    assert "compiled at each start" in caplog.text


def test_processes_that_start_together_compile_once_and_agree(tmp_path: Path) -> None:
    path = save(tmp_path)
    program = (
        "import sys, engine, numpy\n"
        f"m = engine.compile({str(path)!r}, 1); x = numpy.array({IDS.tolist()})\n"
        "out = m.run({n: x if n == 'input_ids' else numpy.ones_like(x) for n in m.input_names})\n"
        "print('onnx' in sys.modules, next(iter(out.values())).tobytes().hex())"
    )
    children = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [child.communicate(timeout=60)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len({out for _, out in said}) == 1
    assert sum(compiled == "True" for compiled, _ in said) == 1
    assert len(list((tmp_path / ".sparrow").iterdir())) == 2


def test_processes_share_the_plans_pages(tmp_path: Path) -> None:
    """Two processes with one plan open: its pages count half for each."""
    big = tmp_path / "big.plan"
    program = tiny_bert()
    embed = program.steps[0]
    assert isinstance(embed, Embed)
    first, *others = embed.tables
    rows = np.random.default_rng(0).standard_normal((100_000, first.values.shape[1]), np.float32)
    wide = dataclasses.replace(embed, tables=(dataclasses.replace(first, values=rows), *others))
    plan.write_plan(dataclasses.replace(program, steps=(wide, *program.steps[1:])), big)
    script = (
        f"import sys; from engine.runtime import CompiledModel; m = CompiledModel.from_plan({str(big)!r}, 1)\n"
        "print('open', flush=True); sys.stdin.readline()\n"
        "at = False\n"
        "for line in open('/proc/self/smaps'):\n"
        "    at = line.rstrip().endswith('big.plan') if '-' in line.split()[0] else at\n"
        "    if at and line.startswith(('Rss', 'Pss:')): print(line.split()[1], flush=True)\n"
        "sys.stdin.readline()"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
    for child in children:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n")
        child.stdin.flush()
        rss, pss = int(child.stdout.readline()), int(child.stdout.readline())
        assert rss * 1024 >= big.stat().st_size * 0.95
        assert pss <= 0.55 * rss
    for child in children:
        child.communicate("\n", timeout=30)


def test_streams_run_side_by_side_over_one_plan(tmp_path: Path) -> None:
    path = save(tmp_path)
    with engine.compile(path, 3, 2) as model:
        assert (model.num_cores, model.num_streams) == (3, 2)
        feeds = [
            {n: np.full((1, 5), 3 + i) if n == "input_ids" else np.ones((1, 5), int) for n in model.input_names}
            for i in range(6)
        ]
        expected = [next(iter(model.run(feed).values())) for feed in feeds]
        with ThreadPoolExecutor(6) as pool:
            for _ in range(20):
                found = [next(iter(out.values())) for out in pool.map(model.run, feeds)]
                assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    with engine.compile(path, 2, 5) as capped:
        assert (capped.num_cores, capped.num_streams) == (2, 2)
    with pytest.raises(engine.ExecutionError, match="num_streams"):
        engine.compile(path, 2, 0)


def test_closing_while_callers_wait_ends_them_with_an_error(tmp_path: Path) -> None:
    path = save(tmp_path)
    model = engine.compile(path, 1)
    feed = {n: np.ones((8, 40), int) for n in model.input_names}
    problems: list[BaseException] = []

    def call() -> None:
        try:
            while True:
                model.run(feed)
        except engine.ExecutionError as error:
            problems.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    model.close()
    for thread in threads:
        thread.join(20)
    assert [str(problem) for problem in problems] == ["this model is closed"] * 4
