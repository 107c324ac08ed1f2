"""From a folder to a version, against a real registry. Rows are those of the list of faults."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import zoo
from registry.admin import create_token
from registry.settings import Settings as RegistrySettings
from tests.registry.builders import graph
from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer, noise
from tests.zoo.live_registry import serving
from zoo.errors import AccessError, ConflictError, IntegrityError, NotFoundError, StubError, UnavailableError, ZooError
from zoo.progress import ProgressEvent
from zoo.settings import Patience, Settings

LONG = "zoo:nlp/question_answering/bert-base_cased/pytorch/huggingface/squad-augmented/pruned80_quant-none-vnni"
QUICK = Patience(connect_s=1, read_s=5, request_s=5, total_s=5, attempts=3, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture
def settings(registry: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=registry, patience=QUICK)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name of its own for each test."""
    return "zoo:" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:100]


def build(folder: Path, **files: bytes | str) -> Path:
    """`a__b_c` stands for a/b.c."""
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build(
        tmp_path / "model",
        training__config_json="{}",
        training__model_safetensors=noise(3, 100_000),
        deployment__model_onnx=graph(noise(4, 50_000)),
        recipe_md="modifiers: []\n",
    )


def test_publishes_once_and_uploads_only_what_changed(settings: Settings, model: Path, name: str) -> None:
    first = zoo.publish(model, name, tags=["prod"], settings=settings)
    assert (str(first.stub), first.version, first.created) == (f"{name}@v1", 1, True)
    again = zoo.publish(model, name, settings=settings)
    assert (again.digest, again.version, again.created, again.uploaded_bytes) == (first.digest, 1, False, 0)
    (model / "recipe.md").write_text("modifiers: []\na: 1\n")
    second = zoo.publish(model, name, settings=settings)
    assert (second.version, second.created, second.uploaded_bytes) == (2, True, 19)
    assert zoo.resolve(f"{name}@prod", settings=settings).version == 1
    assert zoo.resolve(name, settings=settings).version == 2


def test_progress_tells_hashing_and_upload(settings: Settings, tmp_path: Path, name: str) -> None:
    events: list[ProgressEvent] = []
    folder = build(tmp_path / "m", training__model_safetensors=noise(name, 3_000_000))
    zoo.publish(folder, name, settings=settings, progress=events.append)
    assert next(event.action for event in events if event.done_bytes == event.total_bytes) == "hash"
    uploads = [event.done_bytes for event in events if event.action == "upload"]
    assert uploads == sorted(uploads)
    assert len(set(uploads)) > 2


def test_version_number_may_be_asked_for(settings: Settings, model: Path, name: str) -> None:
    assert zoo.publish(model, f"{name}@v1", settings=settings).version == 1
    (model / "recipe.md").write_text("modifiers: []\na: 1\n")
    with pytest.raises(ConflictError):
        zoo.publish(model, f"{name}@v1", settings=settings)
    assert zoo.resolve(name, settings=settings).version == 1


def test_alias_and_metadata(settings: Settings, tmp_path: Path) -> None:
    card = "---\nlicense: apache-2.0\ndatasets: [squad]\nsparsity: 0.8\nbase_model: bert-base\nlanguage: en\n---\ntext"
    report = '{"sparsity": 0.79, "pattern": "1x4", "quantized": true, "metrics": {"f1": 90.5}, "seconds": 7}'
    folder = build(tmp_path / "m", model_md=card, report_json=report, training__a_safetensors=b"1")
    zoo.publish(folder, LONG, alias="zoo:bert-alias", settings=settings)
    metadata = zoo.resolve("zoo:bert-alias", settings=settings).manifest.metadata
    assert metadata.model_dump(exclude_none=True) == {
        "domain": "nlp",
        "task": "question_answering",
        "architecture": "bert",
        "sub_architecture": "base_cased",
        "framework": "pytorch",
        "repo": "huggingface",
        "dataset": "squad",
        "license": "apache-2.0",
        "sparsity": 0.8,
        "pattern": "1x4",
        "quantized": True,
        "metrics": {"f1": 90.5},
    }


def test_row_07_a_short_name_never_means_two_models(settings: Settings, model: Path, name: str) -> None:
    zoo.publish(model, name, alias=f"{name}-short", settings=settings)
    with pytest.raises(ConflictError, match=f"{name}-short"):
        zoo.publish(model, f"{name}-other", alias=f"{name}-short", settings=settings)
    assert zoo.resolve(f"{name}-short", settings=settings).name == name
    with pytest.raises(NotFoundError):
        zoo.resolve(f"{name}-other", settings=settings)


@pytest.mark.parametrize("stub", ["zoo:a?recipe=x", f"zoo:a@sha256:{'0' * 64}", "nope"])
def test_stubs_that_name_no_place_for_a_version(settings: Settings, model: Path, stub: str) -> None:
    with pytest.raises(StubError):
        zoo.publish(model, stub, settings=settings)


@pytest.mark.parametrize(
    ("alias", "reason"),
    [
        ("mini", "an alias starts with 'zoo:', such as zoo:mini"),
        ("./mini", "an alias starts with 'zoo:'"),
        ("", "an alias starts with 'zoo:'"),
        ("zoo:Mini", "upper-case letters"),
        ("zoo:mini@v1", "neither pin nor query"),
        ("zoo:mini?recipe=a", "neither pin nor query"),
    ],
)
def test_a_wrong_alias_is_told_as_one_before_anything_is_sent(
    settings: Settings, model: Path, name: str, alias: str, reason: str
) -> None:
    with pytest.raises(
        StubError, match=f"^'{re.escape(alias)}' is no stub: it is to be an alias, and .*{reason}"
    ) as told:
        zoo.publish(model, name, alias=alias, settings=settings)
    assert "local" not in str(told.value)
    with pytest.raises(NotFoundError):
        zoo.resolve(name, settings=settings)


def test_offline_and_wrong_tags_publish_nothing(settings: Settings, model: Path, name: str) -> None:
    with pytest.raises(UnavailableError, match="offline"):
        zoo.publish(model, name, settings=replace(settings, offline=True))
    with pytest.raises(ZooError, match="no tag"):
        zoo.publish(model, name, tags=["v9"], settings=settings)
    with pytest.raises(NotFoundError):
        zoo.resolve(name, settings=settings)


def test_file_that_changes_while_it_is_uploaded(settings: Settings, proxy: FaultServer, model: Path, name: str) -> None:
    (model / "training/model.safetensors").write_bytes(noise(9, 3_000_000))

    def change(exchange: faulty.Exchange) -> None:
        (model / "training/model.safetensors").write_bytes(noise(8, 3_000_000))
        faulty.well(exchange)

    proxy.faults = [faulty.well, change]
    with pytest.raises(IntegrityError, match=r"model\.safetensors changed while .*publish again"):
        zoo.publish(model, name, settings=replace(settings, endpoint=proxy.url))
    with pytest.raises(NotFoundError):
        zoo.resolve(name, settings=settings)


@pytest.mark.parametrize("change", ["grows", "shrinks", "vanishes"])
def test_file_that_changes_before_the_version(
    settings: Settings, proxy: FaultServer, model: Path, name: str, change: str
) -> None:
    zoo.publish(model, name, settings=settings)
    (model / "recipe.md").write_text(change)
    victim = model / "deployment/model.onnx"

    def meddle(exchange: faulty.Exchange) -> None:
        faulty.well(exchange)
        data = victim.read_bytes()
        victim.unlink() if change == "vanishes" else victim.write_bytes(data + b"x" if change == "grows" else data[:-1])

    proxy.faults = [faulty.well, meddle]
    with pytest.raises(IntegrityError, match="publish again"):
        zoo.publish(model, name, settings=replace(settings, endpoint=proxy.url))
    assert zoo.resolve(name, settings=settings).version == 1


@pytest.mark.parametrize(
    "fault", [faulty.cut_in_headers, faulty.refused(503), faulty.refused(429, {"Retry-After": "0"})]
)
def test_upload_is_repeated(
    settings: Settings, proxy: FaultServer, model: Path, name: str, fault: faulty.Fault
) -> None:
    proxy.faults = [faulty.well, faulty.well, fault, fault]
    assert zoo.publish(model, name, settings=replace(settings, endpoint=proxy.url)).created


def test_lost_answer_of_the_version_is_asked_again(
    settings: Settings, proxy: FaultServer, model: Path, name: str
) -> None:
    def lose(exchange: faulty.Exchange) -> None:
        exchange.good()

    zoo.publish(model, f"{name}-other", settings=settings)
    proxy.faults = [faulty.well, faulty.well, lose]
    published = zoo.publish(model, name, settings=replace(settings, endpoint=proxy.url))
    assert (published.version, len(zoo.resolve(name, settings=settings).manifest.files)) == (1, 4)


def test_row_35_token_is_checked_before_anything_is_uploaded(model: Path, tmp_path: Path, name: str) -> None:
    with serving(tmp_path / "storage", require_token=True) as url, FaultServer(upstream=url).running() as proxy:
        settings = Settings(home=tmp_path, cache=tmp_path / "cache", endpoint=proxy.url, patience=QUICK)
        for token in (None, "zoo_nonsense"):
            with pytest.raises(AccessError, match="zoo auth login"):
                zoo.publish(model, name, settings=replace(settings, token=token))
        assert {exchange.path for exchange in proxy.requests} == {"/api/v1/whoami"}
        token = create_token(RegistrySettings.load(storage=tmp_path / "storage"), "tester")
        assert zoo.publish(model, name, settings=replace(settings, token=token)).created


KILLED = """
import sys, zoo
from zoo.settings import Settings
from pathlib import Path
home = Path(sys.argv[1])
zoo.publish(Path(sys.argv[2]), sys.argv[3], settings=Settings(home=home, cache=home / "cache", endpoint=sys.argv[4]))
"""


def test_row_18_publisher_killed_at_any_request(
    settings: Settings, proxy: FaultServer, model: Path, name: str, tmp_path: Path
) -> None:
    """Each round kills the publisher while its n-th request is served; the version is there whole, or not at all."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(model), name, proxy.url]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for fatal in range(4):
        (model / "training/model.safetensors").write_bytes(noise(f"{name}{fatal}", 400_000))
        process = subprocess.Popen(command, env=environment)

        def kill(exchange: faulty.Exchange, process: subprocess.Popen[bytes] = process) -> None:
            process.kill()
            faulty.well(exchange)

        proxy.faults = [*[faulty.well] * fatal, kill]
        assert process.wait(60) == -9
        time.sleep(0.05)
        assert_whole_or_absent(settings, name)
        done = zoo.publish(model, name, settings=settings)
        assert zoo.pull(str(done.stub), "training", settings=settings).joinpath("model.safetensors").read_bytes() == (
            (model / "training/model.safetensors").read_bytes()
        )


def assert_whole_or_absent(settings: Settings, name: str) -> None:
    try:
        folder = zoo.pull(name, settings=settings)
    except NotFoundError:
        return
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 4


# --- large files, in chunks


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks so small that a test's file has several."""
    size = 1 << 16
    monkeypatch.setattr("zoo.upload.WHOLE_BYTES", size)
    monkeypatch.setattr("zoo.upload.CHUNK_BYTES", size)
    return size


@pytest.fixture
def large(tmp_path: Path, name: str) -> Path:
    return build(tmp_path / "large", training__model_safetensors=noise(name, 400_000))


def test_a_large_file_goes_in_chunks_and_a_cut_costs_one_of_them(
    proxy: FaultServer, settings: Settings, large: Path, name: str, chunks: int
) -> None:
    through = replace(settings, endpoint=proxy.url, patience=replace(QUICK, attempts=1, connect_attempts=1))
    # whoami, missing, begin, two chunks, then the connection breaks
    proxy.faults[:] = [faulty.well] * 5 + [faulty.cut_in_headers] * 40
    with pytest.raises(UnavailableError):
        zoo.publish(large, name, settings=through)
    sent = [request.path for request in proxy.requests if request.method == "PATCH"]
    assert len(sent) == 3
    done = zoo.publish(large, name, settings=settings)
    assert (done.created, done.version) == (True, 1)
    folder = zoo.pull(name, settings=settings)
    assert (folder / "training/model.safetensors").read_bytes() == noise(name, 400_000)


def test_a_chunk_whose_answer_was_lost_is_not_sent_twice(
    proxy: FaultServer, settings: Settings, large: Path, name: str, chunks: int
) -> None:
    def swallow(exchange: faulty.Exchange) -> None:
        exchange.good()
        faulty.cut_in_headers(exchange)

    proxy.faults[:] = [faulty.well] * 3 + [swallow]
    assert zoo.publish(large, name, settings=replace(settings, endpoint=proxy.url)).created
    offsets = [request.headers["upload-offset"] for request in proxy.requests if request.method == "PATCH"]
    assert offsets == [str(number) for number in (0, 0, *range(chunks, 400_000, chunks))]


def test_a_large_file_that_changes_while_it_is_sent_is_refused(
    proxy: FaultServer, settings: Settings, large: Path, name: str, chunks: int
) -> None:
    path = large / "training/model.safetensors"

    def change(exchange: faulty.Exchange) -> None:
        status = path.stat()
        path.write_bytes(noise("other", 400_000))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        faulty.well(exchange)

    proxy.faults[:] = [faulty.well] * 3 + [change]
    with pytest.raises(IntegrityError, match="changed while"):
        zoo.publish(large, name, settings=replace(settings, endpoint=proxy.url))
    with pytest.raises(NotFoundError):
        zoo.resolve(name, settings=settings)


def test_a_file_that_the_registry_finds_too_large_is_named(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.md").write_text("# A model\n")
    with serving(tmp_path / "registry", max_blob_bytes=4) as url:
        mine = Settings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=url)
        with pytest.raises(ZooError, match=r"^model\.md is too large: 10 bytes are more than the 4"):
            zoo.publish(tmp_path / "model", "zoo:large", settings=mine)


def test_a_mask_of_80_percent_is_found_by_who_asks_for_80_percent(settings: Settings, tmp_path: Path) -> None:
    layers = {"a": {"sparsity": 29_491 / 36_864, "elements": 147_456}}  # whole blocks of 1x4
    folder = build(tmp_path / "m", report_json=json.dumps({"sparsity": layers}), training__a_safetensors=b"1")
    zoo.publish(folder, "zoo:masked-80", settings=settings)
    assert [item.name for item in zoo.search("masked", sparsity_min=0.8, settings=settings).items] == ["zoo:masked-80"]
