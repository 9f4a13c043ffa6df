"""Models for the tests of the web page that need no framework: one reads two digits, one finds what is red."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.clusters import Cluster, eventually
from tests.publishing import publish
from worker.models import preparation

HOSTILE = "<img src=x onerror=alert(1)>"
"""A class whose name would do harm if it were taken for HTML."""

DIGITS = """
import numpy as np


class Digits:
    outputs = ("scores",)

    def __init__(self, folder):
        pass

    def __call__(self, batch):
        return np.stack([self.read(image[:, :, 0] < 128) for image in batch]).astype(np.float32)

    def read(self, ink):
        rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
        if not len(rows):
            return (0.5, 0.5)
        is_one = np.ptp(columns) < np.ptp(rows) / 2
        return (0.1, 0.9) if is_one else (0.8, 0.2)
"""
DIGITS_MANIFEST = """
artefact = "model.py:Digits"
task = "classification"
labels = ["0", "1"]

[input]
height = 28
width = 28
channels = 1
crop = "squash"
dtype = "uint8"

[classification]
activation = "none"
"""

RED = """
import numpy as np


class Red:
    outputs = ("found",)

    def __init__(self, folder):
        pass

    def __call__(self, batch):
        return np.stack([self.find(image.astype(int)) for image in batch])

    def find(self, image):
        red = (image[:, :, 0] > 180) & (image[:, :, 1:].max(axis=2) < 90)
        if not red.any():
            return np.zeros((1, 6), np.float32)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        return np.array([[*(side / len(image) for side in box), 0.9, 0]], np.float32)
"""
RED_MANIFEST = f"""
artefact = "model.py:Red"
task = "detection"
labels = ["{HOSTILE}"]

[input]
height = 64
width = 64
crop = "squash"
dtype = "uint8"

[detection]
decoder = "boxes"

[detection.boxes]
rows = "found"
"""

MODELS = {"digits": (DIGITS, DIGITS_MANIFEST), "red": (RED, RED_MANIFEST)}


def serve(cluster: Cluster) -> None:
    """Publish both to a running cluster, and wait until every worker has them ready."""
    repository = Path(cluster.document["repository"])
    for model, (source, manifest) in MODELS.items():
        folder = repository / f"source-{model}"
        folder.mkdir()
        (folder / "model.py").write_text(source)
        (folder / "model.toml").write_text(manifest)
        into = repository / model / "1"
        prepared = preparation.prepare(folder, into, model=model, version="1", wishes=preparation.Wishes({}))
        asyncio.run(publish(str(cluster.document["discovery"]), prepared.folder))
    eventually(lambda: _are_ready(cluster), within=60, what="the models are ready everywhere")


def _are_ready(cluster: Cluster) -> bool:
    with cluster.client() as client:
        workers = client.status()["workers"]
    return all(
        worker["models"].get(f"{model}@1", {}).get("status") == "ready" for worker in workers for model in MODELS
    )
