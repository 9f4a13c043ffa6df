"""Executes what TensorFlow executes: the one file that knows it, for Keras models and for SavedModels.

``start`` imports TensorFlow, so only a model process, or a tool that prepares models, calls it. It calms the start-up
log, and lets a GPU's memory grow as needed so that several model processes can share the GPU.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from worker.models.networks import NotLoadable, Spec
from worker.models.networks.failures import judge, translating
from worker.models.runtime import Array, DeviceLost, OutOfMemory

__all__ = [
    "compile_keras",
    "open_saved_model",
    "quietly",
    "start",
    "to_convert_keras",
    "to_convert_saved_model",
    "trouble",
]

# TensorFlow writes its first lines before its own log level applies, so no setting silences them.
_CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} ")

_OUT_OF_MEMORY = re.compile(
    r"ResourceExhausted|RESOURCE_EXHAUSTED|OOM when allocating|out of memory|CUDA_ERROR_OUT_OF_MEMORY"
    r"|Dst tensor is not initialized|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_SIGNATURES = ("serving_default", "serve")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Hold back what is written to standard error, then let all of it through but TensorFlow's chatter."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)


@functools.cache
def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with quietly():
        import tensorflow as tf  # type: ignore[import-untyped, import-not-found, unused-ignore]

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    return tf


def start(threads: int = 0) -> None:
    """Import TensorFlow, to execute with so many threads; 0 leaves the choice, all cores, to it.

    Measured with EfficientNet-Lite0 on 2 cores: one thread takes 10.8, 10.1 and 11.3 CPU milliseconds an image
    at batches of 1, 8 and 32, two threads 15.8, 11.1 and 12.0, but a batch of 8 then takes 48 ms, not 81.
    Raises ``RuntimeError`` when TensorFlow has already executed something with another number.
    """
    tf = _tensorflow()
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def compile_keras(model: Any, taken: Spec) -> Callable[[Array], Any]:
    """A function from one batch to the model's outputs, in the model's own structure, as NumPy arrays.

    The weights become constants, which lets TensorFlow fold batch normalisation into the convolutions: a quarter less
    CPU for an image than with variables (11.1 against 14.5 ms at a batch of 8), at the cost of weights that cannot
    change any more. XLA is not used: on a CPU it is ten times slower.
    """
    tf = _tensorflow()
    compiled = _keras_function(tf, model, taken)

    def execute(batch: Array) -> Any:
        with translating(trouble):
            return tf.nest.map_structure(lambda output: output.numpy(), compiled(batch))

    return execute


def _keras_function(tf: Any, model: Any, taken: Spec) -> Any:
    trained = [variable.numpy() for variable in model.trainable_variables]
    fixed = [variable.numpy() for variable in model.non_trainable_variables]

    def call(batch: Any) -> Any:
        return model.stateless_call(trained, fixed, batch, training=False)[0]

    return tf.function(call, input_signature=[_tensor_spec(tf, taken)], autograph=False)


def to_convert_keras(model: Any, taken: Spec, names: Sequence[str]) -> tuple[Any, Any]:
    """For tf2onnx: a ``tf.function`` that gives a dictionary of the model's outputs, and its input's ``TensorSpec``."""
    tf = _tensorflow()
    inner = _keras_function(tf, model, taken)

    def call(batch: Any) -> Any:
        outputs = inner(batch)
        if isinstance(outputs, dict):
            return outputs
        row = outputs if isinstance(outputs, list | tuple) else [outputs]
        return dict(zip(names, row, strict=True))

    spec = _tensor_spec(tf, taken)
    return tf.function(call, input_signature=[spec], autograph=False), spec


def to_convert_saved_model(folder: Path) -> tuple[Any, Any]:
    """The same for a SavedModel, by its signature."""
    tf = _tensorflow()
    loaded, signature = _signature(tf, folder)
    (taken,) = _specs(signature.structured_input_signature[1])
    spec = _tensor_spec(tf, taken)
    function = tf.function(lambda batch: signature(**{taken.name: batch}), input_signature=[spec], autograph=False)
    function.model = loaded
    return function, spec


def open_saved_model(folder: Path) -> tuple[list[Spec], list[Spec], Callable[[Array], dict[str, Array]]]:
    """A SavedModel's inputs, its outputs, and its signature as a function of one batch of a single input.

    Raises ``NotLoadable`` without the signature ``serving_default`` or ``serve``.
    """
    tf = _tensorflow()
    loaded, signature = _signature(tf, folder)
    inputs = _specs(signature.structured_input_signature[1])

    def execute(batch: Array) -> dict[str, Array]:
        with translating(trouble):
            outputs = signature(**{inputs[0].name: tf.constant(batch)})
            return {output: tensor.numpy() for output, tensor in outputs.items()}

    # A signature holds its model's variables by weak references only.
    execute.model = loaded  # type: ignore[attr-defined]
    return inputs, _specs(signature.structured_outputs), execute


def trouble(error: BaseException) -> OutOfMemory | DeviceLost | None:
    """What TensorFlow means by an error."""
    return judge(error, _OUT_OF_MEMORY)


def _signature(tf: Any, folder: Path) -> tuple[Any, Any]:
    loaded = tf.saved_model.load(str(folder))
    name = next((name for name in _SIGNATURES if name in loaded.signatures), None)
    if name is None:
        raise NotLoadable(f"no signature serving_default or serve: there is {', '.join(loaded.signatures) or 'none'}")
    return loaded, loaded.signatures[name]


def _tensor_spec(tf: Any, spec: Spec) -> Any:
    return tf.TensorSpec([None if size < 0 else size for size in spec.shape], spec.dtype, name=spec.name)


def _specs(tensors: dict[str, Any]) -> list[Spec]:
    return [
        Spec(name, tensor.dtype.name, tuple(-1 if size is None else size for size in tensor.shape or ()))
        for name, tensor in sorted(tensors.items())
    ]
