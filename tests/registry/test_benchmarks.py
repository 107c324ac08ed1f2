"""Benchmark records: sent once, kept with their version, and asked for the best model."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.registry.builders import small
from tests.registry.conftest import Site

PATH = "/api/v1/benchmarks"
CPU = "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"


def record(
    median_ms: float = 10, *, cpu: str = CPU, isa: str = "avx512vnni", cores: int = 4, **more: Any
) -> dict[str, Any]:
    hardware = {"cpu": cpu, "isa": isa, "cores": cores, "system": "Linux x86_64"}
    plain = {
        "hardware": hardware,
        "engine": "sparrow",
        "threads": cores,
        "batch_size": 1,
        "sequence_length": 384,
        "iterations": 100,
        "seconds": 1.5,
        "items_per_second": 1_000 / (median_ms or 1),
        "median_ms": median_ms,
        "percentiles_ms": {"99.0%": 2 * median_ms},
        "measured_at": "2026-11-01T12:00:00+01:00",
    }
    return {**plain, **more}


def send(client: TestClient, stub: str, **more: Any) -> Any:
    return client.post(PATH, json={"stub": stub, "record": record(**more)})


def best(client: TestClient, **query: Any) -> list[str]:
    answer = client.get("/api/v1/best", params={"cpu": CPU, **query})
    assert answer.status_code == 200, answer.text
    return [item["name"] for item in answer.json()["items"]]


def test_a_record_is_kept_once_with_the_version_that_was_measured(client: TestClient) -> None:
    small(text="one").publish(client)
    small(text="two").publish(client)
    first = send(client, "zoo:tiny@v1")
    assert (first.status_code, first.json()["version"]) == (201, 1)
    again = send(client, "zoo:tiny@v1")
    assert (again.status_code, again.json()) == (200, first.json())
    assert send(client, "zoo:tiny").json()["version"] == 2
    (kept,) = client.get(PATH, params={"stub": "zoo:tiny@v1"}).json()["items"]
    assert kept == first.json()
    assert kept["record"]["hardware"]["cpu"] == CPU
    assert kept["record"]["measured_at"] == "2026-11-01T11:00:00Z"


def test_a_measured_latency_is_a_filter_of_the_search(client: TestClient) -> None:
    small("zoo:fast").publish(client)
    small("zoo:slow").publish(client)
    send(client, "zoo:fast", median_ms=5)
    send(client, "zoo:fast", median_ms=7)
    send(client, "zoo:fast", median_ms=0.1, batch_size=16)
    send(client, "zoo:slow", median_ms=50)
    found = {
        limit: client.get("/api/v1/models", params={"latency_max_ms": limit}).json()["items"] for limit in (4, 5, 60)
    }
    assert {limit: [item["name"] for item in items] for limit, items in found.items()} == {
        4: [],
        5: ["zoo:fast"],
        60: ["zoo:slow", "zoo:fast"],
    }


def test_a_new_version_has_not_been_measured_yet(client: TestClient) -> None:
    small(text="one").publish(client)
    send(client, "zoo:tiny")
    small(text="two").publish(client)
    assert client.get("/api/v1/models", params={"latency_max_ms": 100}).json()["items"] == []
    assert best(client) == []


def test_the_best_model_has_the_highest_f1_within_the_latency(client: TestClient) -> None:
    for name, f1, median_ms in (("small", 80, 2), ("good", 88, 9), ("great", 91, 40), ("even", 88, 8)):
        small(f"zoo:{name}", metadata={"metrics": {"f1": f1}, "task": "qa" if name != "even" else "ner"}).publish(
            client
        )
        send(client, f"zoo:{name}", median_ms=median_ms)
        send(client, f"zoo:{name}", median_ms=median_ms + 1)
    small("zoo:unknown").publish(client)
    send(client, "zoo:unknown", median_ms=1)
    assert best(client) == ["zoo:great", "zoo:even", "zoo:good", "zoo:small", "zoo:unknown"]
    assert best(client, latency_max_ms=20, f1_min=85) == ["zoo:even", "zoo:good"]
    assert best(client, latency_max_ms=20, f1_min=85, task="qa") == ["zoo:good"]
    assert best(client, latency_max_ms=20, limit=1) == ["zoo:even"]
    assert best(client, f1_min=95) == []
    (item,) = client.get("/api/v1/best", params={"cpu": CPU, "f1_min": 90}).json()["items"]
    assert (item["f1"], item["benchmark"]["record"]["median_ms"]) == (91, 40)


def test_an_unmeasured_cpu_gets_what_was_measured_on_its_like(client: TestClient) -> None:
    for name, isa, cores in (("vnni", "avx512vnni", 4), ("wide", "avx512vnni", 64), ("avx2", "avx2", 4)):
        small(f"zoo:{name}").publish(client)
        send(client, f"zoo:{name}", cpu="another", isa=isa, cores=cores)
    assert best(client) == []
    answer = client.get("/api/v1/best", params={"cpu": CPU, "isa": "avx512vnni", "cores": 8}).json()
    assert (answer["measured_on"], [item["name"] for item in answer["items"]]) == ("isa", ["zoo:vnni"])
    send(client, "zoo:avx2")
    answer = client.get("/api/v1/best", params={"cpu": CPU, "isa": "avx512vnni", "cores": 8}).json()
    assert (answer["measured_on"], [item["name"] for item in answer["items"]]) == ("cpu", ["zoo:avx2"])
    assert best(client, cores=2) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("median_ms", 0),
        ("median_ms", -1),
        ("items_per_second", 1e300),
        ("threads", 0),
        ("batch_size", 1 << 63),
        ("engine", ""),
        ("engine", "a\x00b"),
        ("measured_at", "2026-11-01T12:00:00"),
        ("measured_at", "0001-01-01T00:00:00+14:00"),
        ("measured_at", "soon"),
        ("hardware", {"cpu": "x"}),
        ("hardware", {"cpu": "x" * 129, "isa": "avx2", "cores": 1}),
        ("hardware", {"cpu": "x", "isa": "AVX 2", "cores": 1}),
        ("percentiles_ms", {str(n): 1 for n in range(33)}),
        ("extra", 1),
    ],
)
def test_row_34_and_61_a_record_that_breaks_its_form_is_refused(client: TestClient, field: str, value: object) -> None:
    small().publish(client)
    answer = send(client, "zoo:tiny", **{field: value})
    assert (answer.status_code, answer.json()["code"]) == (422, "REQUEST_INVALID")
    assert client.get(PATH, params={"stub": "zoo:tiny"}).json()["items"] == []


def test_a_record_needs_a_version_and_a_token(site: Site, client: TestClient) -> None:
    assert send(client, "zoo:tiny").json()["code"] == "MODEL_UNKNOWN"
    small().publish(client)
    token = site.token()
    assert send(client, "zoo:tiny").status_code == 401
    answer = client.post(
        PATH, json={"stub": "zoo:tiny", "record": record()}, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.json()["published_by"] == "writer"
