"""A real Prometheus for tests: what tests/tools/prometheus.sh found, on a free port, stopped at the end."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.consul_server import ROOT, free_port

CONFIGURATIONS = ROOT / "infra" / "prometheus"


def folders() -> list[Path]:
    """Where there is a Prometheus with its promtool."""
    on_path = shutil.which("prometheus")
    named = os.environ.get("PROMETHEUS_PATH", "").split(":")
    candidates = [*map(Path, filter(None, named)), *sorted((ROOT / ".tools").glob("prometheus-*"))]
    candidates += [Path(on_path).parent] if on_path else []
    return [folder for folder in candidates if (folder / "promtool").exists()]


def checked(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What promtool says."""
    return subprocess.run([str(folder / "promtool"), *arguments], capture_output=True, text=True, check=False)


def one_that_reads(configuration: str) -> Path | None:
    """The folder of one that knows all that this file of ours uses."""
    able = (f for f in folders() if not checked(f, "check", "config", str(CONFIGURATIONS / configuration)).returncode)
    return next(able, None)


class Prometheus:
    """A running one."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **query: str) -> Any:
        answer = requests.get(f"{self._url}/{path}", params=query, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, expression: str) -> dict[str, float]:
        """An instant vector by instance."""
        result = self.get("query", query=expression)["result"]
        return {one["metric"].get("instance", ""): float(one["value"][1]) for one in result}


@contextmanager
def running(folder: Path, configuration: str, scratch: Path, **replaced: str) -> Iterator[Prometheus]:
    """A Prometheus with one of our files, in which addresses are ``replaced`` and scrapes come every second."""
    text = (CONFIGURATIONS / configuration).read_text(encoding="utf-8")
    for old, new in {
        "127.0.0.1:8500": replaced.get("consul", ""),
        "127.0.0.1:8081": replaced.get("gateway", ""),
    }.items():
        text = text.replace(old, new)
    text = re.sub(r"(scrape_interval|evaluation_interval|refresh_interval): \d+s", r"\1: 1s", text)
    scratch.mkdir()
    (scratch / "prometheus.yml").write_text(text)
    shutil.copy(CONFIGURATIONS / "alerts.yml", scratch)
    port = free_port()
    with (scratch / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(folder / "prometheus"),
                f"--config.file={scratch / 'prometheus.yml'}",
                f"--storage.tsdb.path={scratch / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _await(process, port, scratch / "log")
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(20)


def _await(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + 30
    while True:
        try:
            if requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        if process.poll() is not None or time.monotonic() > give_up:
            raise RuntimeError(f"Prometheus did not start: {log.read_text()[-2000:]}")
        time.sleep(0.05)
