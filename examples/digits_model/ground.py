"""Turns drawings, black on white, into their negatives: the network has learned white on black."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]


def white_on_black(images: Images, asked: Sequence[Any]) -> Images:
    """The batch (n, 28, 28, 1), with its negative where the edge of a picture is lighter than middle grey."""
    sides = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    light = np.concatenate(sides, axis=1).mean(axis=(1, 2)) > 127
    return np.where(light[:, np.newaxis, np.newaxis, np.newaxis], 255 - images, images)
