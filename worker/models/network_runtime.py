"""A network with all that lies around it, as the ``Runtime`` of a model process: photos in, answers out.

Or ready-made arrays in, and the network's own outputs out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from shoal.wire import ModelCard, TensorSpec
from worker.models import golden, raw_outputs
from worker.models.batches import Batches
from worker.models.manifest import Input
from worker.models.networks import Network, NotLoadable, Spec
from worker.models.pixels import Pixels
from worker.models.runtime import Array, Asked
from worker.models.tasks import Task

__all__ = ["After", "Before", "NetworkRuntime", "Recorded"]

Before = Callable[[Array, Sequence[Asked]], Array]
After = Callable[[list[dict[str, Any]], Sequence[Asked]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Recorded:
    """What the network must answer, and how far it may be off."""

    golden: golden.Golden
    tolerance: float


def _same_images(images: Array, asked: Sequence[Asked]) -> Array:
    return images


def _same_answers(answers: list[dict[str, Any]], asked: Sequence[Asked]) -> list[dict[str, Any]]:
    return answers


class NetworkRuntime:
    """See ``Runtime``. Raises ``NotLoadable`` when the network does not fit the manifest's input."""

    def __init__(
        self,
        card: ModelCard,
        network: Network,
        wanted: Input,
        task: Task,
        *,
        before: Before = _same_images,
        after: After = _same_answers,
        recorded: Recorded | None = None,
    ) -> None:
        if len(network.inputs) != 1:
            names = ", ".join(spec.name for spec in network.inputs)
            raise NotLoadable(f"it has {len(network.inputs)} inputs ({names}): it must take one, the image")
        self.card = msgspec.structs.replace(
            card, tensor=_of_one_image(network.inputs[0]), outputs=tuple(map(_of_one_image, network.outputs))
        )
        self.network = network
        self._shape = (wanted.height, wanted.width, wanted.channels)
        self._pixels = Pixels.of(wanted, network.inputs[0])
        self._batches = Batches(network, card.max_batch_size)
        self._task = task
        self._before = before
        self._after = after
        self._recorded = recorded

    def __repr__(self) -> str:
        return f"<NetworkRuntime {self.card.key}, {self._batches}>"

    def warm_up(self) -> None:
        """Answer what is recorded, then execute every batch size that will be used. Raises ``GoldenMismatch``."""
        if self._recorded:
            found = self.outputs(self._recorded.golden.images)
            golden.check(self._recorded.golden.outputs, found, self._recorded.tolerance)
        self._batches.warm_up(self._pixels.prepared(np.zeros((1, *self._shape), np.uint8)))

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """See ``Runtime.run``. ``ValueError`` for a batch that is not of the card's shapes, or an unknown output."""
        most = self.card.max_batch_size
        if not 1 <= len(batch) <= most or len(batch) != len(asked):
            raise ValueError(f"a batch of shape {batch.shape} does not fit 1…{most} images, or {len(asked)} asked for")
        found = self._batches.execute(self._input(batch, asked))
        answered = [image for image, one in enumerate(asked) if one.outputs is None]
        answers = iter(self._answers(_rows(found, answered, len(asked)), [asked[image] for image in answered]))
        return [
            next(answers) if one.outputs is None else raw_outputs.of_image(found, image, one.outputs, self._task.labels)
            for image, one in enumerate(asked)
        ]

    def _input(self, batch: Array, asked: Sequence[Asked]) -> Array:
        """What the network takes: photos made ready, or arrays as they are."""
        if batch.dtype != np.uint8 or batch.shape[1:] != self._shape:
            self._see_ready_made(batch, asked)
            return batch
        images = self._before(batch, asked)
        if not isinstance(images, np.ndarray) or (images.dtype, images.shape) != (batch.dtype, batch.shape):
            raise ValueError(f"the hook before must give uint8 images of shape {batch.shape}")
        return self._pixels.prepared(images)

    def _see_ready_made(self, batch: Array, asked: Sequence[Asked]) -> None:
        taken = _of_one_image(self.network.inputs[0])
        if not taken.takes(batch.dtype.name, batch.shape[1:]):
            raise ValueError(
                f"{batch.dtype} of shape {batch.shape} does not fit: it takes uint8 images {self._shape} or "
                f"{taken.dtype} {taken.shape}"
            )
        if any(one.outputs is None for one in asked):
            raise ValueError("ready-made arrays are answered with the network's own outputs")

    def _answers(self, found: Mapping[str, Array], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        if not asked:
            return []
        answers = self._after(self._task.answers(found, asked), asked)
        if not isinstance(answers, list) or len(answers) != len(asked):
            raise ValueError(f"the hook after must give a list of {len(asked)} answers")
        return answers if self._after is _same_answers else _plain(answers)

    def outputs(self, images: Array) -> Mapping[str, Array]:
        """What the network gives for uint8 images (n, height, width, channels), without the hooks."""
        return self._batches.execute(self._pixels.prepared(images))


def _of_one_image(spec: Spec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.shape[1:])


def _rows(outputs: Mapping[str, Array], images: list[int], of: int) -> Mapping[str, Array]:
    return outputs if len(images) == of else {name: array[images] for name, array in outputs.items()}


def _plain(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of foreign code, as JSON would give them back. Raises ``ValueError`` for what cannot travel."""
    if not all(isinstance(answer, dict) for answer in answers):
        raise ValueError("the hook after must give a mapping for each image")
    try:
        plain: list[dict[str, Any]] = json.loads(json.dumps(answers, allow_nan=False))
        msgspec.msgpack.encode(plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"the hook after gives what JSON cannot hold: {error}") from error
    return plain
