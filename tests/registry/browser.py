"""A real browser: Debian's Chromium without a window, driven by Selenium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
DRIVER = Path(os.environ.get("CHROMEDRIVER", "/usr/bin/chromedriver"))
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def open_browser(profile: Path) -> Iterator[Chrome]:
    """A browser with a profile of its own; skips where Chromium isn't installed, and fails there in CI."""
    if not (CHROMIUM.exists() and DRIVER.exists()):
        missing = f"{CHROMIUM} or {DRIVER} is missing; install chromium and chromium-driver, or set CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    options = Options()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    browser = Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield browser
    finally:
        browser.quit()


def look(browser: Chrome, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
    """Sets the size of the screen, and which colours the person prefers."""
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}  # a click must not chase a page that scrolls
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})


def use_scripts(browser: Chrome, *, on: bool) -> None:
    """Turns scripts of pages on or off."""
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not on})
