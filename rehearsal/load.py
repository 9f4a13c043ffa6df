"""Locust, as ``make load`` runs it, sending until it is told to stop."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

LOCUSTFILE = Path(__file__).parent.parent / "loadtest" / "locustfile.py"
_STOP_SECONDS = 60


@dataclass
class Sent:
    """What Locust counted; complete when the load has ended."""

    requests: int = 0
    failed: int = 0
    worst_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def read(self, statistics: str, failures: str) -> None:
        """Take in the texts of Locust's two CSV files."""
        for row in csv.DictReader(statistics.splitlines()):
            if row["Name"] == "Aggregated":
                self.requests, self.failed = int(row["Request Count"]), int(row["Failure Count"])
                self.worst_seconds = float(row["Max Response Time"]) / 1000
        self.failures = [f"{row['Occurrences']} {row['Error']}" for row in csv.DictReader(failures.splitlines())]


@contextmanager
def load(folder: Path, name: str, gateways: Sequence[str], api_key: str, *arguments: str) -> Iterator[Sent]:
    """Load the gateways for as long as the context lasts, with what ``arguments`` tell Locust."""
    results, sent = folder / f"{name}-load", Sent()
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--csv", str(results), *arguments]
    environ = os.environ | {"SHOAL_GATEWAY": ",".join(gateways), "SHOAL_API_KEY": api_key}
    with (folder / f"{name}-load.log").open("wb") as log:
        locust = subprocess.Popen(command, stdout=log, stderr=log, env=environ, start_new_session=True)
        try:
            yield sent
        finally:
            locust.send_signal(signal.SIGTERM)
            try:
                locust.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                locust.kill()
                locust.wait()
    sent.read(
        results.with_name(results.name + "_stats.csv").read_text(encoding="utf-8"),
        results.with_name(results.name + "_failures.csv").read_text(encoding="utf-8"),
    )
