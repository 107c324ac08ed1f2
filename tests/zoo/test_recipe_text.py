"""Any text is a recipe or a RecipeError with its place: hostile YAML, scalars, Markdown, noise and round trips."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from zoo.errors import RecipeError
from zoo.modifiers import SUPPORTED, UNSUPPORTED, QuantizationModifier
from zoo.recipe import Recipe

TYPICAL = (Path(__file__).parents[2] / "zoo/recipes/question-answering-pruned80-4block-int8.md").read_text("utf-8")
RANGE = "  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 10.0}\n"


def recipe(*items: str, head: str = "") -> Recipe:
    return Recipe.load(f"{head}modifiers:\n{''.join(items)}")


def refusal(text: str, **variables: object) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(text, variables or None)
    return caught.value


# Row 62: hostile YAML


def test_row_62_python_tags_are_refused_with_their_place() -> None:
    error = refusal("a: 1\nmodifiers:\n  - !!python/object/apply:os.system [ls]\n")
    assert (error.line, error.column) == (3, 5)
    assert "!!python/object/apply:os.system" in error.reason


@pytest.mark.parametrize(
    ("tag", "word"),
    [
        ("!EpochRangeModifer", "did you mean EpochRangeModifier"),
        ("!OBSPruningModifier", "OBSPruningModifier is not supported; supported are EpochRangeModifier"),
        ("!Foo", "there is no modifier 'Foo'; supported are"),
        ("!!str", "tag '!!str' is not allowed"),
        ("!<x>", "is not allowed"),
    ],
)
def test_row_62_an_unknown_modifier_is_refused_by_name(tag: str, word: str) -> None:
    error = refusal(f"modifiers:\n  - {tag} {{}}\n")
    assert word in error.reason
    assert error.line == 2


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_every_original_modifier_is_known_by_name(name: str) -> None:
    assert name not in SUPPORTED
    assert f"{name} is not supported" in refusal(f"modifiers:\n  - !{name} {{}}\n").reason


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 3000 + "\nmodifiers: []\n",
        "a: " + "{b: " * 3000 + "\nmodifiers: []\n",
        "\n".join(" " * depth + "a:" for depth in range(300)),
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
        "".join(f"a{i}: &a{i} {'[' * 20}{f'*a{i - 1}' if i else ''}{']' * 20}\n" for i in range(20)),
        "a: &a [*a]\nmodifiers: []\n",
        "modifiers: []\na: *b\n",
        "a: [" + "1, " * 50_000 + "]\n",
        "a: x\n" * 40_000,
        "a: \x00\n",
        "a: \ud800\n",
        'a: "\\ud800"\nmodifiers: []\n',
        'a: "\\U99999999"\n',
        "\ta: 1\nmodifiers: []\n",
        "a: b: c\n",
        "a: 'open\n",
        "a: {\n",
        "%YAML 9.9\n---\nmodifiers: []\n",
        "modifiers: []\n---\nb: 1\n---\nc: 1\n",
        "? [a]\n: 1\n",
        "base: &b {x: 1}\nc:\n  <<: *b\nmodifiers: []\n",
        "\n",
        "text\nmore\n",
        "- modifiers\n",
        "a: 1\n",
        "modifiers: 3\n",
        "modifiers: !EpochRangeModifier {start_epoch: 0, end_epoch: 1}\n",
        "modifiers:\n  - 3\n",
        "modifiers:\n  - {a: 1, b: 2}\n",
        "modifiers:\n  - !EpochRangeModifier 3\n",
        "modifiers:\n  - !EpochRangeModifier\n",
        "a: !EpochRangeModifier {start_epoch: 0, end_epoch: 1}\nmodifiers: []\n",
        "list:\n  - !EpochRangeModifier {start_epoch: 0, end_epoch: 1}\nmodifiers: []\n",
        "list:\n  - EpochRangeModifier: {start_epoch: 0, end_epoch: 1}\nmodifiers: []\n",
        "__metadata__: 3\nmodifiers: []\n",
        "__metadata__: {a: !X {}}\nmodifiers: []\n",
        "a: .inf\nmodifiers: []\n",
        "a: 1e999\nmodifiers: []\n",
        "a: 99999999999999999999\nmodifiers: []\n",
        f"{'k' * 300}: 1\nmodifiers: []\n",
    ],
    ids=lambda text: ascii(text[:24]),
)
def test_row_62_bad_yaml_is_a_recipe_error(text: str) -> None:
    start = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        Recipe.load(text)
    assert caught.value.line is not None or "larger than" in caught.value.reason
    assert time.monotonic() - start < 10


def test_row_62_byte_order_mark_tabs_in_text_and_crlf_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: 'a\tb'\r\nmodifiers:\r\n" + RANGE.replace("\n", "\r\n").encode())
    assert Recipe.load(path) == recipe(RANGE, head="name: 'a\tb'\n")


def test_row_62_a_tag_in_a_comment_or_a_text_is_no_tag() -> None:
    loaded = Recipe.load(f"note: 'see !GMPruningModifier'  # or !Foo\nmodifiers:\n{RANGE}")
    assert loaded.variables == {"note": "see !GMPruningModifier"}


@pytest.mark.timeout(20)
def test_row_62_variables_of_variables_do_not_grow_without_bound() -> None:
    doubled = "".join(f"v{i}: [{', '.join([f'eval(v{i + 1})'] * 10)}]\n" for i in range(9))
    assert "writes out more than" in refusal(f"{doubled}v9: x\nmodifiers: []\n").reason
    chained = "".join(f"v{i}: [[[[eval(v{i + 1})]]]]\n" for i in reversed(range(40)))
    assert "deep" in refusal(f"v40: x\n{chained}modifiers: []\n").reason
    long = f"t: {'x' * 5000}\nl: [{', '.join(['eval(t)'] * 5000)}]\nmodifiers: []\n"
    assert "writes out more than" in refusal(long).reason


# Row 63: duplicate keys


def test_row_63_a_duplicate_key_names_both_lines() -> None:
    error = refusal("lr: 1\nb: 2\nlr: 3\nmodifiers: []\n")
    assert error.line == 3
    assert "line 1 and in line 3" in error.reason
    inner = refusal("modifiers:\n  - !EpochRangeModifier\n    end_epoch: 1\n    end_epoch: 2\n")
    assert "line 3 and in line 4" in inner.reason


# Row 64: YAML 1.1 surprises


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2e-5", 2e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("012", 12),
        ("0o12", 10),
        ("0x1F", 31),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ("=", "="),
    ],
)
def test_row_64_scalars_follow_the_core_schema(text: str, value: object) -> None:
    loaded = Recipe.load(f"a: {text}\nmodifiers: []\n")
    assert loaded.variables["a"] == value
    assert type(loaded.variables["a"]) is type(value)
    assert Recipe.load(loaded.to_yaml()).variables["a"] == value


@pytest.mark.parametrize("value", ["no", "true", "1:30", "[1]", "{a: 1}", "~", ".nan", "abc"])
def test_row_64_number_fields_take_numbers_only(value: str) -> None:
    error = refusal(f"modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0\n    end_epoch: {value}\n")
    assert error.line == 4


def test_row_64_numeric_text_is_a_number_also_in_arithmetic() -> None:
    head = "lr: '2e-5'\n"
    item = (
        "  - !LearningRateFunctionModifier {lr_func: linear, init_lr: eval(lr), final_lr: eval(lr * 0.1), "
        "start_epoch: 0, end_epoch: 1}\n"
    )
    modifier = recipe(item, head=head).modifiers[0]
    assert modifier.model_dump()["init_lr"] == pytest.approx(2e-5)
    assert modifier.model_dump()["final_lr"] == pytest.approx(2e-6)


@pytest.mark.parametrize(("text", "value"), [("0", False), ("1", True), ("true", True), ("False", False)])
def test_row_64_switches_are_written_as_words_or_digits(text: str, value: bool) -> None:
    modifier = recipe(f"  - !QuantizationModifier {{quantize_embeddings: {text}}}\n").of_type(QuantizationModifier)[0]
    assert modifier.quantize_embeddings is value


# Row 70: Markdown


def test_row_70_a_second_block_is_description_and_reported() -> None:
    text = f"---\nmodifiers:\n{RANGE}---\n\n---\nmodifiers: []\n---\n"
    loaded = Recipe.load(text)
    assert loaded == recipe(RANGE)
    assert [(f.level, f.line) for f in loaded.lint()] == [("warning", 6)]


def test_row_70_a_rule_after_the_front_matter_is_no_second_block() -> None:
    text = f"---\nmodifiers:\n{RANGE}---\n---\nSome text about modifiers\n\n---\n"
    assert Recipe.load(text).lint() == []


def test_row_70_fences_are_whole_lines_only() -> None:
    text = f"+++\nnote: '---'\nother: |\n  +++\n  ---\nmodifiers: # --- +++\n{RANGE}+++  \nbody\n"
    loaded = Recipe.load(text)
    assert loaded.variables == {"note": "---", "other": "+++\n---\n"}
    assert loaded.description == "body"


def test_row_70_crlf_front_matter_and_nested_fences(tmp_path: Path) -> None:
    path = tmp_path / "recipe.md"
    path.write_bytes(TYPICAL.replace("\n", "\r\n").encode())
    assert Recipe.load(path) == Recipe.load(TYPICAL)
    assert Recipe.load(path).description == Recipe.load(TYPICAL).description


def test_row_70_plain_yaml_may_open_with_a_document_mark() -> None:
    assert Recipe.load(f"---\nmodifiers:\n{RANGE}") == recipe(RANGE)


def test_row_70_lines_count_from_the_top_of_the_file() -> None:
    assert refusal("\n\n---\na: 1\nmodifiers:\n  - !Foo {}\n---\ntext\n").line == 6


# Round trips and noise

_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts.filter(lambda text: "eval(" not in text),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts.filter(bool), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), _values, max_size=4))
@example({"a": {"modifier": "\x85\u2028\ufeff\x07\U0001f600"}, "b": ["no", "1e5", "~", "- x", "a: b", "#"]})
@settings(deadline=None, max_examples=60)
def test_canonical_text_loads_back_equal(variables: dict[str, object]) -> None:
    names = "".join(f"{name}: 0\n" for name in variables)
    try:
        loaded = Recipe.load(f"{names}modifiers:\n{RANGE}", variables)
    except RecipeError as error:
        assert "modifiers" in str(error)  # noqa: PT017 - a key that is a group's name
        return
    again = Recipe.load(loaded.to_yaml())
    assert again == loaded
    assert again.variables == variables == loaded.variables
    assert again.modifiers == loaded.modifiers


_pieces = st.sampled_from(
    [*TYPICAL.split("\n"), *(f"{tag} {{}}" for tag in ("!A", "!!b", "!")), "---", "&a [*a]", "? ", "- ", "{", "]", ": "]
)


@given(st.lists(_pieces | _texts, max_size=30).map("\n".join))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    try:
        loaded = Recipe.load(text + "\n")
    except RecipeError:
        return
    assert Recipe.load(loaded.to_yaml()) == loaded


@given(st.integers(0, len(TYPICAL) - 1), st.integers(0, 40), _texts)
@settings(deadline=None, max_examples=150)
def test_a_damaged_recipe_is_a_recipe_or_a_recipe_error(start: int, length: int, inserted: str) -> None:
    with suppress(RecipeError):
        Recipe.load(TYPICAL[:start] + inserted + TYPICAL[start + length :])


@given(st.binary(max_size=80))
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_recipe_or_a_recipe_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "noise.yaml"
    path.write_bytes(data)
    with suppress(RecipeError):
        Recipe.load(path)
