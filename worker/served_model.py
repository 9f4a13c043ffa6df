"""What the supervisor knows of one model version on its node: its process, its cost, its health."""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

import msgspec

from shoal.wire import Job, ModelCard, ModelState, Status, Tensor, model_key
from worker.models.catalogue import Specification
from worker.vitals import HEARTBEAT, ModelVitals, Vitals

_HEARTBEAT_LIFETIME_MS = 10_000
_SMOOTHING = 0.3
_FULL = 0.5


class ServedModel:
    """What the supervisor knows of one model: its process, its card, and what an image costs."""

    def __init__(self, text: str, *, load_timeout: float) -> None:
        self.specification = Specification.parse(text)
        self.text = text
        self.key = model_key(self.specification.model, self.specification.version)
        self.state = ModelState(status="loading")
        self.process = ""
        self.reason = ""
        self.vitals: ModelVitals | None = None  # of a process that is loaded
        self.starting = Vitals(load_timeout)  # of one that is not
        self._told = (0, 0, 0.0)

    def __repr__(self) -> str:
        return f"<ServedModel {self.key} {self.state.status}>"

    def loaded(self, card: ModelCard, seconds_per_image: float, hang_timeout: float) -> None:
        self._told = (0, 0, 0.0)
        self.vitals = ModelVitals(hang_timeout, longest=seconds_per_image * card.max_batch_size)
        self.state = ModelState(status="ready", card=card, processes=1, seconds_per_image=seconds_per_image)

    def executed(self, event: dict[str, Any]) -> None:
        """Cumulative counts of the running process."""
        if self.vitals is None:
            return
        self.vitals.executed(event)
        told = event["images"], event["batches"], event["seconds"]
        images, batches, seconds = (now - before for now, before in zip(told, self._told, strict=True))
        self._told = told
        if images > 0 and self.state.card:
            self._learn(images / batches, seconds / images, self.state.card.max_batch_size)

    def _learn(self, batch_size: float, measured: float, max_batch_size: int) -> None:
        """The cost of an image in a full batch, which is what one that waits will cost: small ones are dearer."""
        old = self.state.seconds_per_image
        if batch_size < max_batch_size * _FULL and measured > old:
            return
        smoothed = old + _SMOOTHING * (measured - old)
        self.state = msgspec.structs.replace(self.state, seconds_per_image=smoothed)

    def tick(self, seconds: float) -> bool:
        """Time has passed without a death. Returns whether the status has changed with it."""
        if self.vitals is None:
            self.starting.tick(seconds)
            return False
        self.vitals.tick(seconds)
        before = self.state.status
        status: Status = "stalled" if self.vitals.is_stalled else "ready"
        self.state = msgspec.structs.replace(self.state, status=status, idle=self.vitals.idle)
        return status != before

    def heartbeat(self) -> Job | None:
        """The job that shows that the model still works, when nothing else has for a while."""
        card = self.state.card
        if card is None or self.vitals is None or self.vitals.idle < HEARTBEAT:
            return None
        shape = (card.input.height, card.input.width, 3)
        return Job(
            id=uuid.uuid4().hex,
            inputs={card.input.name: Tensor("uint8", shape, bytes(math.prod(shape)))},
            waiters=[],
            submitted=time.monotonic(),
            remaining_ms=_HEARTBEAT_LIFETIME_MS,
            request_id="heartbeat",
            heartbeat=True,
        )

    def died(self) -> None:
        """A model that was ready keeps its card: its jobs wait for the next process."""
        self.vitals = None
        self.starting.spoke()
        status = "loading" if self.state.card is None else "restarting"
        self.state = msgspec.structs.replace(self.state, status=status, processes=0)
