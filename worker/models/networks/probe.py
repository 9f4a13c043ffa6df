"""Finds out what a network gives by executing it, where its artefact does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from worker.models.networks import Loaded, Spec
from worker.models.runtime import Array, DeviceLost, OutOfMemory

__all__ = ["probed"]


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
    outputs = tuple(Spec(name, array.dtype.name, _shape(array, grows)) for name, array in one.items())
    return Loaded((Spec(taken.name, taken.dtype, shape),), outputs, call)


def _black(taken: Spec, images: int) -> Array:
    return np.zeros((images, *taken.shape[1:]), taken.dtype)


def _shape(array: Array, grows: bool) -> tuple[int, ...]:
    """A size of nothing, as of no detections, is one that varies."""
    return (-1 if grows else 1, *(size or -1 for size in array.shape[1:]))
