"""The formats that a model may be in, one file each, over one file for each framework that executes them.

A format's module has ``load(artefact, manifest) -> Network`` and is imported in a model process, or by the tools that
prepare a model for publishing. ``FORMATS`` says which module a ``runtime`` of a manifest is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from worker.models.packaged import MissingPackage
from worker.models.runtime import Array, DeviceLost, OutOfMemory

if TYPE_CHECKING:
    from worker.models.manifest import Manifest

__all__ = ["FORMATS", "Loaded", "Network", "NotLoadable", "Spec", "by_name", "format_of", "load", "platform"]

FORMATS = {
    "keras": "worker.models.networks.keras_format",
    "savedmodel": "worker.models.networks.savedmodel",
    "onnx": "worker.models.networks.onnx_format",
    "torchscript": "worker.models.networks.torchscript",
    "python": "worker.models.networks.python_class",
}

_PLATFORMS = {
    "savedmodel": "tensorflow_savedmodel",
    "onnx": "onnx_onnxv1",
    "torchscript": "pytorch_torchscript",
    "python": "python_class",
}
_BY_ENDING = {
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
}
_INSTALL = {
    "tensorflow": "shoal[tensorflow]",
    "keras": "keras>=3.12",
    "jax": "shoal[jax]",
    "torch": "shoal[torch]",
    "onnxruntime": "shoal[onnx]",
}


class NotLoadable(ValueError):
    """The artefact is damaged, of another format, or of no use to an image server."""


@dataclass(frozen=True)
class Spec:
    """One input or output of a network: NumPy dtype name, and shape with -1 where it varies (the batch is first).

    A shape of () is a single value, or one that nobody declares.
    """

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


@dataclass(frozen=True)
class Loaded:
    """A ``Network`` that is a function."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    call: Callable[[Array], Mapping[str, Array]]
    pads: bool = False

    def execute(self, batch: Array) -> Mapping[str, Array]:
        """See ``Network.execute``."""
        return self.call(batch)


def format_of(artefact: Path) -> str:
    """Which ``runtime`` an artefact is for. Raises ``NotLoadable`` when nothing tells."""
    if ".py:" in artefact.name:
        return "python"
    if (artefact / "saved_model.pb").is_file():
        return "savedmodel"
    try:
        return _BY_ENDING[artefact.suffix.lower()]
    except KeyError:
        known = f"{', '.join(_BY_ENDING)}, a SavedModel's folder, or file.py:Class"
        raise NotLoadable(f"{artefact.name} is none of {known}: set runtime in the manifest") from None


def platform(runtime: str, backend: str) -> str:
    """What other servers call a format, ``PROJECT_FORMAT``; of Keras, what it runs on."""
    return f"keras_{backend}" if runtime == "keras" else _PLATFORMS[runtime]


def load(runtime: str, artefact: Path, manifest: Manifest) -> Network:
    """Import the format's module and load the artefact.

    Raises ``NotLoadable`` with the framework's reason, ``MissingPackage`` with what to install, ``OutOfMemory`` or
    ``DeviceLost``.
    """
    try:
        network: Network = importlib.import_module(FORMATS[runtime]).load(artefact, manifest)
    except (MissingPackage, OutOfMemory, DeviceLost):
        raise
    except NotLoadable as error:
        raise NotLoadable(f"{artefact.name}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name in _INSTALL:
            raise MissingPackage(f"{error.name} is missing: pip install '{_INSTALL[error.name]}'") from error
        raise NotLoadable(f"{artefact.name}: {error}") from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise NotLoadable(f"{artefact.name} does not load as {runtime}: {reason}") from error
    return network


def by_name(outputs: Any, names: Sequence[str] = ()) -> dict[str, Array]:
    """A framework's outputs as arrays by name: one array, several in a row, or a mapping, whose own names count.

    Without names they are ``output``, or ``output_0`` and so on. Raises ``ValueError`` when names are missing or left.
    """
    if isinstance(outputs, Mapping):
        return {str(name): np.asarray(output) for name, output in outputs.items()}
    several = isinstance(outputs, list | tuple)
    arrays = list(outputs) if several else [outputs]
    names = names or ([f"output_{index}" for index in range(len(arrays))] if several else ["output"])
    if len(names) != len(arrays):
        raise ValueError(f"{len(arrays)} outputs, but names for {len(names)}: {', '.join(names)}")
    return {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}
