"""The pages in a real browser: keyboard, contrast and names by axe, a phone, no scripts, a strict policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import httpx
import pytest
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import url_contains, url_to_be
from selenium.webdriver.support.wait import WebDriverWait

from registry import admin
from registry.settings import Settings
from tests.registry.browser import look, open_browser, use_scripts
from tests.registry.builders import ALIAS, LONG, RECIPE, bert, graph, small
from tests.registry.test_benchmarks import record
from tests.zoo.live_registry import serving

BERT = LONG.removeprefix("zoo:")
DENSE = BERT.replace("pruned80_quant-none-vnni", "base-none")
PAGES = {
    "index": "/",
    "filtered": "/?domain=nlp&quantized=true&f1_min=80",
    "nothing": "/?q=nothing",
    "model": f"/models/{BERT}",
    "bare": "/models/tiny",
    "recipe": f"/recipes/{BERT}",
    "compare": f"/compare?m1={BERT}&m2={DENSE}",
    "choose": "/compare",
    "error": "/models/nowhere",
    "sign-in": "/sign-in?failed=true",
    "docs": "/docs",
}
AXE = next(Path(axe_core_python.__file__).parent.rglob("axe.min.js")).read_text("utf-8")
LANES = """
distillation_modifiers:
  - !DistillationModifier
      hardness: 0.5
      temperature: 2.0
lr_modifiers:
  - !LearningRateFunctionModifier
      start_epoch: 0.0
      end_epoch: eval(num_epochs)
      lr_func: linear
      init_lr: eval(init_lr)
      final_lr: 0.0
  - !GMPruningModifier
      start_epoch: 2.0
      end_epoch: 18.0
      init_sparsity: 0.3
      final_sparsity: 0.8
      update_frequency: 0.1
      params: ["re:bert.encoder.layer.*.attention.self.query.weight"]
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("pages")) as url, httpx.Client(base_url=url) as client:
        small().publish(client)
        dense = bert(f"zoo:{DENSE}", "zoo:bert-base-squad_wikipedia_bookcorpus-base")
        dense.metadata = {k: v for k, v in dense.metadata.items() if k not in ("pattern", "quantized", "sparsity")}
        dense.files["deployment/model.onnx"] = ("deployment", graph(b"x" * 400_000))
        model = bert()
        model.files["recipe.md"] = ("recipe", (RECIPE + LANES).encode())
        for folder, median_ms in ((dense, 120), (model, 14)):
            assert folder.publish(client).status_code == 201
            sent = client.post("/api/v1/benchmarks", json={"stub": folder.name, "record": record(median_ms)})
            assert sent.status_code == 201
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing_and_the_policy_refuses_nothing(
    browser: Chrome, registry: str, page: str, dark: bool
) -> None:
    look(browser, dark=dark)
    browser.get(registry + PAGES[page])
    entries = browser.get_log("browser")
    assert [entry["message"] for entry in entries if "404" not in entry["message"]] == []
    browser.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE})
    found: dict[str, Any] = browser.execute_async_script("axe.run().then(arguments[0])")
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found["violations"]] == []
    assert len(found["passes"]) > 10


@pytest.mark.parametrize("page", PAGES)
def test_a_phone_shows_everything_without_scrolling_sideways(browser: Chrome, registry: str, page: str) -> None:
    look(browser, width=360, height=740)
    browser.get(registry + PAGES[page])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360


def test_the_keyboard_reaches_the_search_a_facet_and_a_model(browser: Chrome, registry: str) -> None:
    look(browser)
    browser.get(registry + "/")
    focused = browser.switch_to.active_element
    focused.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the content"
    browser.find_element(By.ID, "q").send_keys("4block" + Keys.ENTER)
    WebDriverWait(browser, 10).until(url_contains("q=4block"))
    assert len(browser.find_elements(By.CSS_SELECTOR, ".models > li")) == 1
    for _ in range(40):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if browser.switch_to.active_element.text.replace("\n", "") == ALIAS.removeprefix("zoo:"):
            break
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(browser, 10).until(url_to_be(f"{registry}/models/{BERT}"))


def test_without_scripts_one_can_search_filter_compare_and_read(browser: Chrome, registry: str) -> None:
    look(browser)
    use_scripts(browser, on=False)
    try:
        browser.get(registry + "/")
        browser.find_element(By.CSS_SELECTOR, ".facets a[href*='domain=nlp']").click()
        WebDriverWait(browser, 10).until(url_contains("domain=nlp"))
        for box in browser.find_elements(By.CSS_SELECTOR, ".tick input"):
            box.click()
        browser.find_element(By.CSS_SELECTOR, ".found button").click()
        WebDriverWait(browser, 10).until(url_contains("/compare?m1="))
        assert len(browser.find_elements(By.CSS_SELECTOR, ".compare thead th")) == 2
        browser.find_element(By.CSS_SELECTOR, ".compare thead a").click()
        WebDriverWait(browser, 10).until(url_contains("/models/"))
        assert not browser.find_element(By.CSS_SELECTOR, "button.copy").is_displayed()
        browser.find_element(By.LINK_TEXT, "The whole recipe").click()
        WebDriverWait(browser, 10).until(url_contains("/recipes/"))
        assert browser.find_element(By.CSS_SELECTOR, ".schedule svg").is_displayed()
    finally:
        use_scripts(browser, on=True)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_signing_in_shows_what_the_token_covers(browser: Chrome, tmp_path: Path, scripts: bool) -> None:
    settings = Settings(storage=tmp_path / "registry")
    admin.set_scope(settings, "@acme", private=True)
    tokens = {name: admin.create_token(settings, name, scopes=[f"{name}:@acme/*"]) for name in ("write", "read")}
    look(browser)
    use_scripts(browser, on=scripts)
    try:
        with serving(settings.storage) as url:
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {tokens['write']}"}) as client:
                assert small("zoo:@acme/secret").publish(client).status_code == 201
            for token, shown in (("zoo_unknown", "doesn't know the token"), (tokens["read"], "@acme/secret")):
                browser.get(f"{url}/sign-in")
                browser.find_element(By.ID, "secret").send_keys(token + Keys.ENTER)
                patience = WebDriverWait(browser, 10, ignored_exceptions=[StaleElementReferenceException])
                patience.until(lambda b, text=shown: text in b.find_element(By.ID, "main").text)
            browser.get(f"{url}/sign-in")
            browser.find_element(By.CSS_SELECTOR, "[action='/sign-out'] button").click()
            WebDriverWait(browser, 10).until(url_to_be(f"{url}/"))
            assert "@acme/secret" not in browser.find_element(By.ID, "main").text
    finally:
        use_scripts(browser, on=True)


def test_a_command_is_copied(browser: Chrome, registry: str) -> None:
    look(browser)
    browser.get(f"{registry}/models/{BERT}")
    grant = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": registry}
    browser.execute_cdp_cmd("Browser.grantPermissions", grant)
    browser.find_element(By.CSS_SELECTOR, "button.copy").click()
    text = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert text == f"zoo pull {ALIAS}"


def test_the_graphs_of_a_family_show_the_measured_numbers(browser: Chrome, registry: str) -> None:
    look(browser)
    browser.get(f"{registry}/models/{BERT}")
    family = browser.find_element(By.CSS_SELECTOR, "[aria-labelledby=family]")
    fast, large = (
        [line.text for line in family.find_elements(By.CSS_SELECTOR, f"[aria-label='{name}'] .number")]
        for name in ("Throughput", "Size of the ONNX files")
    )
    assert fast == ["8.333 items/s", "71.43 items/s"]
    assert large == ["400 kB", "122 kB"]
    assert [dot.text for dot in family.find_elements(By.CSS_SELECTOR, ".dot text")] == ["1", "2"]
    (current,) = family.find_elements(By.CSS_SELECTOR, ".legend .current")
    assert "14 ms" in current.text
