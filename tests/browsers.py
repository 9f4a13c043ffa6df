"""A real Chromium for tests, which may talk to this machine alone, and a page of Shoal's in it."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clusters import eventually
from tests.needs import need

PATIENCE = 20.0
_LABELS = 'return [...document.querySelectorAll("#predictions .label")].map((label) => label.textContent)'


class Browser:
    """One window. What it asked for, and what it complained about, is read from its logs."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, *, key: str | None = None) -> None:
        """Open a gateway's page anew, with ``key`` as if it had been entered before."""
        self.driver.get(url)
        self.js("sessionStorage.clear()")
        if key is not None:
            self.js("sessionStorage.setItem('shoal-key', arguments[0])", key)
        self.driver.refresh()

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def module(self, body: str, *arguments: object) -> Any:
        """What an async function with this ``body`` resolves to; it has ``Shoal`` and ``given``, the arguments."""
        script = (
            "const [resolve, given] = [arguments[arguments.length - 1], [...arguments].slice(0, -1)];"
            "import('/page/shoal.js').then(async ({ Shoal, ShoalError }) => {" + body + "})"
            ".then(resolve, (error) => resolve({ unexpected: `${error}` }));"
        )
        return self.driver.execute_async_script(script, *arguments)

    def find(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def click(self, name: str) -> None:
        self.find(name).click()

    def text(self, name: str) -> str:
        """All that an element says, shown or not."""
        return str(self.js("return document.getElementById(arguments[0]).textContent", name))

    def shows(self, name: str) -> bool:
        return bool(self.find(name).is_displayed())

    def choose(self, name: str, value: str) -> None:
        """Choose an option of a select, as soon as it is there."""
        self.until(lambda: self.js(_HAS_OPTION, name, value), f"{name} has {value}")
        self.js(_CHOOSE, name, value)

    def source(self, name: str) -> None:
        """Where pictures come from: ``picture``, ``draw`` or ``address``."""
        self.driver.find_element("css selector", f'#source input[value="{name}"]').click()

    def labels(self) -> list[str]:
        found: list[str] = self.js(_LABELS)
        return found

    def press(self, *keys: str) -> None:
        """Press keys on the keyboard, whatever has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, condition: Any, what: str, *, within: float = PATIENCE) -> None:
        """Wait for ``condition``."""
        said = f"it says {self.text('progress')!r} {self.text('problem')!r}"
        eventually(condition, within=within, what=f"{what}; before, {said}")

    def answers(self, *labels: str) -> None:
        """Wait until these are the predictions shown."""
        self.until(lambda: self.labels()[: len(labels)] == list(labels), f"the answer {labels}, not {self.labels()}")

    def drop(self, path: Path) -> None:
        """Drop a file as the mouse does."""
        box = self.js("const box = document.getElementById('drop').getBoundingClientRect(); return [box.x, box.y]")
        at = {"x": box[0] + 60, "y": box[1] + 60}
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, **at, "data": data})

    def size(self, width: int, height: int, *, is_phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path: Path) -> None:
        """The whole page, however long."""
        said = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png"})
        path.write_bytes(base64.b64decode(said["data"]))

    def asked(self) -> list[str]:
        """Every address that was asked since the last time."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [str(url) for url in sent]

    def complaints(self) -> list[str]:
        """Every warning and error of the console since the last time."""
        return [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]


_HAS_OPTION = (
    "return [...document.getElementById(arguments[0]).options].some((option) => option.value === arguments[1])"
)
_CHOOSE = (
    "const select = document.getElementById(arguments[0]); select.value = arguments[1];"
    "select.dispatchEvent(new Event('change', { bubbles: true }))"
)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start Debian's Chromium without a window, and without a network but this machine."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    need(binary and chromedriver, "Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(binary)
    for flag in (
        "--headless=new",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(executable_path=str(chromedriver)))
    try:
        driver.set_script_timeout(PATIENCE)
        yield Browser(driver)
    finally:
        driver.quit()
