"""The interface between Shoal and a model: what it takes, what a batch costs, and how to execute one.

A runtime lives in a model process and nowhere else. Its module is imported there, so importing
TensorFlow (or anything heavy) at the top of a runtime's module is fine, and importing it elsewhere is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shoal.wire import Frame, ModelCard, Output

Array = npt.NDArray[Any]


class OutOfMemory(RuntimeError):
    """The device has no memory for a batch of this size; a smaller one may fit."""


class DeviceLost(RuntimeError):
    """The device answers no more in this process: only another process may help."""


@dataclass(frozen=True)
class Asked:
    """What is asked about one image: the options of its request, and what part of the picture the tensor shows.

    With ``outputs``, the network's own ones are asked for, and not the task's answer; none of them means all.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    frame: Frame | None = None
    outputs: Sequence[Output] | None = None


class Outputs(dict[str, Any]):
    """What the network gave for one image, by name: arrays without the batch, of numbers or (classes) of bytes."""


class Runtime(Protocol):
    """One loaded model version on one device."""

    @property
    def card(self) -> ModelCard:
        """Name, version, weights digest, task and input: all that the rest of the worker ever knows."""

    def warm_up(self) -> None:
        """Execute every batch size once that will be used, so that the first request is as fast as the rest."""

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """Execute one batch.

        ``batch`` is uint8 of shape (n, height, width, channels), or of the dtype and shape of ``card.tensor`` for n
        arrays that clients have made ready, n from 1 to ``card.max_batch_size``; ``asked`` is what is asked about each
        image. Returns n answers in order: JSON-ready ones of the task's shape (``worker/models/tasks``), or
        ``Outputs`` where those are asked for, which they always are of ready-made arrays. Raises ``OutOfMemory`` or
        ``DeviceLost`` for those; whatever else it raises becomes ``model_failed`` for the callers.
        """


def stack(images: list[Array]) -> Array:
    """One contiguous (n, height, width, 3) batch from n images of one shape."""
    return images[0][np.newaxis] if len(images) == 1 else np.stack(images)
