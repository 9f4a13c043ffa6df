"""The web page in a real Chromium, against a real cluster: every complaint and every request elsewhere is a failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image, ImageDraw

from tests.browsers import Browser, chromium
from tests.clusters import Cluster, up
from tests.page_models import HOSTILE, serve
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def cluster(window: Browser) -> Iterator[Cluster]:
    """Two workers that the page uploads to; it is left as it was found."""
    with up("--workers", "2", "--model", "fake") as running:
        serve(running)
        yield running


@pytest.fixture(scope="module")
def reserved(window: Browser) -> Iterator[Cluster]:
    """Two workers that no page uploads to, and one of them is drained."""
    nowhere = ("--gateway-setting", "browser_uploads=", "--worker-setting", "cors_origins=")
    with up("--workers", "2", "--model", "fake", *nowhere) as running:
        yield running


@pytest.fixture
def allowed() -> list[str]:
    """What the console may say in a test, because the test provokes it."""
    return []


@pytest.fixture
def browser(window: Browser, allowed: list[str]) -> Iterator[Browser]:
    """The window, held to its good behaviour in this test."""
    window.size(1280, 900)
    window.asked(), window.complaints()
    yield window
    hosts = {urlsplit(url).hostname for url in window.asked() if urlsplit(url).scheme in ("http", "https", "ws")}
    assert hosts <= {"127.0.0.1"}
    complaints = [text for text in window.complaints() if not any(words in text for words in allowed)]
    assert complaints == []


@pytest.fixture
def page(browser: Browser, cluster: Cluster) -> Browser:
    """The page with a key, following the cluster."""
    browser.open(cluster.gateway, key=cluster.api_key)
    is_live(browser)
    return browser


def is_live(browser: Browser) -> None:
    browser.until(lambda: browser.text("live") == "live", "the page follows the cluster")


def picture(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


# --- try it ---------------------------------------------------------------------------------------------------------


def test_a_dropped_picture_is_classified_past_the_gateway(page: Browser, cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "jemma.png"
    path.write_bytes(photo(3, kind="PNG"))
    page.choose("model", "fake")
    page.drop(path)
    page.answers(fake_label(path.read_bytes()))
    assert "straight to the worker" in page.text("way")
    stages = page.js("return [...document.querySelectorAll('#stages li')].map((stage) => stage.dataset.stage)")
    assert {"lookup", "network", "receive", "decode", "queue", "inference"} <= set(stages)
    uploads = [url for url in page.asked() if "/predict" in url]
    assert [urlsplit(url).netloc in cluster.gateway for url in uploads] == [False]
    assert page.js("return document.getElementById('picture').width") == 160
    assert "image=@jemma.png" in page.text("command")


def test_a_file_is_chosen(page: Browser, tmp_path: Path) -> None:
    path = tmp_path / f"{'<b>' * 3} $(reboot).png"
    path.write_bytes(photo(4, kind="PNG"))
    page.choose("model", "fake")
    page.find("file").send_keys(str(path))
    page.answers(fake_label(path.read_bytes()))
    assert "image=@picture.jpg" in page.text("command"), "a name that a shell would take for more than a name"


def test_a_picture_is_pasted(page: Browser) -> None:
    page.choose("model", "fake")
    page.js(
        "const bytes = Uint8Array.from(arguments[0]); const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'image.png', { type: 'image/png' }));"
        "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))",
        [*photo(5, kind="PNG")],
    )
    page.answers(fake_label(photo(5, kind="PNG")))


@pytest.mark.parametrize(("digit", "wide"), [("1", 0), ("0", 60)])
def test_a_drawn_digit_is_read(page: Browser, digit: str, wide: int) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    page.choose("model", "digits")
    page.source("draw")
    hand = ActionChains(page.driver).move_to_element_with_offset(page.find("pad"), -wide, -60).click_and_hold()
    for x, y in ((wide * 2, 0), (0, 120), (-wide * 2, 0), (0, -120)):
        hand.move_by_offset(x, y)
    hand.release().perform()
    page.answers(digit)
    page.click("clear")
    assert page.labels() == []


def test_boxes_are_drawn_and_names_are_only_text(page: Browser, tmp_path: Path, allowed: list[str]) -> None:
    allowed.append("willReadFrequently")  # it is we who read the canvas
    image = Image.new("RGB", (400, 200), "white")
    ImageDraw.Draw(image).rectangle((100, 50, 299, 149), fill="red")
    page.choose("model", "red")
    page.drop(picture(tmp_path / "red.png", image))
    page.answers(HOSTILE)
    page.until(lambda: page.js("return document.getElementById('picture').dataset.boxes") == "1", "a box")
    at = "return [...document.getElementById('picture').getContext('2d').getImageData(arguments[0], 100, 1, 1).data]"
    assert page.js(at, 100) == [0xE8, 0x59, 0x0C, 255], "the box's left edge"
    assert page.js(at, 200) == [255, 0, 0, 255], "inside it is the picture"
    assert page.js("return document.querySelectorAll('#predictions img').length") == 0


def test_one_without_predictions_says_nothing_was_found(page: Browser, tmp_path: Path) -> None:
    page.choose("model", "red")
    page.drop(picture(tmp_path / "white.png", Image.new("RGB", (40, 40), "white")))
    page.until(lambda: page.text("progress").startswith("Nothing was found"), "nothing found")


def test_what_is_no_picture_shows_the_error(page: Browser, tmp_path: Path, allowed: list[str]) -> None:
    allowed.append("415 (Unsupported Media Type)")
    path = tmp_path / "letter.png"
    path.write_text("Dear cluster,")
    page.drop(path)
    page.until(lambda: "unsupported_image" in page.text("problem"), "the error's code")
    assert page.find("problem").get_attribute("role") == "alert"
    assert page.labels() == []


def test_an_address_that_no_worker_fetches(page: Browser, allowed: list[str]) -> None:
    allowed.append("403 (Forbidden)")
    page.source("address")
    page.find("address").send_keys("https://example.org/cat.jpg\n")
    page.until(lambda: "url_disabled" in page.text("problem"), "the error's code")
    assert """-d '{"url":"https://example.org/cat.jpg"}'""" in page.text("command")


def test_everything_by_keyboard(page: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    def walk_to(name: str) -> None:
        for _ in range(40):
            if page.js("return document.activeElement.id") == name:
                return
            page.press(Keys.TAB)
        raise AssertionError(f"no way to {name}")

    page.choose("model", "fake")
    walk_to("sample")
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press(Keys.ENTER)
    page.until(lambda: len(page.labels()) == 3, "an answer")
    walk_to("language-curl")
    page.press(Keys.ARROW_RIGHT)
    assert page.js("return document.activeElement.id") == "language-direct"
    assert "Accept: text/plain" in page.text("command")
    page.js("document.activeElement.blur()")
    walk_to("tab-try")
    page.press(Keys.ARROW_RIGHT)
    assert page.shows("nodes")
    assert not page.shows("model")


def test_every_control_has_a_name(page: Browser) -> None:
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "combobox", "textbox", "radio", "tab", "link", "image"}
    shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    assert len(shown) > 10
    assert [node["role"]["value"] for node in shown if not node.get("name", {}).get("value")] == []


@pytest.mark.parametrize("view", ["tab-try", "tab-cluster"])
def test_a_phone_is_wide_enough(page: Browser, view: str) -> None:
    page.size(360, 740, is_phone=True)
    page.click(view)
    page.until(lambda: page.js("return document.querySelectorAll('#nodes li').length") > 0, "nodes")
    assert page.js("return document.documentElement.scrollWidth") <= 360


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_asked_for_until_it_is_right(browser: Browser, cluster: Cluster, allowed: list[str]) -> None:
    allowed.append("401 (Unauthorized)")
    browser.open(cluster.gateway)
    browser.until(lambda: browser.shows("key"), "the page asks for a key")
    browser.find("key").send_keys("shoal_wrong\n")
    browser.until(lambda: "does not know that key" in browser.text("key-reason"), "the page asks again")
    browser.until(lambda: browser.shows("key"), "the page asks again")
    browser.find("key").send_keys(cluster.api_key + "\n")
    is_live(browser)
    assert browser.js("return Object.values(localStorage).length + document.cookie.length") == 0
    assert not any(cluster.api_key in url for url in browser.asked())


# --- the cluster -----------------------------------------------------------------------------------------------------


def states(browser: Browser) -> dict[str, str]:
    found: dict[str, str] = browser.js(
        "return Object.fromEntries([...document.querySelectorAll('#nodes > li')].map("
        "(node) => [node.querySelector('h3').textContent, node.dataset.state]))"
    )
    return found


def test_a_worker_dies_and_comes_back_before_our_eyes(page: Browser, cluster: Cluster) -> None:
    page.click("tab-cluster")
    page.until(lambda: states(page) == {"worker1": "ready", "worker2": "ready"}, "two nodes are ready")
    with cluster.client() as client:
        [worker] = [worker for worker in client.status()["workers"] if worker["name"] == "worker2"]
    pid = next(w["pids"]["worker"][0] for w in cluster.document["workers"] if w["worker"] == "worker2")
    os.kill(pid, signal.SIGKILL)
    page.until(lambda: states(page).get("worker2") != "ready" or _has_changed(page, worker), "it is seen to die")
    page.until(lambda: "worker2" in page.text("news"), "and said")
    page.until(
        lambda: states(page) == {"worker1": "ready", "worker2": "ready"} and _has_changed(page, worker),
        "it is back",
        within=60,
    )


def _has_changed(page: Browser, worker: dict[str, str]) -> bool:
    names: list[str] = page.js("return [...document.querySelectorAll('#nodes > li')].map((node) => node.dataset.name)")
    return worker["incarnation"] not in names


def test_what_is_served_shows_in_numbers(page: Browser, cluster: Cluster) -> None:
    page.click("tab-cluster")
    before = page.js("return document.querySelector('#tiles [data-name^=Kept] dd').textContent")
    with cluster.client() as client:
        for seed in range(20, 40):
            client.predict(photo(seed, kind="BMP"), model="fake")
    row = "document.querySelector('#models [data-name=\"fake@1\"]')"
    page.until(lambda: float(page.js(f"return {row}.querySelector('.trend strong').textContent")) > 0, "a rate")
    page.until(lambda: page.js(f"return {row}.querySelector('.spark.ms .line').getAttribute('d')") != "", "a line")
    kept = "return document.querySelector('#tiles [data-name^=Kept] dd').textContent"
    page.until(lambda: page.js(kept) != before, "bytes that were kept out of the gateway")


def test_an_admin_drains_a_worker_and_others_may_not(
    browser: Browser, reserved: Cluster, tmp_path: Path, allowed: list[str]
) -> None:
    allowed.append("403 (Forbidden)")
    key_file = Path(reserved.document["control"]).parent / "api-keys"
    add = [sys.executable, "-m", "shoal.cli", "keys", "add", "guest", "--file", str(key_file)]
    guest = subprocess.run(add, check=True, capture_output=True, text=True).stdout.strip()

    # Given a key that is not an admin's
    browser.open(f"{reserved.gateway}#cluster", key=guest)
    is_live_soon(browser, reserved)
    assert browser.js("return document.querySelectorAll('.drain:not([hidden])').length") == 0
    with reserved.client() as client:
        incarnation = client.status()["workers"][0]["incarnation"]
    refusal = browser.module(
        "const shoal = new Shoal(location.origin, { apiKey: given[0] });"
        "return shoal.drain(given[1]).then(() => 'drained', (error) => error.code)",
        guest,
        incarnation,
    )
    assert refusal == "not_allowed"

    # Then, with an admin's key
    browser.open(reserved.gateway, key=reserved.api_key)
    is_live_soon(browser, reserved)
    browser.click("tab-cluster")
    button = browser.driver.find_element("css selector", '[aria-label="Drain worker1"]')
    button.click()
    assert browser.text("drain-name") == "worker1"
    browser.click("drain-no")
    assert states(browser)["worker1"] == "ready"
    button.click()
    browser.click("drain-yes")
    browser.until(lambda: states(browser).get("worker1") in ("draining", "unreachable", None), "it drains")
    browser.until(lambda: states(browser) == {"worker2": "ready"}, "it is gone, and stays so")


def is_live_soon(browser: Browser, cluster: Cluster) -> None:
    is_live(browser)
    browser.until(lambda: len(states(browser)) == len(cluster.document["workers"]), "all nodes")


def test_without_workers_for_browsers_the_gateway_carries_it(browser: Browser, reserved: Cluster) -> None:
    browser.open(reserved.gateway, key=reserved.api_key)
    is_live(browser)
    browser.click("sample")
    browser.until(lambda: len(browser.labels()) == 3, "an answer")
    assert "through the gateway" in browser.text("way")
    assert "name no workers" in browser.text("way")
