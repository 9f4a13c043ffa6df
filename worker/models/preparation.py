"""Makes a complete, checked version's folder of an artefact, or of a folder with a ``model.toml``.

It loads and executes the model, so it imports the model's framework: for tools, not for services.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import ShoalError
from shoal.files import flush_tree, scratch
from shoal.wire import ModelCard
from worker import images
from worker.models import conversion, golden, inference, manifest, networks, published
from worker.models.batches import Batches
from worker.models.digests import digest_of
from worker.models.golden import Golden, GoldenMismatch
from worker.models.manifest import Input, InvalidManifest, Manifest
from worker.models.network_runtime import NetworkRuntime
from worker.models.networks import NotLoadable
from worker.models.packaged import MissingPackage
from worker.models.pixels import Pixels
from worker.models.runtime import Array, Asked, DeviceLost, OutOfMemory
from worker.models.staging import NotPrepared, copy_artefact, copy_folder, document_of, missing_files, remove_leftovers

__all__ = ["NotPrepared", "Prepared", "Wishes", "inferred", "prepare"]

_MAX_PIXELS = 200_000_000
_TOP = 5
_TIED = 1e-6


@dataclass(frozen=True)
class Wishes:
    """What the user says about it: parts of the manifest, a file of labels, photos to compare by, and no conversion."""

    overrides: Mapping[str, Any]
    labels: Path | None = None
    photos: Sequence[Path] = ()
    convert: bool = True


@dataclass(frozen=True)
class Prepared:
    """A version's folder that may be published, and what was found out on the way, a line each."""

    folder: Path
    digest: str
    manifest: Manifest
    card: ModelCard
    notes: tuple[str, ...]


def prepare(source: Path, into: Path, *, model: str, version: str, wishes: Wishes) -> Prepared:
    """Make the folder ``into`` of ``source``; it is complete or not there.

    Raises ``NotPrepared`` with everything that can be found wrong at once, ``MissingPackage``, and ``FileExistsError``
    when somebody else has made ``into``.
    """
    if into.exists():
        raise FileExistsError(f"{into} is there already")
    with scratch(into.parent, ".prepare-") as workplace:
        stage = workplace / into.name
        stage.mkdir()
        try:
            notes = _describe(source, stage, model, wishes)
            card, more = _check(stage, model, version, wishes)
        except (InvalidManifest, NotPrepared) as error:
            raise NotPrepared(error.problems) from error
        except (GoldenMismatch, NotLoadable, OutOfMemory, DeviceLost, ShoalError, ValueError) as error:
            raise NotPrepared([str(error) or type(error).__name__]) from error
        remove_leftovers(stage)
        flush_tree(stage)
        _settle(stage, into)
    return Prepared(into, digest_of(into), manifest.read(into), card, (*notes, *more))


def _settle(stage: Path, into: Path) -> None:
    try:
        stage.rename(into)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(f"{into} is there already") from error
        raise


def inferred(source: Path, wishes: Wishes) -> inference.Inferred:
    """The manifest that an artefact would get. Raises ``NotPrepared``, ``MissingPackage``."""
    with tempfile.TemporaryDirectory(prefix="shoal-") as workplace:
        try:
            artefact = copy_artefact(source, Path(workplace), wishes.labels)
            return inference.infer(Path(workplace), artefact, wishes.overrides)
        except InvalidManifest as error:
            raise NotPrepared(error.problems) from error
        except (NotLoadable, OutOfMemory, DeviceLost) as error:
            raise NotPrepared([str(error)]) from error


def _describe(source: Path, stage: Path, model: str, wishes: Wishes) -> tuple[str, ...]:
    """Bring the files to ``stage`` and write its manifest, given or inferred; what was inferred, a line each."""
    if not (source / manifest.FILE).is_file():
        artefact = copy_artefact(source, stage, wishes.labels)
        found = inference.infer(stage, artefact, {**wishes.overrides, "model": model})
        manifest.write(found.manifest, stage)
        return found.notes
    given = inference.merged(document_of(source), wishes.overrides)
    problems = missing_files(source, given)
    try:
        checked = manifest.parse({**given, "model": model})
    except InvalidManifest as error:
        raise NotPrepared([*error.problems, *problems]) from error
    if problems:
        raise NotPrepared(problems)
    copy_folder(source, stage, with_golden=not wishes.photos)
    if checked != manifest.read(stage):
        manifest.write(checked, stage)
    return ()


def _check(stage: Path, model: str, version: str, wishes: Wishes) -> tuple[ModelCard, list[str]]:
    """Load it and execute it as a worker does; record what it answers, if nothing is recorded, and convert it."""
    wanted = manifest.read(stage)
    natural = wanted.runtime if wanted.runtime != "auto" else networks.format_of(stage / wanted.artefact)
    runtime = published.load(stage, model=model, version=version, runtime=natural)
    notes = []
    if not (stage / golden.FILE).exists():
        tried = _photos(wanted.input, wishes.photos) if wishes.photos else _made_up(stage, wanted)
        golden.write(stage, Golden(tried, runtime.outputs(tried)))
        notes.append(
            f"golden: {len(tried)} {'photos' if wishes.photos else 'made-up images'} and what it gives for them"
        )
    recorded = golden.read(stage)
    if recorded is None:
        raise NotPrepared([f"{golden.FILE} was not written"])
    golden.check(recorded.outputs, runtime.outputs(recorded.images), wanted.tolerance)
    _answer(runtime, recorded.images)
    if wishes.convert and wanted.runtime == "auto" and natural in ("keras", "savedmodel"):
        notes.append(_convert(stage, natural, wanted, recorded))
    return runtime.card, notes


def _answer(runtime: NetworkRuntime, tried: Array) -> None:
    """Have answers made of a batch of one and of a whole batch, as requests would."""
    for size in (1, min(len(tried), runtime.card.max_batch_size)):
        try:
            runtime.run(tried[:size], [Asked()] * size)
        except (OutOfMemory, DeviceLost):
            raise
        except Exception as error:  # hooks are foreign code
            raise NotPrepared([f"it loads, and answers no image: {error or type(error).__name__}"]) from error


def _photos(wanted: Input, photos: Sequence[Path]) -> Array:
    decoded, problems = [], []
    for photo in photos:
        try:
            decoded.append(images.decode(photo.read_bytes(), wanted.image(), max_pixels=_MAX_PIXELS)[0])
        except (OSError, ShoalError) as error:
            problems.append(f"{photo}: {error}")
    if problems:
        raise NotPrepared(problems)
    return np.stack(decoded)


def _made_up(stage: Path, wanted: Manifest) -> Array:
    artefact = stage / wanted.artefact.partition(":")[0]
    return inference.sample(wanted.input, digest_of(artefact if artefact.exists() else stage))


def _convert(stage: Path, natural: str, wanted: Manifest, recorded: Golden) -> str:
    """Put the same model as ONNX beside the artefact, if it can be made and gives the same; what came of it."""
    target = stage / conversion.CONVERTED
    if not target.exists():
        try:
            conversion.to_onnx(stage / wanted.artefact, natural, target, wanted)
        except (conversion.NotConvertible, MissingPackage) as error:
            return f"ONNX: not converted: {error}"
    try:
        network = networks.load("onnx", target, wanted)
        prepared = Pixels.of(wanted.input, network.inputs[0]).prepared(recorded.images)
        found = Batches(network, len(prepared)).execute(prepared)
        golden.check(recorded.outputs, found, wanted.tolerance)
        for name, expected in recorded.outputs.items():
            _see_same_order(expected, found[name])
    except MissingPackage as error:
        target.unlink()
        return f"ONNX: not converted: {error}"
    except (GoldenMismatch, NotLoadable) as error:
        target.unlink()
        return f"ONNX: converted and not kept: {error}"
    most = max(golden.difference(expected, found[name]) for name, expected in recorded.outputs.items())
    return f"ONNX: converted, for nodes without a GPU; differs by {most:.1g} at most"


def _see_same_order(expected: Array, found: Array) -> None:
    """See that the largest five numbers of each row are in the same order. Raises ``GoldenMismatch``."""
    if expected.ndim != 2:
        return
    first = np.argsort(-expected, axis=1, kind="stable")[:, :_TOP]
    ranked, other = np.take_along_axis(expected, first, 1), np.take_along_axis(found, first, 1)
    apart = -np.diff(ranked, axis=1) > _TIED * max(1.0, float(np.abs(expected).max()))
    if (apart & (np.diff(other, axis=1) > 0)).any() or not _no_others(found, other):
        raise GoldenMismatch(f"its first {_TOP} classes are others")


def _no_others(found: Array, first: Array) -> bool:
    """Whether nothing else in the rows is larger than the least of ``first``."""
    larger = (found > first.min(axis=1, keepdims=True) + _TIED * max(1.0, float(np.abs(found).max()))).sum(axis=1)
    return bool((larger < first.shape[1]).all())
