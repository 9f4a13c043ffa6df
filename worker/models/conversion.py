"""Makes ONNX of Keras models and SavedModels, for nodes without a GPU: the one file that knows tf2onnx and onnx.

It imports TensorFlow, so the tools that prepare a model call it in a process of its own.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.models.networks import keras_format, tensorflow_backend
from worker.models.packaged import MissingPackage

if TYPE_CHECKING:
    from worker.models.manifest import Manifest

__all__ = ["CONVERTED", "NotConvertible", "to_onnx"]

# The converted copy's name in a version's folder.
CONVERTED = "model.onnx"


class NotConvertible(Exception):
    """There is no ONNX model that does the same, or none can be made here."""


def to_onnx(artefact: Path, runtime: str, target: Path, manifest: Manifest) -> None:
    """Write a model of runtime ``keras`` or ``savedmodel`` as ONNX, with inputs and outputs of the same names.

    The target is complete or not there. Raises ``NotConvertible`` with the reason. Whether the copy gives the same
    answers is for the caller to see.
    """
    prepare = {"keras": _keras, "savedmodel": _saved_model}.get(runtime)
    if prepare is None:
        raise NotConvertible(f"only keras and savedmodel are converted, not {runtime}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".conversion-") as folder:
        made = Path(folder) / CONVERTED
        try:
            _convert(*prepare(artefact, manifest), made)
        except (NotConvertible, MissingPackage):
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise NotConvertible(f"{artefact.name} cannot be written as ONNX: {reason}") from error
        made.replace(target)


def _convert(function: Any, taken: Any, made: Path) -> None:
    with tensorflow_backend.quietly(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import tf2onnx  # type: ignore[import-untyped, import-not-found, unused-ignore]
        except ModuleNotFoundError as error:
            raise MissingPackage(f"{error.name} is missing: pip install 'shoal[onnx]'") from error

        logging.getLogger("tf2onnx").setLevel(logging.ERROR)
        tf2onnx.convert.from_function(function, input_signature=[taken], output_path=str(made))


def _keras(artefact: Path, manifest: Manifest) -> tuple[Any, Any]:
    if manifest.backend != "tensorflow":
        raise NotConvertible(f"what runs Keras on {manifest.backend} is not converted")
    model = keras_format.open_model(artefact, manifest.backend, manifest.threads)
    network = keras_format.network(model, manifest.input)
    return tensorflow_backend.to_convert_keras(model, network.inputs[0], [spec.name for spec in network.outputs])


def _saved_model(artefact: Path, manifest: Manifest) -> tuple[Any, Any]:
    tensorflow_backend.start(manifest.threads)
    return tensorflow_backend.to_convert_saved_model(artefact)
