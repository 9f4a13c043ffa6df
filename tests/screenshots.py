"""Takes the pictures of the web page that the documentation shows, from a cluster of its own.

python -m tests.screenshots [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.browsers import Browser, chromium
from tests.clusters import Cluster, up
from tests.page_models import serve
from tests.photos import photo

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "images"
CAT = ROOT / "examples" / "photos" / "cat.jpg"
WIDE, PHONE = (1180, 900), (360, 740)
SECONDS_OF_LOAD = 40.0


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as browser,
        up("--workers", "3", "--model", "lite0") as cluster,
    ):
        serve(cluster)
        browser.open(cluster.gateway, key=cluster.api_key)
        _try(browser)
        with _load(cluster):
            time.sleep(SECONDS_OF_LOAD)
            for view in ("try", "cluster"):
                browser.click(f"tab-{view}")
                for scheme in ("light", "dark"):
                    browser.prefer(scheme)
                    browser.size(*WIDE)
                    _take(browser, folder / f"{view}-{scheme}.png")
                browser.prefer("light")
                browser.size(*PHONE, is_phone=True)
                _take(browser, folder / f"{view}-phone.png")
    return 0


def _try(browser: Browser) -> None:
    browser.choose("model", "lite0")
    for _ in range(2):  # the second one does not pay for first connections
        browser.find("file").send_keys(str(CAT))
        browser.until(lambda: len(browser.labels()) == 5, "an answer")
        browser.until(lambda: browser.shows("picture"), "the picture")


@contextmanager
def _load(cluster: Cluster) -> Iterator[None]:
    """Somebody asks for something all the time, now more and now less."""
    stop = threading.Event()

    def ask() -> None:
        with cluster.client() as client:
            for number in range(1 << 20):
                client.predict(photo(number % 50), model="lite0" if number % 3 else "digits")
                if stop.wait(0.05 + 0.15 * (number % 40 > 25)):
                    return

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _take(browser: Browser, path: Path) -> None:
    time.sleep(0.5)  # what moves has come to rest
    browser.screenshot(path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
