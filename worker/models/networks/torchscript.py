"""Loads TorchScript archives, as ``torch.jit.save`` writes them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from worker.models import pixels
from worker.models.networks import Loaded, NotLoadable, by_name, torch_backend
from worker.models.networks.probe import probed

if TYPE_CHECKING:
    from worker.models.manifest import Manifest

__all__ = ["load"]


def load(artefact: Path, manifest: Manifest) -> Loaded:
    """See ``worker.models.networks.load``. The archive says nothing of shapes, so it is executed on black images.

    Outputs without names are ``output``, or ``output_0`` and so on.
    """
    if not zipfile.is_zipfile(artefact):
        raise NotLoadable("not a TorchScript archive, as torch.jit.save writes it")
    torch_backend.start(manifest.threads)
    execute = torch_backend.open_torchscript(artefact)
    return probed(lambda batch: by_name(execute(batch)), pixels.spec(manifest.input))
