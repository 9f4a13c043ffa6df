"""Guesses the manifest of a bare artefact, and says of everything why, so that its user can check it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.models import manifest, networks
from worker.models.manifest import Input, Manifest
from worker.models.networks import Network, NotLoadable, Spec
from worker.models.outcomes import Outcome, task_of
from worker.models.pixels import Pixels
from worker.models.runtime import Array
from worker.models.tasks import labels

__all__ = ["LABELS", "Inferred", "infer", "merged", "sample"]

LABELS = "labels.txt"
"""A file of this name beside an artefact has the labels of its classes, one a line."""

_SIZE = 224
_CHANNELS = (1, 3)
_DTYPES = {
    "float16": "float16",
    "float32": "float32",
    "float64": "float32",
    "uint8": "uint8",
    **dict.fromkeys(("int16", "uint16", "int32", "uint32", "int64", "uint64"), "uint8"),
}
# What is tried on a format that does not declare its input: (channels, side), the most usual first.
_TRIED = (
    *((3, side) for side in (224, 32, 64, 96, 128, 160, 192, 240, 256, 260, 299, 300, 320, 384, 416, 448, 512, 640)),
    *((1, side) for side in (28, 32, 64, 96, 128, 224, 256)),
)
_FIRST_LAYERS = 6
_SCALING_LAYERS = ("Rescaling", "Normalization")


@dataclass(frozen=True)
class Inferred:
    """A manifest, and a line for each thing in it that nobody has said: what was taken, and why."""

    manifest: Manifest
    notes: tuple[str, ...]


def infer(folder: Path, artefact: str, overrides: Mapping[str, Any]) -> Inferred:
    """The manifest of ``artefact``, which lies in ``folder``. ``overrides`` are parts of it that the user has said.

    Raises ``InvalidManifest``, ``NotLoadable``, and what a framework raises.
    """
    given = dict(overrides)
    runtime = given.get("runtime", "auto")
    notes = []
    if runtime == "auto":
        runtime = networks.format_of(folder / artefact)
        notes.append(f"format: {runtime}, by its name")
    document = merged({"artefact": artefact}, given)
    candidates = _DECLARED.get(runtime, _tried)(folder, document, runtime)
    guess, network, problem = None, None, "nothing was tried"
    for guess in candidates:
        document = merged({"artefact": artefact, "input": guess.input}, given)
        try:
            network = networks.load(runtime, folder / artefact, manifest.parse(document))
            break
        except NotLoadable as error:
            problem = str(error)
    if network is None or guess is None:
        raise NotLoadable(f"no size of input fits it; say input.height and input.width. The last one: {problem}")
    notes += [note for name, note in guess.notes.items() if not _said(given, name)]
    outcome = _outcome(folder, manifest.parse(document), network)
    notes += [note for name, note in outcome.notes.items() if not _said(given, name)]
    return Inferred(manifest.parse(merged(document, outcome.document, given)), tuple(notes))


def sample(taken: Input, seed: str, count: int = 4) -> Array:
    """Images for trying a model, uint8 (count, height, width, channels): tiles and noise, the same for equal seeds."""
    random = np.random.default_rng(int(seed, 16))
    shape = (count, taken.height, taken.width, taken.channels)
    tiles = random.integers(0, 256, (count, 8, 8, taken.channels), dtype=np.uint8)
    rows, columns = (np.arange(side) * 8 // side for side in shape[1:3])
    images = tiles[:, rows][:, :, columns]
    images[1::2] = random.integers(0, 256, images[1::2].shape, dtype=np.uint8)
    return np.ascontiguousarray(images)


def merged(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of several documents as one; of two values, the later counts."""
    whole: dict[str, Any] = {}
    for document in documents:
        for name, value in document.items():
            there = whole.get(name)
            is_table = isinstance(value, Mapping) and isinstance(there, Mapping)
            whole[name] = merged(there, value) if is_table and there is not None else value
    return whole


@dataclass(frozen=True)
class _Guess:
    """A table ``[input]``, and why, by the dotted names of what it is about."""

    input: dict[str, Any]
    notes: dict[str, str]


def _said(given: Mapping[str, Any], name: str) -> bool:
    table, _, key = name.partition(".")
    return key in given.get(table, {}) if key else table in given


def _outcome(folder: Path, guessed: Manifest, network: Network) -> Outcome:
    pixels = Pixels.of(guessed.input, network.inputs[0])
    batch = pixels.prepared(sample(guessed.input, "0"))
    size = network.inputs[0].shape[0]
    parts = [batch] if size < 0 else [batch[start : start + size] for start in range(0, len(batch) - size + 1, size)]
    executed = [network.execute(part) for part in parts]
    if not executed:
        raise NotLoadable(f"it takes batches of {size} images only, which is more than are tried here")
    outputs = {name: np.concatenate([part[name] for part in executed]) for name in executed[0]}
    file = "" if guessed.labels or not (folder / LABELS).is_file() else LABELS
    return task_of(outputs, labels=len(labels.read(guessed.labels or file, folder)), labels_file=file)


def _declared_by_network(folder: Path, document: Mapping[str, Any], runtime: str) -> Iterator[_Guess]:
    anything = manifest.parse(merged({"input": {"height": _SIZE, "width": _SIZE}}, document))
    network = networks.load(runtime, folder / str(document["artefact"]), anything)
    if len(network.inputs) != 1:
        names = ", ".join(spec.name for spec in network.inputs)
        raise NotLoadable(f"it has {len(network.inputs)} inputs ({names}): it must take one, the image")
    yield _guess(network.inputs[0], channels_last=runtime == "savedmodel", scales="")


def _declared_by_keras(folder: Path, document: Mapping[str, Any], runtime: str) -> Iterator[_Guess]:
    from worker.models.networks import keras_format

    backend = str(document.get("backend", "tensorflow"))
    try:
        model = keras_format.open_model(folder / str(document["artefact"]), backend)
    except ImportError as error:
        raise NotLoadable(f"{error}; install what runs Keras models: pip install 'shoal[tensorflow]'") from error
    except Exception as error:
        raise NotLoadable(f"{document['artefact']} does not load as keras: {error or type(error).__name__}") from error
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1:
        raise NotLoadable(f"the model has {len(inputs) or 'no declared'} inputs: it must take one, the image")
    shape = tuple(-1 if size is None else int(size) for size in inputs[0].shape)
    layers = list(_layers(model))[:_FIRST_LAYERS]
    scales = next((layer for layer in layers if layer in _SCALING_LAYERS), "")
    yield _guess(Spec(inputs[0].name, str(inputs[0].dtype), shape), channels_last=True, scales=scales)


def _layers(model: Any) -> Iterator[str]:
    """The kinds of a Keras model's layers, in order, with those of the models inside it."""
    for layer in getattr(model, "layers", ()):
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        else:
            yield type(layer).__name__


def _tried(folder: Path, document: Mapping[str, Any], runtime: str) -> Iterator[_Guess]:
    """Inputs to try, for formats that say nothing."""
    layouts = ("NCHW", "NHWC") if runtime == "torchscript" else ("NHWC", "NCHW")
    said = document.get("input", {})
    for layout in layouts:
        for channels, side in _TRIED:
            guess = {"height": side, "width": side, "channels": channels, "layout": layout}
            if any(said.get(name, guess[name]) != guess[name] for name in ("channels", "layout")):
                continue
            yield _Guess(
                {**guess, **_scaled("float32", "")[0]},
                {
                    "input.height": f"input: {side} x {side}, {layout}, {channels} channels: the first that it took, a "
                    "guess to check",
                    **_scaled("float32", "")[1],
                },
            )
            if "height" in said and "width" in said:
                break


_Candidates = Callable[[Path, Mapping[str, Any], str], Iterator[_Guess]]

_DECLARED: dict[str, _Candidates] = {
    "onnx": _declared_by_network,
    "savedmodel": _declared_by_network,
    "keras": _declared_by_keras,
}


def _guess(declared: Spec, *, channels_last: bool, scales: str) -> _Guess:
    """What an input that the artefact declares says."""
    if declared.dtype not in _DTYPES:
        raise NotLoadable(f"its input {declared.name!r} is {declared.dtype}, not the pixels of an image")
    layout, (height, width, channels) = _arranged(declared, channels_last=channels_last)
    notes = {"input.layout": f"input: {layout}, as {_written(declared.shape)} is declared"}
    sizes = {"height": height, "width": width}
    varying = [name for name, size in sizes.items() if size < 0]
    if varying:
        notes["input.height"] = f"input: {' and '.join(varying)} may be anything, {_SIZE} is taken: a guess to check"
    dtype = _DTYPES[declared.dtype]
    scaling, why = _scaled(dtype, scales)
    table = {name: _SIZE if size < 0 else size for name, size in sizes.items()}
    return _Guess({**table, "channels": channels, "layout": layout, "dtype": dtype, **scaling}, {**notes, **why})


def _arranged(declared: Spec, *, channels_last: bool) -> tuple[str, tuple[int, int, int]]:
    """The layout, and height, width and channels with -1 for what varies. Raises ``NotLoadable``."""
    if len(declared.shape) == 3:
        return "NHWC", (declared.shape[1], declared.shape[2], 1)
    if len(declared.shape) == 4:
        _, second, third, fourth = declared.shape
        last = fourth in _CHANNELS and (channels_last or second not in _CHANNELS)
        if last or (channels_last and fourth < 0 and second not in _CHANNELS):
            return "NHWC", (second, third, fourth if fourth > 0 else 3)
        if second in _CHANNELS or (second < 0 and fourth < 0):
            return "NCHW", (third, fourth, second if second > 0 else 3)
    raise NotLoadable(f"its input {declared.name!r} has shape {_written(declared.shape)}, which is no image's")


def _scaled(dtype: str, scales: str) -> tuple[dict[str, Any], dict[str, str]]:
    if dtype == "uint8":
        return {}, {"input.scale": "scale: none, it takes whole numbers"}
    if scales:
        return {}, {"input.scale": f"scale: none, the model begins with a layer {scales}"}
    return {"scale": 1 / 255}, {"input.scale": "scale: 1/255, a guess to check: nothing tells what range it expects"}


def _written(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join("any" if size < 0 else str(size) for size in shape) + ")"
