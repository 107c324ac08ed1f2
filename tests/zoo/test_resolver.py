"""From stubs to files, against a real registry. Rows are those of the list of faults."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoo
from tests.registry.builders import graph
from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer
from tests.zoo.live_registry import serving
from zoo import housekeeping
from zoo.cache import Cache
from zoo.errors import IntegrityError, NotFoundError, StubError, UnavailableError
from zoo.manifest import Role
from zoo.progress import ProgressEvent, ZooWarning
from zoo.settings import Patience, Settings
from zoo.stub import Stub

LONG = "zoo:nlp/question_answering/bert-large/pytorch/huggingface/squad/pruned80_quant-none-vnni"
SHORT = "zoo:bert-large-wikipedia_bookcorpus-pruned80.4block_quantized"
QUICK = Patience(connect_s=1, read_s=5, request_s=5, total_s=5, attempts=2, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("registry")) as url:
        yield url


@pytest.fixture
def proxy(registry: str) -> Iterator[FaultServer]:
    """The real registry behind a server that counts requests and can misbehave."""
    with FaultServer(upstream=registry).running() as running:
        yield running


@pytest.fixture
def settings(proxy: FaultServer, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", cache=tmp_path / "cache", endpoint=proxy.url, patience=QUICK)


@pytest.fixture
def offline(settings: Settings) -> Settings:
    return replace(settings, offline=True)


def build(folder: Path, seed: int = 0) -> Path:
    files = {
        "training/config.json": b"{}",
        "training/model.safetensors": bytes([seed]) * 5000,
        "deployment/model.onnx": graph(bytes([seed, 1]) * 3000),
        "deployment/tokenizer.json": b"{}",
        "recipe.md": b"modifiers: []\na: 1\n",
        "recipe_transfer.md": b"modifiers: []\nb: 1\n",
        "recipe_transfer_learn.yaml": b"modifiers: []\nc: 1\n",
        "recipe_original.yaml": b"modifiers: []\nd: 1\n",
        "model.md": b"---\nlicense: apache-2.0\n---\n# A model\n",
        "sample-inputs/inp-0000.npz": b"npz",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def published(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("model"))
    settings = Settings(home=folder, cache=folder.parent / "cache", endpoint=registry)
    zoo.publish(folder, LONG, alias=SHORT, tags=["prod"], settings=settings)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.usefixtures("published")
def test_roles_give_folders_and_files(settings: Settings) -> None:
    assert content(zoo.pull(LONG, "deployment", settings=settings)).keys() == {"model.onnx", "tokenizer.json"}
    assert content(zoo.pull(SHORT, Role.TRAINING, settings=settings)).keys() == {"config.json", "model.safetensors"}
    assert zoo.pull(LONG, "card", settings=settings).name == "model.md"
    assert zoo.pull(LONG, "sample-inputs", settings=settings).name == "sample-inputs"
    with pytest.raises(NotFoundError, match="no files with the role benchmark; it has card, deployment"):
        zoo.pull(LONG, "benchmark", settings=settings)
    with pytest.raises(NotFoundError, match="no role 'nonsense'; the roles are training, deployment"):
        zoo.pull(LONG, "nonsense", settings=settings)


def test_whole_model_is_the_folder_that_was_published(settings: Settings, published: Path) -> None:
    folder = zoo.pull(LONG, settings=settings)
    assert content(folder) == content(published)
    assert not [
        path for path in folder.rglob("*") if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1)
    ]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("stub", "name"),
    [
        (SHORT, "recipe.md"),
        (f"{SHORT}?recipe=original", "recipe_original.yaml"),
        (f"{SHORT}?recipe_type=transfer", "recipe_transfer.md"),
        (f"{LONG}/transfer_learn", "recipe_transfer_learn.yaml"),
        (f"{LONG}?recipe=orig", "recipe_original.yaml"),
    ],
)
def test_recipe_rule(settings: Settings, stub: str, name: str) -> None:
    path = zoo.pull(stub, "recipe", settings=settings)
    assert path.name == name
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.usefixtures("published")
def test_recipe_that_nobody_or_several_could_be_meant_is_an_error(settings: Settings) -> None:
    with pytest.raises(
        NotFoundError, match=r"2 recipes could be meant; there are recipe_transfer\.md, recipe_transfer_l"
    ):
        zoo.pull(f"{SHORT}?recipe=trans", "recipe", settings=settings)
    with pytest.raises(NotFoundError, match=r"no recipe's name starts with recipe_x; there are recipe\.md"):
        zoo.pull(f"{SHORT}?recipe=x", "recipe", settings=settings)


@pytest.mark.usefixtures("published")
def test_row_06_unknown_names_nearest_and_where(settings: Settings) -> None:
    with pytest.raises(NotFoundError) as caught:
        zoo.pull(SHORT.replace("large", "larg"), settings=settings)
    assert SHORT in str(caught.value)
    assert settings.endpoint in str(caught.value)


def test_a_wrong_stub_reaches_neither_disk_nor_network(settings: Settings, proxy: FaultServer) -> None:
    with pytest.raises(StubError):
        zoo.pull("zoo:../../etc/passwd", settings=settings)
    assert proxy.requests == []


@pytest.mark.usefixtures("published")
def test_cached_digest_pin_makes_no_request(settings: Settings, proxy: FaultServer) -> None:
    first = zoo.pull(LONG, "deployment", settings=settings)
    digest = zoo.resolve(LONG, settings=settings).digest
    proxy.requests.clear()
    assert zoo.pull(f"{LONG}@{digest}", "deployment", settings=settings) == first
    assert zoo.pull(f"{SHORT}@{digest}", "deployment", settings=settings) == first
    assert proxy.requests == []


@pytest.mark.usefixtures("published")
def test_a_cached_digest_pin_loads_no_client_and_no_bars(settings: Settings) -> None:
    digest = zoo.resolve(LONG, settings=settings).digest
    zoo.pull(LONG, settings=settings)
    program = (
        "import atexit, sys, cli\n"
        "atexit.register(lambda: print(sorted({'httpx', 'rich', 'numpy'} & set(sys.modules))))\n"
        f"cli.main(['pull', '{LONG}@{digest}'])"
    )
    environment = {**os.environ, "ZOO_HOME": str(settings.home), "ZOO_CACHE": str(settings.cache)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(zoo.pull(LONG, settings=settings)), "[]"]


def test_an_answer_that_is_known_is_not_written_again(settings: Settings, published: Path) -> None:
    zoo.pull(LONG, settings=settings)
    before = {path: path.stat().st_ino for part in ("refs", "manifests") for path in (settings.cache / part).rglob("*")}
    zoo.pull(LONG, settings=settings)
    assert {path: path.stat().st_ino for path in before} == before


@pytest.mark.usefixtures("published")
def test_progress_adds_up(settings: Settings) -> None:
    events: list[ProgressEvent] = []
    zoo.pull(LONG, "training", settings=settings, progress=events.append)
    assert {event.action for event in events} == {"download"}
    assert events[-1].overall_done_bytes == events[-1].overall_total_bytes == 5002
    overall = [event.overall_done_bytes for event in events]
    assert overall == sorted(overall)


@pytest.mark.usefixtures("published")
def test_row_24_truncated_file_is_found_at_use_and_healed(settings: Settings) -> None:
    folder = zoo.pull(LONG, "deployment", settings=settings)
    path = folder / "model.onnx"
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-1])
    assert zoo.pull(LONG, "deployment", settings=settings) == folder
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("published")
def test_row_24_flipped_file_is_found_by_verify_and_healed(settings: Settings) -> None:
    path = zoo.pull(LONG, "deployment", settings=settings) / "model.onnx"
    assert housekeeping.verify(settings=settings).damage == ()
    whole, times = path.read_bytes(), path.stat()
    flip(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    found = housekeeping.verify(settings=settings)
    assert found.is_sound
    assert [(damage.path, damage.healed) for damage in found.damage] == [(path, True)]
    assert path.read_bytes() == whole
    assert housekeeping.verify(settings=settings).damage == ()


@pytest.mark.usefixtures("published")
def test_row_24_damage_that_cannot_be_healed_is_never_used(settings: Settings, offline: Settings) -> None:
    flip(zoo.pull(LONG, "deployment", settings=settings) / "model.onnx")
    with pytest.warns(ZooWarning, match="can't be healed"):
        found = housekeeping.verify(settings=offline)
    assert found.damage
    assert not any(damage.healed for damage in found.damage)
    assert not found.is_sound
    with pytest.warns(ZooWarning), pytest.raises(UnavailableError, match=r"lacks .*model\.onnx \([\d,]+ bytes\)"):
        zoo.pull(LONG, "deployment", settings=offline)


def test_what_another_version_has_is_copied(settings: Settings, proxy: FaultServer, tmp_path: Path) -> None:
    second, fetched = pull_two_versions("zoo:copied", settings, proxy, build(tmp_path / "m", 5))
    assert content(second) == content(tmp_path / "m")
    assert fetched == 1


def test_row_24_a_flipped_file_is_not_copied_into_another_version(
    settings: Settings, offline: Settings, proxy: FaultServer, tmp_path: Path
) -> None:
    damaged = "deployment/model.onnx"
    with pytest.warns(ZooWarning, match="fetching it once more"):
        second, fetched = pull_two_versions("zoo:two", settings, proxy, build(tmp_path / "m", 6), damaged)
    assert content(second) == content(tmp_path / "m")
    assert fetched == 2
    flip(second / damaged)
    with pytest.warns(ZooWarning), pytest.raises(UnavailableError, match=r"download deployment/model\.onnx of zoo:two"):
        zoo.pull("zoo:two@v2", "deployment", settings=offline)


def pull_two_versions(
    name: str, settings: Settings, proxy: FaultServer, model: Path, damaged: str | None = None
) -> tuple[Path, int]:
    """Publishes and pulls a model, then again with another recipe; how many files the second pull downloaded."""
    zoo.publish(model, name, settings=settings)
    first = zoo.pull(name, settings=settings)
    if damaged:
        flip(first / damaged)
    (model / "recipe.md").write_text("modifiers: []\nz: 1\n")
    zoo.publish(model, name, settings=settings)
    proxy.requests.clear()
    second = zoo.pull(name, settings=settings)
    return second, sum("/blobs/" in request.path for request in proxy.requests)


@pytest.mark.usefixtures("published")
def test_row_26_offline_with_everything_cached(settings: Settings, offline: Settings, proxy: FaultServer) -> None:
    online = {stub: zoo.pull(stub, settings=settings) for stub in (LONG, SHORT, f"{LONG}@prod", f"{LONG}@v1")}
    proxy.requests.clear()
    with pytest.warns(ZooWarning, match="known from before"):
        assert {stub: zoo.pull(stub, settings=offline) for stub in online} == online
    assert proxy.requests == []


@pytest.mark.usefixtures("published")
def test_row_26_offline_with_some_cached_names_the_missing(settings: Settings, offline: Settings) -> None:
    zoo.pull(LONG, "recipe", settings=settings)
    with (
        pytest.warns(ZooWarning),
        pytest.raises(UnavailableError, match=r"training/model\.safetensors \(5,000 bytes\)"),
    ):
        zoo.pull(LONG, settings=offline)


def test_row_26_offline_with_nothing_cached(offline: Settings) -> None:
    with pytest.raises(UnavailableError, match="offline, and zoo:nobody isn't in the cache") as caught:
        zoo.pull("zoo:nobody", settings=offline)
    assert caught.value.exit_code == 6
    with pytest.raises(UnavailableError, match="offline"):
        zoo.search(settings=offline)


@pytest.mark.usefixtures("published")
def test_row_26_registry_gone_uses_the_last_known(settings: Settings, proxy: FaultServer) -> None:
    folder = zoo.pull(f"{LONG}@prod", settings=settings)
    proxy.always = faulty.refused(503)
    with pytest.warns(ZooWarning, match="can't serve now.*known from before"):
        assert zoo.pull(f"{LONG}@prod", settings=settings) == folder
    with pytest.raises(UnavailableError, match="the cache doesn't know zoo:nobody"):
        zoo.pull("zoo:nobody", settings=settings)


def test_row_27_tag_that_moves_meanwhile_gives_one_version(
    settings: Settings, proxy: FaultServer, registry: str, tmp_path: Path
) -> None:
    name = "zoo:moving"
    direct = replace(settings, endpoint=registry)
    old, new = build(tmp_path / "old", 1), build(tmp_path / "new", 2)
    zoo.publish(old, name, settings=direct)

    def move(exchange: faulty.Exchange) -> None:
        proxy.always = None
        zoo.publish(new, name, settings=direct)
        faulty.well(exchange)

    proxy.faults = [faulty.well, move]
    assert content(zoo.pull(name, settings=settings)) == content(old)
    assert content(zoo.pull(name, settings=settings)) == content(new)


@pytest.mark.usefixtures("published")
def test_a_registry_that_answers_with_another_manifest_is_caught(settings: Settings, proxy: FaultServer) -> None:
    def forged(exchange: faulty.Exchange) -> None:
        status, headers, body = exchange.good()
        exchange.answer(status, headers, body.replace(b'"size_bytes":5000', b'"size_bytes":5001'))

    proxy.always = forged
    with pytest.raises(IntegrityError, match=r"has the digest sha256:.*expected sha256:"):
        zoo.pull(LONG, settings=settings)


def test_row_21_external_data_loads_from_the_cache(settings: Settings, registry: str, tmp_path: Path) -> None:
    folder = tmp_path / "model" / "deployment"
    folder.mkdir(parents=True)
    weight = numpy_helper.from_array(np.arange(4096, dtype=np.float32), "w")
    node = helper.make_node("Add", ["x", "w"], ["y"])
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4096]) for name in "xy"]
    graph = helper.make_graph([node], "g", info[:1], info[1:], [weight])
    onnx.save_model(
        helper.make_model(graph), str(folder / "model.onnx"), save_as_external_data=True, location="model.data"
    )
    zoo.publish(folder.parent, "zoo:external", settings=settings)
    pulled = zoo.pull("zoo:external", "deployment", settings=settings)
    loaded = onnx.load(str(pulled / "model.onnx"))
    assert numpy_helper.to_array(loaded.graph.initializer[0]).sum() == np.arange(4096).sum()


@pytest.mark.usefixtures("published")
def test_cache_is_listed_and_emptied(settings: Settings) -> None:
    folder = zoo.pull(f"{SHORT}@prod", "deployment", settings=settings)
    (item,) = housekeeping.ls(settings=settings)
    assert (item.name, item.alias, item.roles, item.path) == (LONG, SHORT, ("deployment",), folder.parent)
    assert {"latest", "prod", "v1"} <= set(item.pins)
    size_bytes = len(graph(bytes([0, 1]) * 3000)) + len(b"{}")
    assert item.size_bytes == size_bytes
    with pytest.raises(NotFoundError, match="isn't in the cache"):
        housekeeping.rm("zoo:nobody", settings=settings)
    assert housekeeping.rm(SHORT, settings=settings).freed_bytes == size_bytes
    assert housekeeping.ls(settings=settings) == []
    assert not folder.exists()


def test_the_alias_of_a_model_that_was_published_again_without_it_is_listed(
    settings: Settings, registry: str, tmp_path: Path
) -> None:
    model = build(tmp_path / "m", 3)
    zoo.publish(model, "zoo:aliased", alias="zoo:its-short-name", settings=settings)
    (model / "recipe.md").write_text("modifiers: []\nz: 1\n")
    zoo.publish(model, "zoo:aliased", settings=settings)
    zoo.pull("zoo:its-short-name", settings=settings)
    (item,) = housekeeping.ls(settings=settings)
    assert (item.name, item.alias) == ("zoo:aliased", "zoo:its-short-name")
    assert "v2" in item.pins


def test_rm_leaves_the_files_of_another_version(settings: Settings, registry: str, tmp_path: Path) -> None:
    model = build(tmp_path / "m", 3)
    zoo.publish(model, "zoo:shared", settings=settings)
    (model / "recipe.md").write_text("modifiers: []\nz: 1\n")
    zoo.publish(model, "zoo:shared", settings=settings)
    zoo.pull("zoo:shared@v1", settings=settings)
    second = zoo.pull("zoo:shared@v2", settings=settings)
    housekeeping.rm("zoo:shared@v1", settings=settings)
    assert [item.path for item in housekeeping.ls(settings=settings)] == [second]
    assert housekeeping.verify(settings=settings).damage == ()
    assert content(second) == content(model)


@pytest.mark.usefixtures("published")
def test_row_29_prune_leaves_what_is_used_and_what_was_last_used(settings: Settings) -> None:
    folder = zoo.pull(LONG, settings=settings)
    index = folder.with_name(folder.name + ".json")
    assert housekeeping.prune(max_age_s=0, settings=settings).freed_bytes == 0
    os.utime(index, (2**33, 2**33))
    assert housekeeping.prune(max_age_s=0, settings=settings).freed_bytes == 0
    os.utime(index, (1000, 1000))
    assert housekeeping.prune(settings=settings).freed_bytes == 0
    assert housekeeping.prune(max_age_s=0, keep=1, settings=settings).freed_bytes == 0
    assert folder.exists()
    assert housekeeping.prune(max_age_s=86_400, settings=settings).freed_bytes > 11_000
    assert not folder.exists()
    assert content(zoo.pull(LONG, settings=settings))


@pytest.mark.usefixtures("published")
def test_row_28_a_version_used_while_it_is_being_pruned_stays(settings: Settings) -> None:
    manifest = zoo.resolve(LONG, settings=settings).manifest
    folder, cache = zoo.pull(LONG, settings=settings), Cache.open(settings.cache)
    before = content(folder)
    assert not cache.remove_version(manifest, time.time() - 60)
    assert content(folder) == before
    assert housekeeping.ls(settings=settings)[0].path == folder
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.json"}


def test_prune_removes_what_older_releases_and_kills_left(settings: Settings) -> None:
    cache = Cache.open(settings.cache)
    old = [cache.root / name for name in ("blobs/sha256/ab/abcd", "models/a/ff.1.removed/model.onnx", "partial/x.part")]
    young = [cache.root / name for name in ("blobs/sha256/cd/cdef", "models/a/ff.2.removed/model.onnx")]
    for path in (*old, *young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    for path in old:
        for part in (path, path.parent):
            os.utime(part, (1_000, 1_000))
    assert housekeeping.prune(dry_run=True, settings=settings).freed_bytes == 12
    assert all(path.exists() for path in old)
    assert housekeeping.prune(settings=settings).freed_bytes == 12
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in young)
    os.utime(young[0].parent, (1_000, 1_000))
    assert housekeeping.prune(settings=settings).freed_bytes == 4
    assert not (cache.root / "blobs").exists()


def test_a_folder_of_the_cache_replaced_by_a_link_is_not_written_through(
    settings: Settings, published: Path, tmp_path: Path
) -> None:
    folder = zoo.pull(LONG, "card", settings=settings)
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder.parent / "deployment").symlink_to(outside)
    with pytest.raises(zoo.CacheError, match="a link is in the place of a folder"):
        zoo.pull(LONG, "deployment", settings=settings)
    assert list(outside.iterdir()) == []


@pytest.mark.usefixtures("published")
def test_search_pages(settings: Settings) -> None:
    page = zoo.search("pruned80", domain="nlp", limit=1, settings=settings)
    assert page.items[0].name == LONG
    assert Stub.parse(page.items[0].name).is_long


@pytest.mark.usefixtures("published")
def test_no_warning_in_the_usual_case(settings: Settings) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.pull(LONG, settings=settings)
        zoo.pull(LONG, "recipe", settings=settings)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
