"""The interface between Shoal and a model: what it takes, what a batch costs, and how to execute one.

A runtime lives in a model process and nowhere else. Its module is imported there, so importing
TensorFlow (or anything heavy) at the top of a runtime's module is fine, and importing it elsewhere is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shoal.wire import ModelCard

Array = npt.NDArray[Any]


class Runtime(Protocol):
    """One loaded model version on one device."""

    @property
    def card(self) -> ModelCard:
        """Name, version, weights digest, task and input: all that the rest of the worker ever knows."""

    def warm_up(self) -> None:
        """Execute every batch size once that will be used, so that the first request is as fast as the rest."""

    def run(self, batch: Array, options: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Execute one batch.

        ``batch`` is uint8 RGB of shape (n, height, width, 3), n from 1 to ``card.max_batch_size``;
        ``options`` holds each image's request options (``top_k``). Returns n JSON-ready answers in order:
        a classification is ``{"predictions": [{"label", "index", "probability"}, …]}``, an embedding
        ``{"embedding": [float, …]}``. Whatever it raises becomes ``model_failed`` for the callers.
        """


def stack(images: list[Array]) -> Array:
    """One contiguous (n, height, width, 3) batch from n images of one shape."""
    return images[0][np.newaxis] if len(images) == 1 else np.stack(images)
