"""Loads what lies in a version's folder: manifest, artefact, labels, hooks, and the golden request."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from shoal.wire import ModelCard
from worker.models import golden, manifest, networks, python_file, tasks
from worker.models.conversion import CONVERTED
from worker.models.digests import digest_of
from worker.models.manifest import InvalidManifest, Manifest
from worker.models.network_runtime import NetworkRuntime, Recorded
from worker.models.networks import NotLoadable
from worker.models.tasks import Task, labels

__all__ = ["choose", "load"]

_CONVERTIBLE = {"keras", "savedmodel"}


def load(folder: Path, *, model: str, version: str, runtime: str = "") -> NetworkRuntime:
    """The version as a runtime, not yet warm. ``runtime`` goes before the manifest's.

    Raises ``InvalidManifest``, ``NotLoadable`` or another ``ValueError`` that names what does not fit,
    ``MissingPackage`` with what to install, ``OutOfMemory`` or ``DeviceLost``.
    """
    wanted = manifest.read(folder)
    recorded = golden.read(folder)
    with _blaming_the_manifest():
        names = labels.read(wanted.labels, folder)
        hooks = {hook: python_file.named(folder, text) for hook, text in wanted.hooks if text}
    chosen, artefact = choose(folder, wanted, runtime)
    network = networks.load(chosen, artefact, wanted)
    with _blaming_the_manifest():
        task: Task = tasks.module_of(wanted.task).build(
            wanted.task_settings(), names, network.outputs, wanted.input.image()
        )
    card = ModelCard(
        model=model,
        version=version,
        digest=_digest(folder, chosen, artefact),
        task=wanted.task,
        input=wanted.input.image(),
        max_batch_size=wanted.max_batch_size,
        options=dict(task.options),
        boxes=task.boxes,
        cacheable=wanted.cacheable,
        platform=networks.platform(chosen, wanted.backend),
    )
    try:
        return NetworkRuntime(
            card,
            network,
            wanted.input,
            task,
            recorded=Recorded(recorded, wanted.tolerance) if recorded else None,
            **hooks,
        )
    except NotLoadable as error:
        raise NotLoadable(f"{artefact.name}: {error}") from error


def choose(folder: Path, wanted: Manifest, runtime: str = "") -> tuple[str, Path]:
    """Which runtime executes which artefact here: that of the artefact, unless a GPU is missing and ONNX at hand.

    On a processor, the copy in ONNX that the preparation has made and compared answers two to four times as fast.
    Raises ``NotLoadable`` when the artefact is outside the folder, or tells no runtime.
    """
    artefact = folder / wanted.artefact
    if not artefact.resolve().is_relative_to(folder.resolve()):
        raise NotLoadable(f"{wanted.artefact} is outside the version's folder")
    if (runtime or wanted.runtime) != "auto":
        return runtime or wanted.runtime, artefact
    natural = networks.format_of(artefact)
    converted = folder / CONVERTED
    if natural not in _CONVERTIBLE or not converted.is_file() or not _is_installed("onnxruntime"):
        return natural, artefact
    if _sees_a_gpu() and _is_installed("keras" if natural == "keras" else "tensorflow"):
        return natural, artefact
    return "onnx", converted


@contextlib.contextmanager
def _blaming_the_manifest() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidManifest([f"{manifest.FILE}: {error}"]) from error


def _digest(folder: Path, runtime: str, artefact: Path) -> str:
    """Of the artefact; of the whole folder for a Python class, whose weights are files of its own choice."""
    return digest_of(folder, without={golden.FILE}) if runtime == "python" else digest_of(artefact)


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _sees_a_gpu() -> bool:
    """Whether this process may use one. A supervisor says so by the variable; else the driver's own devices do."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return visible not in ("", "-1")
    return any(Path("/dev").glob("nvidia[0-9]*"))
