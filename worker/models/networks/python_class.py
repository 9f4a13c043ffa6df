"""Loads a model that is a Python class: ``file.py:Class`` in the version's folder.

The class is constructed with that folder, a ``Path``, and called with one batch, in the dtype and the layout that the
manifest declares. It returns an array, several, or a mapping of arrays by name; its attribute ``outputs``, if it has
one, names them in order. Files beside it are there for ``from . import``. It is the operator's code, with all that
the worker may do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.models import pixels, python_file
from worker.models.networks import Loaded, NotLoadable, by_name
from worker.models.networks.failures import judge, translating
from worker.models.networks.probe import probed
from worker.models.runtime import Array, DeviceLost, OutOfMemory

if TYPE_CHECKING:
    from worker.models.manifest import Manifest

__all__ = ["load", "trouble"]

_OUT_OF_MEMORY = re.compile(
    r"OutOfMemory|ResourceExhausted|RESOURCE_EXHAUSTED|out of memory|std::bad_alloc", re.IGNORECASE
)


def load(artefact: Path, manifest: Manifest) -> Loaded:
    """See ``worker.models.networks.load``. What the class gives is found out with black images."""
    kind = python_file.named(artefact.parent, artefact.name)
    with translating(trouble):
        model = kind(artefact.parent)
    if not callable(model):
        raise NotLoadable("its instances cannot be called with a batch")
    names = tuple(map(str, getattr(model, "outputs", ())))

    def call(batch: Array) -> Mapping[str, Array]:
        with translating(trouble):
            return _checked(by_name(model(batch), names))

    return probed(call, pixels.spec(manifest.input))


def trouble(error: BaseException) -> OutOfMemory | DeviceLost | None:
    """What an error of the class means, whatever framework it uses."""
    return judge(error, _OUT_OF_MEMORY)


def _checked(outputs: dict[str, Any]) -> dict[str, Array]:
    for name, array in outputs.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"output {name!r} is no array of numbers")
    return outputs
