"""Loads a TensorFlow SavedModel's folder, by its signature ``serving_default`` or ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from worker.models.networks import Loaded, NotLoadable, tensorflow_backend
from worker.models.networks.probe import completed

if TYPE_CHECKING:
    from worker.models.manifest import Manifest

__all__ = ["load"]


def load(artefact: Path, manifest: Manifest) -> Loaded:
    """See ``worker.models.networks.load``."""
    if not (artefact / "saved_model.pb").is_file():
        raise NotLoadable("not a SavedModel: a folder with a saved_model.pb")
    tensorflow_backend.start(manifest.threads)
    inputs, outputs, call = tensorflow_backend.open_saved_model(artefact)
    return completed(Loaded(tuple(inputs), tuple(outputs), call, pads=True), manifest.input)
