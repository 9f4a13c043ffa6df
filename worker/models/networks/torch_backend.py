"""Executes what PyTorch executes: the one file that knows it, for Keras models and for TorchScript."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.models.networks import Spec
from worker.models.networks.failures import judge, translating
from worker.models.runtime import Array, DeviceLost, OutOfMemory

__all__ = ["compile_keras", "open_torchscript", "start", "trouble"]

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|can't allocate memory|not enough memory"
    r"|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


@functools.cache
def _torch() -> Any:
    import torch  # type: ignore[import-untyped, import-not-found, unused-ignore]

    return torch


def start(threads: int = 0) -> None:
    """Import PyTorch, to execute with so many threads; 0 leaves the choice, all cores, to it."""
    torch = _torch()
    if threads:
        torch.set_num_threads(threads)


def compile_keras(model: Any, taken: Spec) -> Callable[[Array], Any]:
    """A function from one batch to the model's outputs, in the model's own structure, as NumPy arrays.

    Keras puts the weights on a GPU where there is one.
    """
    return _executing(lambda batch: model(batch, training=False), _device())


def open_torchscript(file: Path) -> Callable[[Array], Any]:
    """A function from one batch to the model's outputs, in the model's own structure, as NumPy arrays."""
    torch = _torch()
    device = _device()
    with warnings.catch_warnings():  # it works, and says that it is no longer developed
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.jit.load(str(file), map_location=device)
    model.eval()
    return _executing(model, device)


def trouble(error: BaseException) -> OutOfMemory | DeviceLost | None:
    """What PyTorch means by an error."""
    return judge(error, _OUT_OF_MEMORY)


def _device() -> str:
    return "cuda" if _torch().cuda.is_available() else "cpu"


def _executing(call: Callable[[Any], Any], device: str) -> Callable[[Array], Any]:
    torch = _torch()

    def execute(batch: Array) -> Any:
        with translating(trouble), torch.no_grad():
            # PyTorch warns of an array that it could not write to, such as a job's own bytes.
            tensor = torch.from_numpy(batch if batch.flags.writeable else batch.copy())
            return _arrays(call(tensor.to(device)))

    return execute


def _arrays(outputs: Any) -> Any:
    """The same structure, of dictionaries, lists and tuples, with arrays for tensors."""
    if isinstance(outputs, dict):
        return {name: _arrays(output) for name, output in outputs.items()}
    if isinstance(outputs, list | tuple):
        return [_arrays(output) for output in outputs]
    return outputs.detach().cpu().numpy()
