"""Boxes as rows of left, top, right, bottom: their overlap, and their way from a network's input to the picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.wire import Frame
from worker.models.runtime import Array

__all__ = ["Boxes", "corners", "into_picture", "iou"]

Boxes = npt.NDArray[np.float64]


def corners(center_x: Array, center_y: Array, width: Array, height: Array) -> Boxes:
    """Boxes of these centres and sizes."""
    half_x, half_y = width / 2, height / 2
    found: Boxes = np.stack([center_x - half_x, center_y - half_y, center_x + half_x, center_y + half_y], axis=-1)
    return found


def iou(box: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    """The intersection of one box with each of n others as a share of their union, 0 where there is none."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(box[np.newaxis]) + _area(others) - common
    share: npt.NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return share


def into_picture(boxes: Boxes, frame: Frame) -> Boxes:
    """Boxes in shares of the input (0 to 1) as pixels of the original picture, cut off at its borders."""
    scale = np.array([frame.right - frame.left, frame.bottom - frame.top] * 2)
    found = boxes * scale + np.array([frame.left, frame.top] * 2)
    clipped: Boxes = np.clip(found, 0, np.array([frame.width, frame.height] * 2))
    return clipped


def _area(boxes: Boxes) -> npt.NDArray[np.float64]:
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    area: npt.NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return area
