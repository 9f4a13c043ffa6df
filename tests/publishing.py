"""Models to publish in tests, without a framework, and the publishing of them."""

from __future__ import annotations

from pathlib import Path

import discovery
from shoal.publication import Publication, Published
from worker.models import digests, preparation
from worker.repository import editing, publishing

SOURCE = """
import numpy as np


class Model:
    outputs = ("version", "mean")

    def __init__(self, folder):
        {at_load}

    def __call__(self, images):
        return np.full((len(images), 1), {version}, np.float32), images.mean(axis=(1, 2, 3)).astype(np.float32)[:, None]
"""

MANIFEST = """
artefact = "model.py:Model"
task = "tensors"
max_batch_size = 8

[input]
height = 8
width = 8
"""


def make(repository: Path, model: str, version: str, *, at_load: str = "pass", memory_bytes: int = 0) -> Path:
    """A version's folder whose model answers with its own version and the mean of the image."""
    source = repository / f"source-{model}-{version}"
    source.mkdir(parents=True)
    (source / "model.py").write_text(SOURCE.format(version=version, at_load=at_load))
    (source / "model.toml").write_text(f"memory_bytes = {memory_bytes}\n{MANIFEST}")
    into = repository / model / version
    return preparation.prepare(source, into, model=model, version=version, wishes=preparation.Wishes({})).folder


async def publish(url: str, folder: Path, *, digest: str = "", keep: int = 1) -> None:
    """Publish a version's folder, under a ``digest`` that may be wrong."""
    model, version = folder.parent.name, folder.name
    published = Published(source=folder.as_uri(), digest=digest or digests.digest_of(folder))
    async with discovery.connect(url) as backend:
        await publishing.change(
            backend, model, lambda before: editing.add(before or Publication(model), version, published, keep=keep)
        )


async def unpublish(url: str, model: str) -> None:
    async with discovery.connect(url) as backend:
        await publishing.change(backend, model, lambda before: None)
