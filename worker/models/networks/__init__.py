"""The formats that a model may be in, one file each, and the only places that know a framework.

A format's module has ``load(artefact, manifest) -> Network`` and is imported in a model process, or by the tools that
prepare a model for publishing. ``FORMATS`` says which module a ``runtime`` of a manifest is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from worker.models.runtime import Array

if TYPE_CHECKING:
    from worker.models.manifest import Manifest

__all__ = ["FORMATS", "Network", "Spec", "load"]

FORMATS = {
    "keras": "worker.models.networks.keras_format",
    "savedmodel": "worker.models.networks.savedmodel",
    "onnx": "worker.models.networks.onnx_format",
    "torchscript": "worker.models.networks.torchscript",
    "python": "worker.models.networks.python_class",
}


@dataclass(frozen=True)
class Spec:
    """One input or output of a network: NumPy dtype name, and shape with -1 where it varies (the batch is first)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Network(Protocol):
    """A loaded artefact: what it takes, what it gives, and how to execute one batch."""

    @property
    def inputs(self) -> Sequence[Spec]: ...

    @property
    def outputs(self) -> Sequence[Spec]: ...

    @property
    def pads(self) -> bool:
        """Whether each batch size costs a compilation, so that batches are padded to a few warmed sizes."""

    def execute(self, batch: Array) -> Mapping[str, Array]:
        """The outputs, by name, for one batch of its single input, of the dtype and layout that it declares.

        Raises ``OutOfMemory`` or ``DeviceLost`` for those, or whatever the framework raises.
        """


def load(runtime: str, artefact: Path, manifest: Manifest) -> Network:
    """Import the format's module and load the artefact. Raises whatever its framework raises for a bad file."""
    network: Network = importlib.import_module(FORMATS[runtime]).load(artefact, manifest)
    return network
