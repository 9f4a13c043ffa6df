"""The one task that every contestant performs: decode a photo, execute the model, name the best labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from shoal.wire import ImageInput
from worker import images
from worker.models.catalogue import Specification
from worker.models.runtime import Array, Asked, Runtime, stack

LARGEST_BATCH = 32
_MAX_PIXELS = 50_000_000
_TOP_K = 5
_VARIABLE = "SHOAL_BENCH_TASK"


class Task(msgspec.Struct, frozen=True):
    """What a server under test must know before it loads anything: it gets this in its environment."""

    model: str
    input: ImageInput
    max_batch_size: int

    @classmethod
    def of(cls, model: str, runtime: Runtime) -> Task:
        return cls(model, runtime.card.input, min(LARGEST_BATCH, runtime.card.max_batch_size))

    @classmethod
    def from_environ(cls) -> Task:
        return msgspec.json.decode(os.environ[_VARIABLE], type=cls)

    def environ(self) -> dict[str, str]:
        return {_VARIABLE: msgspec.json.encode(self).decode()}

    def decode(self, data: bytes) -> Array:
        """uint8 RGB of shape (height, width, 3) from an image file's bytes."""
        return images.decode(data, self.input, max_pixels=_MAX_PIXELS)[0]


def load(model: str) -> Runtime:
    """The model, loaded and warm."""
    runtime = Specification.parse(model).load()
    runtime.warm_up()
    return runtime


def execute(runtime: Runtime, batch: list[Array]) -> list[dict[str, Any]]:
    """One answer an image: the runtime's, and the size of the batch that it came from."""
    answers = runtime.run(stack(batch), [Asked({"top_k": _TOP_K})] * len(batch))
    return [{**answer, "batch_size": len(batch)} for answer in answers]


def best_label(answer: Mapping[str, Any]) -> str:
    """Raises ``ValueError`` when ``answer`` names no label."""
    try:
        return str(answer["predictions"][0]["label"])
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no predictions in {str(answer)[:200]}") from error
