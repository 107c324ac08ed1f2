"""The gate: what a version's files must be before it becomes visible. Rows: the list of faults."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from starlette.testclient import TestClient

from registry.onnx_outline import MAX_DEPTH, Outline, read_outline
from registry.wire import MAX_FIELDS, WireError
from tests.registry.builders import Folder, bert, graph

GRAPH = graph(b"weights", nodes=3)
WITH_RECIPE = {"recipe.md": ("recipe", b"modifiers: []\n")}


def outline(data: bytes) -> Outline:
    return read_outline(lambda start, stop: data[start:stop], len(data))


def refused(client: TestClient, files: dict[str, tuple[str, bytes]]) -> list[dict[str, Any]]:
    """Publishes files that must be refused; nothing may be visible. Returns what was found."""
    answer = Folder("zoo:tiny", files).publish(client)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "CHECK_FAILED"), answer.text
    assert problem["failures"][0]["path"] in problem["detail"]
    assert client.get("/api/v1/resolve", params={"stub": "zoo:tiny"}).json()["code"] == "MODEL_UNKNOWN"
    assert client.get("/api/v1/models").json()["items"] == []
    found: list[dict[str, Any]] = problem["failures"]
    return found


def test_the_report_is_kept_with_the_version(client: TestClient) -> None:
    said = {"state": "passed", "detail": "1 in ONNX Runtime"}
    published = bert().publish(client, samples=said).json()
    shown = [(row["check"], row["path"], row["state"], row["by"]) for row in published["checks"]]
    assert shown == [
        ("layout", "deployment/model.onnx", "passed", "registry"),
        ("onnx", "deployment/model.onnx", "passed", "registry"),
        ("recipe", "recipe.md", "passed", "registry"),
        ("samples", "sample-inputs", "passed", "publisher"),
    ]
    assert "inputs x" in published["checks"][1]["detail"]
    assert client.get("/api/v1/resolve", params={"stub": bert().name}).json()["checks"] == published["checks"]
    page = client.get("/models/" + bert().name.removeprefix("zoo:"), headers={"Accept": "text/html"}).text
    assert "Checked when it was published" in page
    assert "1 in ONNX Runtime (says the publisher)" in page


def test_a_skipped_replay_keeps_its_reason_and_silence_is_told(client: TestClient) -> None:
    skipped = bert().publish(client, samples={"state": "skipped", "detail": "needs a GPU"}).json()["checks"][-1]
    assert (skipped["state"], skipped["detail"]) == ("skipped", "needs a GPU")
    silent = bert(revision=2).publish(client).json()["checks"][-1]
    assert silent["state"] == "unchecked"
    assert bert(revision=3).publish(client, samples={"state": "failed", "detail": "x"}).status_code == 422


def test_a_deployment_without_its_graph_is_refused(client: TestClient) -> None:
    (failure,) = refused(client, {"deployment/config.json": ("deployment", b"{}")})
    assert (failure["check"], failure["path"]) == ("layout", "deployment/model.onnx")
    assert "deployment/config.json" in failure["detail"]


def test_sample_inputs_without_their_outputs_are_refused(client: TestClient) -> None:
    files = {
        "deployment/model.onnx": ("deployment", GRAPH),
        "sample-inputs/inp-0000.npz": ("sample-inputs", b"1"),
        "sample-inputs/inp-0001.npz": ("sample-inputs", b"2"),
        "sample-outputs/out-0000.npz": ("sample-outputs", b"3"),
    }
    assert refused(client, files)[0]["check"] == "layout"


def test_everything_wrong_is_named_at_once_and_mended_files_are_published(client: TestClient) -> None:
    files = {
        "deployment/model.onnx": ("deployment", b"weights"),
        "deployment/other.onnx": ("deployment", GRAPH[:40]),
        "recipe.md": ("recipe", b"modifiers:\n  - !NoSuchModifier {}\n"),
        "recipe_b.yaml": ("recipe", b"\xff"),
    }
    failures = refused(client, files)
    assert [failure["path"] for failure in failures] == list(files)
    assert "line 2" in failures[2]["detail"]
    assert Folder("zoo:tiny", {"deployment/model.onnx": ("deployment", GRAPH)} | WITH_RECIPE).publish(client).is_success


def external(location: str, **more: str) -> bytes:
    """The graph with its weight in another file."""
    model = onnx.load_from_string(GRAPH)
    (weight,) = model.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location} | more).items():
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("location", "more"),
    [
        ("../training/secret", {}),
        ("/etc/passwd", {}),
        ("./model.data", {}),
        ("missing", {}),
        ("model.data", {"offset": "4", "length": "4"}),
        ("model.data", {"offset": "-1"}),
        ("model.data", {"length": "1e9"}),
        ("", {}),
    ],
)
def test_row_87_external_data_lies_in_the_version_beside_its_graph(
    client: TestClient, location: str, more: dict[str, str]
) -> None:
    files = {"deployment/model.data": ("deployment", b"weights"), "training/secret": ("training", b"s")}
    (failure,) = refused(client, {"deployment/model.onnx": ("deployment", external(location, **more)), **files})
    assert "external data" in failure["detail"] or "weights lie in" in failure["detail"]


def test_external_data_that_is_there_is_taken(client: TestClient) -> None:
    files = {
        "deployment/model.onnx": ("deployment", external("model.data", offset="0", length="7")),
        "deployment/model.data": ("deployment", b"weights"),
    }
    assert Folder("zoo:tiny", files).publish(client).status_code == 201


def test_row_87_external_data_is_found_wherever_a_graph_can_hold_it() -> None:
    """A tensor in an attribute, in a graph within a node, and in a function."""
    tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../escape"
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    inner = helper.make_node("If", ["b"], ["i"], then_branch=helper.make_graph([constant], "then", [], []))
    for node in (constant, inner):
        model = onnx.load_from_string(GRAPH)
        model.graph.node.append(node)
        assert outline(model.SerializeToString()).external == {"../escape": 0}
        model = onnx.load_from_string(GRAPH)
        model.functions.append(helper.make_function("d", "f", [], ["c"], [node], [helper.make_opsetid("", 17)]))
        assert outline(model.SerializeToString()).external == {"../escape": 0}


def test_the_outline_says_what_the_onnx_package_reads() -> None:
    model = onnx.load_from_string(GRAPH)
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[0]), "w"))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.UINT8, [7]))  # as old exporters wrote
    found = outline(model.SerializeToString())
    assert (found.ir_version, found.operators, found.nodes) == (8, {"": 17}, 3)
    assert (found.inputs, found.outputs, found.external) == (["x"], ["y"], {})


def test_row_82_every_shortened_model_is_refused_and_no_changed_one_breaks_the_reader() -> None:
    for length in range(len(GRAPH)):
        with pytest.raises(WireError):
            outline(GRAPH[:length])
    for place in range(len(GRAPH)):
        for bit in range(8):
            changed = bytearray(GRAPH)
            changed[place] ^= 1 << bit
            try:
                outline(bytes(changed))
            except WireError:
                continue


@given(st.binary(max_size=400))
def test_row_82_whatever_the_bytes_the_reader_answers(data: bytes) -> None:
    try:
        found = outline(data)
    except WireError:
        return
    assert found.inputs
    assert found.outputs


def nested(levels: int) -> bytes:
    """Graphs within nodes within graphs."""
    data = b""
    for _ in range(levels):
        for number in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            length, header = len(data), bytearray([number << 3 | 2])
            while length >= 0x80:
                header.append(length & 0x7F | 0x80)
                length >>= 7
            data = bytes([*header, length]) + data
    return b"\x08\x08\x3a" + bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (nested(40), f"deeper than {MAX_DEPTH}"),
        (b"\x08\x08" * (MAX_FIELDS + 1), "more than 1,000,000 parts"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "makes no sense"),
        (b"\x08" + b"\xff" * 20, "makes no sense"),
        (b"\x0b\x0c", "makes no sense"),
        (b"\x38\x01", "of another type"),
        (GRAPH + GRAPH, "more than one graph"),
        (GRAPH.replace(b"y", b""), "makes no sense"),
    ],
)
def test_row_84_a_model_out_of_all_bounds_is_refused_in_seconds(data: bytes, reason: str) -> None:
    started = time.process_time()
    with pytest.raises(WireError, match=reason):
        outline(data)
    assert time.process_time() - started < 20


def test_row_82_a_large_model_is_not_read(tmp_path: Path) -> None:
    """Its 3 GiB of weights are a hole in a sparse file, and only what stands around them is looked at."""
    model = onnx.load_from_string(graph(b"w" * (1 << 21)))
    data = model.SerializeToString()
    head, tail = data[: data.index(b"w" * 64)], data[data.rindex(b"w" * 64) + 64 :]
    path, grown, reads = tmp_path / "model.onnx", (3 << 30) - (1 << 21), 0
    with path.open("wb") as file:
        file.write(_with_longer_weights(head, grown))
        start = file.tell()
        file.seek(start + (3 << 30))
        file.write(tail)

    def read(begin: int, end: int) -> bytes:
        nonlocal reads
        reads += end - begin
        with path.open("rb") as stream:
            stream.seek(begin)
            return stream.read(end - begin)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = read_outline(read, path.stat().st_size)
    assert (found.inputs, found.outputs) == (["x"], ["y"])
    assert reads < 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def _with_longer_weights(head: bytes, grown: int) -> bytes:
    """The bytes before the weights, in which the lengths of weights, tensor, and graph have grown."""

    def varint(value: int) -> bytes:
        parts = bytearray()
        while value >= 0x80:
            parts.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*parts, value])

    def read(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = head[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value, at

    raw = head.rindex(b"\x4a")  # tensor.raw_data
    tensor = head.index(b"\x2a")  # graph.initializer
    main = head.index(b"\x3a")  # model.graph
    weights, _ = read(raw + 1)
    tensor_size, tensor_at = read(tensor + 1)
    graph_size, graph_at = read(main + 1)
    raw_part = head[raw : raw + 1] + varint(weights + grown)
    extra = len(raw_part) - (len(head) - raw)
    tensor_part = head[tensor : tensor + 1] + varint(tensor_size + grown + extra)
    extra += len(tensor_part) - (tensor_at - tensor)
    graph_part = head[main : main + 1] + varint(graph_size + grown + extra)
    return head[:main] + graph_part + head[graph_at:tensor] + tensor_part + head[tensor_at:raw] + raw_part
