"""The grammar of stubs. Rows are those of the list of faults."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import StubError
from zoo.stub import CHECKPOINTS, Stub, is_tag

LONG = "nlp/question_answering/bert-large/pytorch/huggingface/squad/pruned80_quant-none-vnni"
SHORT = "bert-large-wikipedia_bookcorpus-pruned80.4block_quantized"

SEGMENTS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,15}", fullmatch=True)
NAMES = st.one_of(SEGMENTS, st.lists(SEGMENTS, min_size=7, max_size=7).map("/".join))
PINS = st.one_of(
    st.none(),
    st.just("latest"),
    st.integers(1, 999_999_999).map("v{}".format),
    SEGMENTS,
    st.binary(min_size=32, max_size=32).map(lambda data: f"sha256:{data.hex()}"),
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={"recipe": SEGMENTS, "checkpoint": st.sampled_from(sorted(CHECKPOINTS)), "deployment": st.just("default")},
).map(lambda query: tuple(sorted(query.items())))
STUBS = st.builds(Stub, name=NAMES, scope=st.one_of(st.none(), SEGMENTS), pin=PINS, query=QUERIES)


@given(STUBS)
def test_parse_undoes_print(stub: Stub) -> None:
    assert Stub.parse(str(stub)) == stub


@given(st.one_of(st.text(), st.text().map("zoo:".__add__), st.text(alphabet="az09._-/@:?=&%").map("zoo:".__add__)))
def test_arbitrary_text_raises_only_stub_error(text: str) -> None:
    try:
        stub = Stub.parse(text)
    except StubError as error:
        in_text = 1 <= error.column <= len(text) + 1 and str(error).isprintable()
    else:
        in_text = Stub.parse(str(stub)) == stub
    assert in_text


@pytest.mark.parametrize("text", ["", "zoo:", " ", "zoo: a", "zoo:a\n", "\nzoo:a", "zoo:a\0", "zoo:\ud800", "zoo:a b"])
def test_row_01_nothing_blank_or_control(text: str) -> None:
    with pytest.raises(StubError) as caught:
        Stub.parse(text)
    assert caught.value.column <= len(text) + 1
    assert caught.value.exit_code == 2
    assert "column" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "zoo:../../etc/passwd",
        "zoo:a/%2e%2e/b",
        "zoo:a//b",
        "zoo:/etc/passwd",
        "zoo:C:\\x",
        "zoo:..",
        "zoo:.",
        "zoo:a\\b",
        "zoo:c:/x",
        "zoo:@../a",
        "zoo:a@../b",
        "zoo:a?recipe=../../x",
        "zoo:a?recipe=%2e%2e%2fx",
        "zoo:-rf",
    ],
)
def test_row_02_paths_are_refused(text: str) -> None:
    with pytest.raises(StubError):
        Stub.parse(text)


@pytest.mark.parametrize("char", ["\u0430", "\u00e9", "e\u0301", "\u202e", "\u200b", "\uff0f", "\uff41", "\ufe6b"])
def test_row_03_look_alikes_are_refused_by_code_point(char: str) -> None:
    with pytest.raises(StubError, match=f"U\\+{ord(char[-1]):04X}") as caught:
        Stub.parse(f"zoo:b{char}c")
    assert str(caught.value).isascii()


@pytest.mark.parametrize(
    "text",
    [
        "zoo:" + "a" * 10_000,
        "zoo:" + "/".join("a" * 1000),
        "zoo:" + "a-" * 200 + "!",
        "zoo:a?" + "recipe=a&" * 50,
        "zoo:" + "@" * 500,
        "zoo:" + "a" * 129,
    ],
)
def test_row_04_long_and_hostile_texts_are_refused_fast(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(StubError):
        Stub.parse(text)
    assert time.perf_counter() - began < 0.01


@pytest.mark.parametrize(
    "text",
    [
        "zoo:nlp/question_answering/bert-large/pytorch/huggingface/squad/base-none",
        f"zoo:{LONG}",
        f"zoo:{SHORT}",
        f"zoo:{SHORT}?recipe=transfer",
        f"zoo:{SHORT}@prod",
        f"zoo:@acme/{LONG}@v3?checkpoint=preqat&recipe=original",
        f"zoo:{SHORT}@sha256:{'ab' * 32}",
        "zoo:resnet_v1-50-imagenet-channel30_pruned90_quantized",
        "zoo:mobilenet_v1-1.0-imagenet-pruned.4block_quantized",
    ],
)
def test_row_05_both_forms_print_as_they_were_read(text: str) -> None:
    assert str(Stub.parse(text)) == text


@pytest.mark.parametrize(
    "text", [f"zoo:{LONG}?recipe_type=transfer", f"zoo:{LONG}?recipe-type=transfer", f"zoo:{LONG}/transfer"]
)
def test_row_05_old_spellings_of_the_recipe(text: str) -> None:
    stub = Stub.parse(text)
    assert (stub.name, stub.recipe) == (LONG, "transfer")
    assert str(stub) == f"zoo:{LONG}?recipe=transfer"


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("bert", 1, "starts with"),
        ("zoo:a/b", 5, "1 or 7 segments"),
        ("zoo:a/b/c/d/e/f/g/h/i", 5, "has 9"),
        ("zoo:a?recipe=x?", 15, "only one"),
        ("zoo:a?color=x", 7, "unknown"),
        ("zoo:a?recipe=x&recipe=y", 16, "twice"),
        ("zoo:a?recipe=x&recipe_type=y", 16, "twice"),
        ("zoo:a?recipe", 13, "empty"),
        ("zoo:a?checkpoint=none", 7, "checkpoint is one of"),
        ("zoo:a?deployment=x", 7, "default"),
        ("zoo:a@sha256:abc", 7, "64 lower-case"),
        (f"zoo:a@sha256:{'A' * 64}", 7, "64 lower-case"),
        ("zoo:@acme", 5, "followed by '/'"),
        ("zoo:a!b", 6, "U+0021"),
        (f"zoo:{LONG}/transfer?recipe=x", 5, "twice"),
    ],
)
def test_mistakes_are_named_with_their_column(text: str, column: int, reason: str) -> None:
    with pytest.raises(StubError) as caught:
        Stub.parse(text)
    assert caught.value.column == column
    assert reason in caught.value.reason


def test_row_08_upper_case_is_refused_with_the_lower_case_form() -> None:
    with pytest.raises(StubError, match="'bert'"):
        Stub.parse("zoo:BERT")


def test_row_09_only_the_prefix_makes_a_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    (tmp_path / "zoo:bert").mkdir()
    assert Stub.is_stub("zoo:bert")
    assert not Stub.is_stub("bert")
    assert not Stub.is_stub("./zoo:bert")


def test_values_are_decoded_and_their_order_does_not_matter() -> None:
    left = Stub.parse("zoo:a?recipe=trans%66er&checkpoint=preqat")
    assert left == Stub.parse("zoo:a?checkpoint=preqat&recipe=transfer")


def test_tags_are_neither_versions_nor_digests() -> None:
    assert is_tag("prod")
    assert is_tag("v0.1")
    assert not is_tag("v3")
    assert not is_tag("sha256:" + "0" * 64)
    assert not is_tag("Prod")
