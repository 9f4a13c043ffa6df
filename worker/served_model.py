"""What the supervisor knows of one model version on its node: its process, its cost, its health."""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

import msgspec

from shoal.wire import Job, ModelCard, ModelState, Status, Tensor, model_key
from worker.models.catalogue import Specification
from worker.vitals import HEARTBEAT, ModelVitals

_HEARTBEAT_LIFETIME_MS = 10_000
_SMOOTHING = 0.3


class ServedModel:
    """What the supervisor knows of one model: its process, its card, and what an image costs."""

    def __init__(self, text: str) -> None:
        self.specification = Specification.parse(text)
        self.text = text
        self.key = model_key(self.specification.model, self.specification.entry.version)
        self.state = ModelState(status="loading")
        self.process = ""
        self.reason = ""
        self.vitals: ModelVitals | None = None  # of a process that is loaded
        self._told = (0, 0.0)

    def __repr__(self) -> str:
        return f"<ServedModel {self.key} {self.state.status}>"

    def loaded(self, card: ModelCard, seconds_per_image: float, hang_timeout: float) -> None:
        self._told = (0, 0.0)
        self.vitals = ModelVitals(hang_timeout, longest=seconds_per_image * card.max_batch_size)
        self.state = ModelState(status="ready", card=card, processes=1, seconds_per_image=seconds_per_image)

    def executed(self, event: dict[str, Any]) -> None:
        """Cumulative counts of the running process."""
        if self.vitals is None:
            return
        self.vitals.executed(event)
        images, seconds = event["images"], event["seconds"]
        more, spent = images - self._told[0], seconds - self._told[1]
        self._told = (images, seconds)
        if more > 0:
            old = self.state.seconds_per_image
            smoothed = old + _SMOOTHING * (spent / more - old)
            self.state = msgspec.structs.replace(self.state, seconds_per_image=smoothed)

    def tick(self, seconds: float) -> bool:
        """Time has passed without a death. Returns whether the status has changed with it."""
        if self.vitals is None:
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
        status = "loading" if self.state.card is None else "restarting"
        self.state = msgspec.structs.replace(self.state, status=status, processes=0)
