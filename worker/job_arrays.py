"""Arrays off the wire and onto it again: what a job gives to its model, and what the network gave for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.wire import Job, ModelCard, Tensor
from worker.jobs import Claimed
from worker.models.runtime import Array

__all__ = ["Ready", "batches", "fits", "tensors", "varies"]

_NUMBERS = "biuf"
_LENGTH_BYTES = 4


@dataclass(frozen=True)
class Ready:
    """A claimed job with its input, one row without the batch."""

    claimed: Claimed
    array: Array


def batches(ready: Sequence[Ready], size: int) -> list[list[Ready]]:
    """Suspects alone, the others together with those of their own dtype and shape, never more than ``size`` images."""
    alike: dict[tuple[str, tuple[int, ...]], list[Ready]] = {}
    for one in ready:
        if not one.claimed.suspect:
            alike.setdefault((one.array.dtype.name, one.array.shape), []).append(one)
    alone = [[one] for one in ready if one.claimed.suspect]
    return alone + [group[i : i + size] for group in alike.values() for i in range(0, len(group), size)]


def fits(job: Job, card: ModelCard) -> Array:
    """The job's input: the uint8 image of ``card.input``, or a ready-made array of ``card.tensor``.

    Raises ``ValueError`` that says what would fit, also for outputs that the model does not have.
    """
    names = {card.input.name} | ({card.tensor.name} if card.tensor else set())
    if len(job.inputs) != 1 or not names & job.inputs.keys():
        raise ValueError(f"its inputs are {', '.join(job.inputs) or 'none'}, not {' or '.join(sorted(names))}")
    ((name, tensor),) = job.inputs.items()
    is_image = (tensor.dtype, tensor.shape) == ("uint8", card.input.shape)
    if not is_image and not (card.tensor and card.tensor.takes(tensor.dtype, tensor.shape)):
        also = f", nor {card.tensor.dtype} {_written(card.tensor.shape)}" if card.tensor else ""
        image = f"uint8 {_written(card.input.shape)}"
        raise ValueError(f"{name} is {tensor.dtype} {_written(tensor.shape)}, not {image}{also}")
    if not is_image and job.outputs is None:
        raise ValueError("a ready-made array is answered with the network's own outputs, and none are asked for")
    known = {output.name for output in card.outputs}
    strangers = [output.name for output in job.outputs or () if output.name not in known]
    if strangers:
        raise ValueError(f"it has no output {strangers[0]!r}, there are {', '.join(sorted(known)) or 'none'}")
    return _array(tensor)


def varies(array: Array, card: ModelCard) -> bool:
    """Whether the input is of a shape that its client has chosen."""
    is_image = array.dtype == np.uint8 and array.shape == card.input.shape
    return not is_image and card.tensor is not None and any(side < 0 for side in card.tensor.shape)


def tensors(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a network gave for one image, ready to travel. Raises ``ValueError`` for what is neither numbers nor
    bytes."""
    return {name: _tensor(name, np.asarray(array)) for name, array in outputs.items()}


def _array(tensor: Tensor) -> Array:
    dtype = np.dtype(tensor.dtype)
    if dtype.kind not in _NUMBERS:
        raise ValueError(f"{tensor.dtype} is not a kind of number")
    size = math.prod(tensor.shape) * dtype.itemsize
    if len(tensor.data) != size:
        raise ValueError(f"its data are {len(tensor.data)} bytes, and not {size}")
    flat = np.frombuffer(tensor.data, dtype.newbyteorder("<") if dtype.kind != "b" else np.uint8)
    # A byte that is neither 0 nor 1 would be no bool that a framework knows.
    native = flat != 0 if dtype.kind == "b" else flat.astype(dtype, copy=False)
    return native.reshape(tensor.shape)


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind == "O":
        return Tensor("bytes", array.shape, b"".join(_element(name, one) for one in array.ravel()))
    if array.dtype.kind not in _NUMBERS:
        raise ValueError(f"output {name!r} is {array.dtype}, neither numbers nor bytes")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return Tensor(array.dtype.name, array.shape, little.tobytes())


def _element(name: str, one: Any) -> bytes:
    if not isinstance(one, bytes):
        raise ValueError(f"output {name!r} has an element that is no bytes, but {type(one).__name__}")
    return len(one).to_bytes(_LENGTH_BYTES, "little") + one


def _written(shape: Sequence[int]) -> str:
    return "(" + ", ".join("any" if side < 0 else str(side) for side in shape) + ")"
