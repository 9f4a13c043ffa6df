"""What a network gave for one image of a batch, as it is, or as its greatest values with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shoal.wire import Output
from worker.models.runtime import Array, Outputs

__all__ = ["classes", "of_image"]


def of_image(outputs: Mapping[str, Array], image: int, wanted: Sequence[Output], labels: Sequence[str]) -> Outputs:
    """The ``wanted`` outputs, all when there are none, of the image of that number in the batch.

    Raises ``ValueError`` for an output that there is not.
    """
    found = Outputs()
    for output in wanted or [Output(name) for name in outputs]:
        if output.name not in outputs:
            raise ValueError(f"there is no output {output.name!r}, there are {', '.join(outputs)}")
        values = np.asarray(outputs[output.name][image])
        found[output.name] = classes(values, output.classes, labels) if output.classes > 0 else values
    return found


def classes(values: Array, most: int, labels: Sequence[str]) -> Array:
    """The ``most`` greatest values, of equals the lower index first, as bytes ``VALUE:INDEX``, with ``:LABEL`` where
    there are labels for so many values. A value that is no number is less than all others.

    Raises ``ValueError`` for what are no numbers.
    """
    flat = np.ravel(values)
    if flat.dtype.kind not in "biuf":
        raise ValueError(f"{flat.dtype} has no greatest values")
    if flat.dtype.kind == "b":
        flat = flat.astype(np.uint8)
    ranked = np.where(np.isnan(flat), -np.inf, flat) if flat.dtype.kind == "f" else flat
    order = (len(flat) - 1 - np.argsort(ranked[::-1], kind="stable")[::-1])[:most]
    names = [f":{label}" for label in labels] if len(labels) == len(flat) else [""] * len(flat)
    found = np.empty(len(order), object)
    found[:] = [f"{flat[index]!s}:{index}{names[index]}".encode() for index in order.tolist()]
    return found
