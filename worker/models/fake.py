"""A model without TensorFlow whose answer is a function of the image's content and whose cost can be set.

For trying a cluster, and for tests: anyone who has the image can compute the answer that must come back.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.wire import ImageInput, ModelCard, TensorSpec
from worker.models import raw_outputs
from worker.models.parameters import Parameters, count, seconds
from worker.models.runtime import Array, Asked, Runtime
from worker.models.tasks.options import TOP_K, number

__all__ = ["Fake", "label_of", "load"]

PREFIX = "fake-"
OTHERS = (("second", 0.75), ("third", 0.25))
OUTPUT = TensorSpec("probabilities", "float32", (1 + len(OTHERS),))


def label_of(image: Array) -> str:
    """The first label that the model gives to a uint8 RGB image of shape (size, size, 3): fake-<12 hex>."""
    return PREFIX + _digest(image).hex()[:12]


@dataclass(frozen=True)
class Fake:
    """The runtime. An execution of n images takes ``seconds_per_execution`` + n · ``seconds_per_image``.

    An image whose label begins with ``crash_on`` kills the process by SIGKILL, one with ``fail_on`` raises
    ``RuntimeError``, and one with ``hang_on`` never comes to an end, after the time of the execution; all are
    hexadecimal, and "" matches nothing.
    """

    card: ModelCard
    seconds_per_execution: float = 0.0
    seconds_per_image: float = 0.0
    crash_on: str = ""
    fail_on: str = ""
    hang_on: str = ""
    memory: bytes = b""

    def warm_up(self) -> None:
        """Nothing to do: its first execution is as fast as the rest."""

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """See ``Runtime.run``. ``ValueError`` for a batch that is not of the card's shape or a bad option."""
        side, most = self.card.input.height, self.card.max_batch_size
        if batch.shape[1:] != (side, side, 3) or not 1 <= len(batch) <= most or len(batch) != len(asked):
            raise ValueError(f"a batch of shape {batch.shape} does not fit (1…{most}, {side}, {side}, 3)")
        time.sleep(self.seconds_per_execution + len(batch) * self.seconds_per_image)
        tops = [int(number(one.options, "top_k", TOP_K, 5)) for one in asked]
        return [self._answer(image, one, top_k) for image, one, top_k in zip(batch, asked, tops, strict=True)]

    def _answer(self, image: Array, asked: Asked, top_k: int) -> dict[str, Any]:
        label = label_of(image)
        if _matches(label, self.crash_on):
            os.kill(os.getpid(), signal.SIGKILL)
        while _matches(label, self.hang_on):
            time.sleep(3600)
        if _matches(label, self.fail_on):
            raise RuntimeError(f"told to fail on {label}")
        first = 0.5 + _digest(image)[-1] / 512
        probabilities = {label: first} | {other: (1 - first) * share for other, share in OTHERS}
        if asked.outputs is not None:
            found = {OUTPUT.name: np.array([list(probabilities.values())], np.float32)}
            return raw_outputs.of_image(found, 0, asked.outputs, tuple(probabilities))
        predictions = [
            {"label": name, "index": index, "probability": probability}
            for index, (name, probability) in enumerate(probabilities.items())
        ]
        return {"predictions": predictions[:top_k]}


def load(*, version: str, **parameters: str) -> Runtime:
    """Raises ``ValueError`` that lists every bad parameter.

    Parameters: ``seconds_per_execution`` and ``seconds_per_image`` (0 or more), ``size`` (side of the input in
    pixels, default 32), ``max_batch_size`` (default 32), ``crash_on``, ``fail_on`` and ``hang_on`` (the label of an
    image, or how its hexadecimal part begins), ``memory_bytes`` (taken while it is loaded, default 0) and ``fail_load``
    (1: it does not load, and raises ``RuntimeError``).
    """
    given = Parameters("fake", parameters)
    seconds_per_execution = given.take("seconds_per_execution", seconds, 0.0)
    seconds_per_image = given.take("seconds_per_image", seconds, 0.0)
    size = given.take("size", count(1, 4096), 32)
    max_batch_size = given.take("max_batch_size", count(1, 1024), 32)
    crash_on = given.take("crash_on", _start_of_label, "")
    fail_on = given.take("fail_on", _start_of_label, "")
    hang_on = given.take("hang_on", _start_of_label, "")
    memory_bytes = given.take("memory_bytes", count(0, 1 << 40), 0)
    fail_load = given.take("fail_load", count(0, 1), 0)
    given.check()
    if fail_load:
        raise RuntimeError("told to fail to load")
    card = ModelCard(
        model="fake",
        version=version,
        digest=hashlib.sha256(b"fake").hexdigest(),
        task="classification",
        input=ImageInput(name="image", height=size, width=size, crop="squash"),
        max_batch_size=max_batch_size,
        options={"top_k": TOP_K},
        outputs=(OUTPUT,),
        platform="shoal_fake",
    )
    # Bytes that are not zero are pages of its own.
    return Fake(card, seconds_per_execution, seconds_per_image, crash_on, fail_on, hang_on, b"." * memory_bytes)


def _digest(image: Array) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=7).digest()


def _matches(label: str, start: str) -> bool:
    return start != "" and label.startswith(PREFIX + start)


def _start_of_label(text: str) -> str:
    start = text.removeprefix(PREFIX)
    if not re.fullmatch("[0-9a-f]{1,12}", start):
        raise ValueError("must be a label, or 1 to 12 hexadecimal digits (0-9a-f) that it begins with")
    return start
