"""Finds the output that a task reads, and makes rows of it: one for each image, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from worker.models.networks import Spec
from worker.models.runtime import Array

__all__ = ["choose", "rows", "shortest", "tensor", "width"]


def choose(outputs: Sequence[Spec], name: str, *, setting: str = "output") -> Spec:
    """The output of that name, or the only one. Raises ``ValueError`` that names what there is."""
    names = ", ".join(spec.name for spec in outputs)
    if not name and len(outputs) == 1:
        return outputs[0]
    if not name:
        raise ValueError(f"{setting}: the network has {len(outputs)} outputs, say which to read: {names}")
    for spec in outputs:
        if spec.name == name:
            return spec
    raise ValueError(f"{setting}: the network has no output {name!r}, there are {names}")


def width(spec: Spec) -> int:
    """How many values an image has in an output of rows, -1 where only an execution tells.

    Sides of 1 do not count: (n, 1000, 1, 1) is 1000 wide. Raises ``ValueError`` for any other shape than a row's.
    """
    sides = [side for side in spec.shape[1:] if side != 1]
    if not spec.shape or len(sides) > 1:
        raise ValueError(f"output {spec.name!r} has shape {spec.shape}, not one row for each image")
    return sides[0] if sides else math.prod(spec.shape[1:])


def tensor(outputs: Mapping[str, Array], name: str, images: int) -> Array:
    """An output with an entry for each image, all finite. Raises ``ValueError`` for any other."""
    if name not in outputs:
        raise ValueError(f"the model gave no output {name!r}")
    values = outputs[name]
    if not values.ndim or len(values) != images:
        raise ValueError(f"output {name!r} has shape {values.shape} for {images} images")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"output {name!r} is {values.dtype}, not numbers")
    if not np.isfinite(values).all():
        raise ValueError(f"output {name!r} is not finite")
    return values


def rows(outputs: Mapping[str, Array], name: str, images: int) -> Array:
    """The same as (images, width); sides of 1 do not count. Raises ``ValueError``."""
    values = tensor(outputs, name, images)
    if sum(side != 1 for side in values.shape[1:]) > 1:
        raise ValueError(f"output {name!r} has shape {values.shape}, not one row for each image")
    return values.reshape(images, -1)


def shortest(values: Array) -> Array:
    """Floats of any width as the float64 with the fewest decimals that give the same float again."""
    if values.dtype.kind != "f" or values.dtype.itemsize >= 8 or not values.size:
        return values
    return values.astype(np.str_).astype(np.float64)
