"""Model cards: rendered, and nothing that a stranger's could abuse. Rows: the list of faults."""

from __future__ import annotations

import json
import time

import pytest
from starlette.testclient import TestClient

from registry.card import MAX_CARD_BYTES, render_card
from tests.registry.builders import Folder
from tests.registry.conftest import Site
from tests.registry.test_pages import Outline, get


@pytest.fixture
def client(sqlite_site: Site) -> TestClient:
    """Pages read what the service gives them, the same on both databases."""
    return sqlite_site.client


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![picture](https://evil.example/track.png)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](  java\tscript:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    "[click](vbscript:x)",
    "<svg onload=alert(1)>",
    "<a href='https://x' onclick='alert(1)'>x</a>",
    "<iframe src=https://evil.example></iframe>",
    "<style>body{display:none}</style>",
    "<base href=https://evil.example>",
    "<form action=https://evil.example><input name=q></form>",
    "[a]: javascript:alert(1)\n\n[a]",
    '<https://evil.example/"onmouseover=alert(1)>',
    "```\n</code></pre><script>alert(1)</script>\n```",
    "|a|\n|-|\n|<script>alert(1)</script>|",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\x00<scr\x00ipt>alert(1)</script>",
    "# <script>alert(1)</script>",
    "<math><mi xlink:href='javascript:alert(1)'>",
]


ALLOWED = {"a": {"href", "rel"}, "ol": {"start"}, "pre": {"tabindex"}}
PLAIN = {"blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "p", "pre", "strong"} | {
    *("table", "tbody", "td", "th", "thead", "tr", "ul")
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_row_43_a_hostile_card_becomes_harmless(attack: str) -> None:
    for tag, attributes in Outline(render_card(attack.encode())).tags:
        assert tag in PLAIN | set(ALLOWED), (tag, attack)
        assert set(attributes) <= ALLOWED.get(tag, set()), (attributes, attack)
        if tag == "a" and "href" in attributes:
            assert str(attributes["href"]).startswith(("http://", "https://", "mailto:")), attributes


@pytest.mark.usefixtures("without_gate")
def test_row_43_a_hostile_version_has_a_harmless_page(client: TestClient) -> None:
    script = "<script>alert(1)</script>"
    report = json.dumps({"sparsity": {script: {"target": 0.5, "sparsity": 0.5}}}).encode()
    folder = Folder(
        "zoo:evil",
        {
            "README.md": ("card", "\n\n".join(ATTACKS).encode()),
            "recipe.yaml": ("recipe", script.encode() + b"\xff\x00"),
            "report.json": ("metrics", report),
            "a.onnx": ("deployment", b"a"),
        },
        metadata={"description": script, "domain": script, "license": script, "metrics": {script: 1}, "task": script},
    )
    assert folder.publish(client).status_code == 201
    for path in (
        "/models/evil",
        "/recipes/evil",
        "/compare?m1=evil&m2=evil",
        "/",
        "/?q=%3Cscript%3Ealert(1)%3C/script%3E",
    ):
        text = get(client, path)
        assert script not in text
        page = Outline(text)
        assert len(page.all("script")) == 1
        assert not page.all("img", "iframe", "object", "embed", "base", "style")
        assert {form.get("action") for form in page.all("form")} <= {"/", "/compare"}


def test_row_43_a_huge_table_or_pathological_card_is_bounded(sqlite_site: Site) -> None:
    table = "|a|b|\n|-|-|\n" + "|x|y|\n" * 10_000
    slowest = "![" * MAX_CARD_BYTES  # of some twenty patterns that were tried
    started = time.process_time()
    for text in (table, slowest):
        render_card(text.encode()[:MAX_CARD_BYTES])
    assert time.process_time() - started < 20
    large = Folder("zoo:large", {"model.md": ("card", b"x" * (MAX_CARD_BYTES + 1)), "a": ("training", b"a")})
    large.publish(sqlite_site.client)
    assert "Model card" not in get(sqlite_site.client, "/models/large")


def test_a_card_is_rendered() -> None:
    html = render_card(
        b"---\ndomain: nlp\n---\n# Title\n\n**bold** [link](https://x.example) ![alt](a.png)\n\n- one\n\n3. three"
    )
    assert "domain" not in html
    assert "<h3>Title</h3>" in html
    assert "<strong>bold</strong>" in html
    assert 'rel="nofollow noopener noreferrer"' in html
    assert "<img" not in html
    assert '<ol start="3">' in html
    assert render_card(b"--- \nno end") != ""
    assert render_card(b"\xff\xfe") != ""
