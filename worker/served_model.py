"""What the supervisor knows of one model version on its node: its processes, its cost, its health."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Sequence
from typing import Any

from shoal.keeper import Keeper
from shoal.wire import Job, ModelCard, ModelState, Status, Tensor, model_key
from worker.desired import Desired
from worker.devices import Device
from worker.models.catalogue import Specification
from worker.vitals import HEARTBEAT, ModelVitals, Vitals

_HEARTBEAT_LIFETIME_MS = 10_000
_SMOOTHING = 0.3
_FULL = 0.5
_LONGEST_REASON = 1000  # it travels in every load report


class ModelProcess:
    """One process of a model version, on one device. ``name`` is new at each start."""

    def __init__(self, key: str, device: Device, load_timeout: float) -> None:
        self._key = key
        self.device = device
        self.name = ""
        self.keeper: Keeper | None = None
        self.has_loaded = False
        self.reason = ""  # why it does not load
        self.vitals: ModelVitals | None = None  # of a process that is loaded
        self.starting = Vitals(load_timeout)  # of one that is not
        self.seconds_per_image = 0.0
        self.images = 0  # executed by it, and by those before it on its device
        self.busy = 0.0
        self._told = (0, 0, 0.0)

    def __repr__(self) -> str:
        return f"<ModelProcess {self.name} on {self.device.name}>"

    def begin(self) -> None:
        """A new process starts."""
        self.name = f"{self._key}/{uuid.uuid4().hex[:8]}"
        self.starting.spoke()

    @property
    def is_ready(self) -> bool:
        return self.vitals is not None

    def loaded(self, card: ModelCard, seconds_per_image: float, hang_timeout: float) -> None:
        self._told = (0, 0, 0.0)
        self.has_loaded = True
        self.reason = ""
        self.seconds_per_image = seconds_per_image
        self.vitals = ModelVitals(hang_timeout, longest=seconds_per_image * card.max_batch_size)

    def executed(self, event: dict[str, Any], max_batch_size: int) -> None:
        """Cumulative counts of the running process."""
        if self.vitals is None:
            return
        self.vitals.executed(event)
        told = event["images"], event["batches"], event["seconds"]
        images, batches, seconds = (now - before for now, before in zip(told, self._told, strict=True))
        self._told = told
        self.images += images
        self.busy += seconds
        if images > 0:
            self._learn(images / batches, seconds / images, max_batch_size)

    def _learn(self, batch_size: float, measured: float, max_batch_size: int) -> None:
        """The cost of an image in a full batch, which is what one that waits will cost: small ones are dearer."""
        old = self.seconds_per_image
        if batch_size >= max_batch_size * _FULL or measured <= old:
            self.seconds_per_image = old + _SMOOTHING * (measured - old)

    def tick(self, seconds: float) -> None:
        """Time has passed without a death."""
        (self.vitals or self.starting).tick(seconds)

    def died(self) -> None:
        self.vitals = None
        self.starting.spoke()


class ServedModel:
    """One model version: its card once it is loaded, and a process for each device."""

    def __init__(
        self,
        specification: Specification,
        devices: Sequence[Device],
        *,
        load_timeout: float,
        desired: Desired | None = None,
    ) -> None:
        self.specification = specification
        self.desired = desired  # as it was published; None for a model of the settings
        self.key = model_key(specification.model, specification.version)
        self.processes = [ModelProcess(self.key, device, load_timeout) for device in devices]
        self.card: ModelCard | None = None
        self.reason = ""
        self.has_failed = False
        self.is_hidden = False
        self.memory_bytes = 0  # that its manifest asks for
        self.retired = asyncio.Event()
        self._noted: Status = "loading"

    def __repr__(self) -> str:
        return f"<ServedModel {self.key} {self.state.status}>"

    @property
    def is_settled(self) -> bool:
        """Whether it is as useful as it will become."""
        return self.has_failed or self.state.status in ("ready", "stopping")

    @property
    def state(self) -> ModelState:
        """What the fronts are told of it. ``seconds_per_image`` is that of the whole node."""
        ready = [process for process in self.processes if process.is_ready]
        costs = [process.seconds_per_image for process in ready]
        rate = sum(1 / max(cost, 1e-9) for cost in costs)
        return ModelState(
            status=self._status(ready),
            card=self.card,
            processes=len(ready),
            seconds_per_image=1 / rate if rate else self.seconds_per_image,
            idle=min((process.vitals.idle for process in ready if process.vitals), default=0.0),
            reason=self.reason,
            images=sum(process.images for process in self.processes),
            busy=round(sum(process.busy for process in self.processes), 3),
        )

    def _status(self, ready: Sequence[ModelProcess]) -> Status:
        if self.has_failed:
            return "failed"
        if self.retired.is_set():
            return "stopping"
        if any(process.vitals and not process.vitals.is_stalled for process in ready):
            return "ready"
        if ready:
            return "stalled"
        return "loading" if self.card is None else "restarting"

    @property
    def seconds_per_image(self) -> float:
        """What it cost last, while no process is ready."""
        return max((process.seconds_per_image for process in self.processes), default=0.0) / max(1, len(self.processes))

    def tick(self, seconds: float) -> bool:
        """Time has passed. Returns whether the status is another one than when it was noted."""
        for process in self.processes:
            process.tick(seconds)
        return self.state.status != self._noted

    def note(self) -> Status:
        """The status, which has been dealt with from now on."""
        self._noted = self.state.status
        return self._noted

    def fail(self, reason: str) -> None:
        """It is not served, until something else is published."""
        self.has_failed = True
        self.reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"

    def recover(self) -> None:
        """What made it fail is over."""
        self.has_failed = False
        self.reason = ""

    def heartbeat(self) -> Job | None:
        """The job that shows that the model still works, when nothing else has for a while."""
        state = self.state
        if state.card is None or not state.processes or state.idle < HEARTBEAT:
            return None
        spec = state.card.input
        shape = (spec.height, spec.width, spec.channels)
        return Job(
            id=uuid.uuid4().hex,
            inputs={spec.name: Tensor("uint8", shape, bytes(math.prod(shape)))},
            waiters=[],
            submitted=time.monotonic(),
            remaining_ms=_HEARTBEAT_LIFETIME_MS,
            request_id="heartbeat",
            heartbeat=True,
        )
