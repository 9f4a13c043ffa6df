"""Executes Keras models on JAX: the one file that knows it."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

from worker.models.networks import Spec
from worker.models.networks.failures import judge, translating
from worker.models.runtime import Array, DeviceLost, OutOfMemory

__all__ = ["compile_keras", "start", "trouble"]

_OUT_OF_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE)


@functools.cache
def _jax() -> Any:
    # JAX would take three quarters of a GPU for itself, and model processes share one.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax  # type: ignore[import-untyped, import-not-found, unused-ignore]

    return jax


def start(threads: int = 0) -> None:
    """Import JAX, to execute with so many threads; 0 leaves the choice, all cores, to it.

    XLA reads the size of its thread pool from the environment (``DefaultThreadPoolSize`` in ``pjrt/utils.cc``).
    """
    if threads:
        os.environ["NPROC"] = str(threads)
    _jax()


def compile_keras(model: Any, taken: Spec) -> Callable[[Array], Any]:
    """A function from one batch to the model's outputs, in the model's own structure, as NumPy arrays.

    XLA compiles it for each batch size that it sees.
    """
    jax = _jax()

    def call(trained: Any, fixed: Any, batch: Any) -> Any:
        return model.stateless_call(trained, fixed, batch, training=False)[0]

    compiled = jax.jit(call)
    trained = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]

    def execute(batch: Array) -> Any:
        with translating(trouble):
            return jax.device_get(compiled(trained, fixed, batch.astype(taken.dtype, copy=False)))

    return execute


def trouble(error: BaseException) -> OutOfMemory | DeviceLost | None:
    """What JAX means by an error."""
    return judge(error, _OUT_OF_MEMORY)
