"""From stubs to files, against a real registry. Rows are those of the list of faults."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoo
from tests.zoo import fault_server as faulty
from tests.zoo.fault_server import FaultServer
from tests.zoo.pulling.models import LONG, SHORT, build, content, pull_two_versions
from zoo.cache import Cache, index_path
from zoo.errors import IntegrityError, NotFoundError, StubError, UnavailableError
from zoo.manifest import Role
from zoo.progress import ProgressEvent, ZooWarning
from zoo.settings import Settings
from zoo.stub import Stub


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


def test_what_another_version_has_is_copied(settings: Settings, proxy: FaultServer, tmp_path: Path) -> None:
    second, fetched = pull_two_versions("zoo:copied", settings, proxy, build(tmp_path / "m", 5))
    assert content(second) == content(tmp_path / "m")
    assert fetched == 1


@pytest.mark.usefixtures("published")
def test_row_26_offline_with_everything_cached(settings: Settings, offline: Settings, proxy: FaultServer) -> None:
    online = {stub: zoo.pull(stub, settings=settings) for stub in (LONG, SHORT, f"{LONG}@prod", f"{LONG}@v1")}
    proxy.requests.clear()
    with pytest.warns(ZooWarning, match="known from before"):
        assert {stub: zoo.pull(stub, settings=offline) for stub in online} == online
    assert proxy.requests == []


def test_files_that_are_there_are_enough_where_no_note_lasts(
    settings: Settings, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cache, "_note", lambda *_: None)
    assert content(zoo.pull(LONG, settings=settings)) == content(published)


@pytest.mark.usefixtures("published")
def test_files_that_vanish_as_they_come_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cache, "place", lambda *_: None)
    with pytest.raises(zoo.CacheError, match="vanish from the cache"):
        zoo.pull(LONG, settings=settings)


@pytest.mark.usefixtures("published")
def test_row_23_space_is_wanted_for_no_byte_that_is_there(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zoo.pull(LONG, settings=settings)
    index_path(folder).unlink()
    monkeypatch.setattr(Cache, "free_bytes", lambda _: 0)
    assert zoo.pull(LONG, settings=settings) == folder
    weights = folder / "training/model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    digest = hashlib.sha256(data).hexdigest()
    (settings.cache / "partial" / f"{digest}.part").write_bytes(data[:4000])
    monkeypatch.setattr(Cache, "free_bytes", lambda _: 999)
    with pytest.raises(zoo.CacheError, match=r"1,000 bytes are to be written, 999 are free.*zoo cache prune"):
        zoo.pull(LONG, settings=settings)
    monkeypatch.setattr(Cache, "free_bytes", lambda _: 1000)
    zoo.pull(LONG, settings=settings)
    assert weights.read_bytes() == data


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
