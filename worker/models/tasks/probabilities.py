"""From what networks give to probabilities, in float64: row by row, so that no answer depends on its neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.models.runtime import Array

__all__ = [
    "Probabilities",
    "are_probabilities",
    "as_they_are",
    "sigmoid",
    "softmax",
    "softmax_unless_probabilities",
]

Probabilities = npt.NDArray[np.float64]

# How far the sum of a row of probabilities may be from 1, and a probability beyond 0 or 1: half precision's error.
_SLACK = 1e-3


def softmax(rows: Array) -> Probabilities:
    """Probabilities over the last axis, safe for logits of any size."""
    wide = rows.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(axis=-1, keepdims=True)
    return wide


def sigmoid(values: Array) -> Probabilities:
    """1 / (1 + e^-x), safe for logits of any size."""
    wide = values.astype(np.float64)
    wide *= 0.5
    np.tanh(wide, out=wide)
    wide += 1.0
    wide *= 0.5
    return wide


def as_they_are(values: Array) -> Probabilities:
    """The values, which must be from 0 to 1 but for rounding. Raises ``ValueError``."""
    wide = values.astype(np.float64)
    if (wide < -_SLACK).any() or (wide > 1 + _SLACK).any():
        raise ValueError('the outputs are not probabilities: activation "none" takes values from 0 to 1')
    return np.clip(wide, 0.0, 1.0)


def are_probabilities(rows: Probabilities) -> npt.NDArray[np.bool_]:
    """Of each row, whether none of its values is negative and their sum is 1."""
    found: npt.NDArray[np.bool_] = (rows >= 0).all(axis=-1) & (np.abs(rows.sum(axis=-1) - 1.0) <= _SLACK)
    return found


def softmax_unless_probabilities(rows: Array) -> Probabilities:
    """Softmax of every row but those that are probabilities already."""
    wide = rows.astype(np.float64)
    return np.where(are_probabilities(wide)[..., np.newaxis], wide, softmax(wide))
