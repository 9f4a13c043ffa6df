"""Finds out what a network gives by executing it, where its artefact does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from worker.models import pixels
from worker.models.networks import Loaded, Spec
from worker.models.runtime import Array, DeviceLost, OutOfMemory

if TYPE_CHECKING:
    from worker.models.manifest import Input

__all__ = ["completed", "probed"]


def probed(call: Callable[[Array], Mapping[str, Array]], taken: Spec) -> Loaded:
    """The network behind ``call``, by what it answers to one black image, and to two.

    ``taken`` is its input, whose batch varies. One that raises on two images, or answers as if they were one, takes
    them one by one.
    """
    one = call(_black(taken, 1))
    try:
        two = call(_black(taken, 2))
    except (OutOfMemory, DeviceLost):
        raise
    except Exception:
        two = {}
    grows = one.keys() == two.keys() and all(array.shape[:1] == (2,) for array in two.values())
    shape = taken.shape if grows else (1, *taken.shape[1:])
    outputs = tuple(
        Spec(name, array.dtype.name, _shape(array, grows) if array.ndim else ()) for name, array in one.items()
    )
    return Loaded((Spec(taken.name, taken.dtype, shape),), outputs, call)


def completed(network: Loaded, wanted: Input) -> Loaded:
    """The same network, with what it answers to black images where it declares no shape of an output at all."""
    if len(network.inputs) != 1 or all(output.shape for output in network.outputs):
        return network
    (taken,) = network.inputs
    batch = max(1, taken.shape[0]) if taken.shape else 1
    black = np.zeros((batch, *pixels.shape(wanted, taken.shape)), taken.dtype)
    found = network.call(black)
    outputs = tuple(
        replace(output, shape=_shape(found[output.name], taken.shape[0] < 0) if found[output.name].ndim else ())
        for output in network.outputs
    )
    return replace(network, outputs=outputs)


def _black(taken: Spec, images: int) -> Array:
    return np.zeros((images, *taken.shape[1:]), taken.dtype)


def _shape(array: Array, grows: bool) -> tuple[int, ...]:
    """A size of nothing, as of no detections, is one that varies."""
    return (-1 if grows else array.shape[0], *(size or -1 for size in array.shape[1:]))
