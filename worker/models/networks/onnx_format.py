"""Loads ONNX models into ONNX Runtime: the one file that knows it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.models.networks import Loaded, NotLoadable, Spec
from worker.models.networks.failures import judge, translating
from worker.models.networks.probe import completed
from worker.models.runtime import Array, DeviceLost, OutOfMemory

if TYPE_CHECKING:
    from worker.models.manifest import Manifest

__all__ = ["load", "trouble"]

_OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory|out of memory|std::bad_alloc|bad allocation|CUDNN_STATUS_ALLOC_FAILED"
    r"|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({name})": name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
_FATAL_ONLY = 4


def load(artefact: Path, manifest: Manifest) -> Loaded:
    """See ``worker.models.networks.load``."""
    import onnxruntime  # type: ignore[import-untyped, import-not-found, unused-ignore]

    session = onnxruntime.InferenceSession(
        str(artefact), _options(onnxruntime, manifest.threads), providers=_providers(onnxruntime)
    )
    inputs = tuple(map(_spec, session.get_inputs()))
    outputs = tuple(map(_spec, session.get_outputs()))
    names = [output.name for output in outputs]

    def call(batch: Array) -> Mapping[str, Array]:
        with translating(trouble):
            return dict(zip(names, session.run(names, {inputs[0].name: batch}), strict=True))

    return completed(Loaded(inputs, outputs, call), manifest.input)


def trouble(error: BaseException) -> OutOfMemory | DeviceLost | None:
    """What ONNX Runtime means by an error."""
    return judge(error, _OUT_OF_MEMORY)


def _options(onnxruntime: Any, threads: int) -> Any:
    """So many threads, or one for each processor that we may use; they sleep while they wait for each other.

    By default they spin. Measured with EfficientNet-Lite0, two threads on 2 cores: where two other processes want the
    cores too, spinning costs 20.5 CPU milliseconds an image instead of 13.0 at a batch of 1, and 15.8 instead of 10.1
    at 8, and answers a batch of 1 no earlier; on an idle machine it does, in 4.9 to 7.6 ms instead of 8.4.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL_ONLY
    return options


def _providers(onnxruntime: Any) -> list[Any]:
    """A GPU where this build of ONNX Runtime has one, with the CPU for what the GPU cannot."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    # The default tries every convolution algorithm for each batch size that it meets.
    return [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"]


def _spec(node: Any) -> Spec:
    if node.type not in _DTYPES:
        raise NotLoadable(f"{node.name} is {node.type}, and not a tensor of numbers")
    return Spec(node.name, _DTYPES[node.type], tuple(size if isinstance(size, int) else -1 for size in node.shape))
