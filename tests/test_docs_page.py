"""The interface's page in a real browser: it shows every operation, complains of nothing, and asks nobody else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from tests.clusters import Cluster
from tests.needs import need

pytestmark = pytest.mark.cluster
SECONDS = 60
OF_THE_BROWSER = ("chrome:", "chrome-untrusted:", "data:")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    need(chromium and driver, "chromium and chromium-driver")
    assert chromium is not None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield opened
    finally:
        opened.quit()


def test_the_page_shows_every_operation_and_tries_one(cluster: Cluster, browser: webdriver.Chrome) -> None:
    document = requests.get(f"{cluster.gateway}/openapi.json", timeout=10).json()
    wait = WebDriverWait(browser, SECONDS)
    browser.get(f"{cluster.gateway}/docs")
    # Every operation is there
    wait.until(expected_conditions.presence_of_element_located((By.CLASS_NAME, "opblock")))
    count = sum(len(methods) for methods in document["paths"].values())
    assert len(browser.find_elements(By.CLASS_NAME, "opblock")) == count
    assert not browser.find_elements(By.CLASS_NAME, "errors-wrapper")
    # One can be tried from the page
    block = browser.find_element(By.CSS_SELECTOR, "[id$='get_livez']")
    block.find_element(By.CLASS_NAME, "opblock-summary-control").click()
    wait.until(lambda _: block.find_element(By.CLASS_NAME, "execute")).click()
    answered = wait.until(lambda _: block.find_element(By.CSS_SELECTOR, ".live-responses-table .microlight"))
    assert json.loads(answered.text) == {"live": True}
    # Nothing was asked of anybody else, and nothing was refused by the page's policy
    asked = {urlsplit(url).netloc for url in _requests(browser) if not url.startswith(OF_THE_BROWSER)}
    assert asked == {urlsplit(cluster.gateway).netloc}
    assert _log(browser, "browser") == []


def _log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def _requests(browser: webdriver.Chrome) -> Iterator[str]:
    for entry in _log(browser, "performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"]


def test_only_the_pages_own_files_are_served(cluster: Cluster) -> None:
    page = requests.get(f"{cluster.gateway}/docs", timeout=10)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in page.text
    assert " style=" not in page.text
    for name in ("swagger-ui.js", "..%2fpage.html", "%2e%2e%2fapp.py", "page.html", "index.html"):
        answer = requests.get(f"{cluster.gateway}/docs/{name}", timeout=10)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_path")
