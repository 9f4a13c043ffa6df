"""Loads Keras models, ``.keras`` and ``.h5``, onto the backend that the manifest names."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.models import pixels
from worker.models.networks import Loaded, NotLoadable, Spec, by_name

if TYPE_CHECKING:
    from worker.models.manifest import Input, Manifest

__all__ = ["load", "network", "open_model", "start"]

_BACKENDS = {
    "tensorflow": "worker.models.networks.tensorflow_backend",
    "jax": "worker.models.networks.jax_backend",
    "torch": "worker.models.networks.torch_backend",
}
_COMPILED = {"tensorflow", "jax"}


def start(backend: str = "tensorflow", threads: int = 0) -> Any:
    """The module ``keras`` on a backend, whose own ``start`` says what ``threads`` means.

    Raises ``RuntimeError`` when this process has started Keras on another one.
    """
    importlib.import_module(_BACKENDS[backend]).start(threads)
    os.environ["KERAS_BACKEND"] = backend
    import keras  # type: ignore[import-untyped, import-not-found, unused-ignore]

    if keras.config.backend() != backend:
        raise RuntimeError(f"Keras runs on {keras.config.backend()} in this process, and cannot on {backend} too")
    return keras


def open_model(artefact: Path, backend: str, threads: int = 0) -> Any:
    """The ``keras.Model`` of a file, without code that its author may have put into it (``Lambda`` layers)."""
    return start(backend, threads).saving.load_model(artefact, compile=False, safe_mode=True)


def load(artefact: Path, manifest: Manifest) -> Loaded:
    """See ``worker.models.networks.load``."""
    if not artefact.is_file():
        raise NotLoadable(f"there is no file {artefact.name}")
    return network(open_model(artefact, manifest.backend, manifest.threads), manifest.input, manifest.backend)


def network(model: Any, wanted: Input, backend: str = "tensorflow") -> Loaded:
    """A Keras model with one image input, which takes pixels of any dtype, as Keras casts them itself.

    Raises ``ValueError`` when the input does not fit the manifest's.
    """
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1:
        raise NotLoadable(f"the model has {len(inputs) or 'no declared'} inputs: it must take one, the image")
    declared = _shape(inputs[0])
    if "int" in inputs[0].dtype and not pixels.holds(inputs[0].dtype, wanted.dtype):
        raise NotLoadable(f"it takes {inputs[0].dtype}, to which Keras would cut {wanted.dtype}: set input.dtype")
    taken = Spec(inputs[0].name, wanted.dtype, (declared[0], *pixels.shape(wanted, declared)))
    given = _outputs(start(backend), model, taken)
    outputs = tuple(Spec(name, str(tensor.dtype), _shape(tensor)) for name, tensor in given.items())
    call = importlib.import_module(_BACKENDS[backend]).compile_keras(model, taken)
    return Loaded((taken,), outputs, lambda batch: by_name(call(batch), list(given)), pads=backend in _COMPILED)


def _outputs(keras: Any, model: Any, taken: Spec) -> dict[str, Any]:
    """The model's symbolic outputs by name: the keys of a dictionary, else the names of the layers they come from."""
    shape = [None if size < 0 else size for size in taken.shape]
    outputs = model.compute_output_spec(keras.KerasTensor(shape, taken.dtype))
    if isinstance(outputs, dict):
        return outputs
    row = list(outputs) if isinstance(outputs, list | tuple) else [outputs]
    names = getattr(model, "output_names", None) or [model.layers[-1].name]
    if len(set(names)) != len(row):
        names = [f"output_{index}" for index in range(len(row))]
    return dict(zip(names, row, strict=True))


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(-1 if size is None else size for size in tensor.shape)
