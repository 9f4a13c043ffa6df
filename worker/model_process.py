"""The process that owns one loaded model version: claim a batch, execute it, reply, again.

python -m worker.model_process     (the supervisor starts it and writes its orders to standard input)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from shoal import logs, processes, service
from shoal.errors import DeadlineExceeded, ModelFailed, ShoalError
from shoal.metrics import ModelMetrics
from shoal.traces import OFF, Tracer, tracing
from shoal.wire import Output, Reply, Tensor
from worker import job_arrays
from worker.job_arrays import Ready
from worker.jobs import Claimed
from worker.models.catalogue import Specification
from worker.models.runtime import Array, Asked, DeviceLost, OutOfMemory, Outputs, Runtime, stack
from worker.queue import Queue, QueueUnavailable

log = logging.getLogger("worker.model_process")

_CLAIM_WAIT = 0.5
_REPORT_INTERVAL = 0.25
_LONGEST_REASON = 2000


Answers = list[tuple[Claimed, Reply]]


class Orders(msgspec.Struct, frozen=True):
    """The first line on standard input."""

    specification: Specification
    process: str
    device: str
    redis: str
    log_level: str


@dataclass(frozen=True)
class _Answer:
    """What one image gets: an answer of the task, or the network's outputs."""

    json: dict[str, Any] | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)


class Executor:
    """Turns claimed jobs into replies. A batch that raises is split until the culprit is alone."""

    def __init__(
        self,
        runtime: Runtime,
        queue: Queue,
        process: str,
        metrics: ModelMetrics,
        *,
        size: int,
        tracer: Tracer = OFF,
    ) -> None:
        self._runtime = runtime
        self._queue = queue
        self._process = process
        self._metrics = metrics
        self._tracer = tracer
        self._key = runtime.card.key
        self._size = size
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.images = 0
        self.seconds = 0.0
        self.executions = 0
        self.batches = 0
        self.begun = 0
        self.longest = 0.0
        self.is_executing = False

    def __repr__(self) -> str:
        return f"<Executor {self._key}: {self.images} images in {self.executions} executions>"

    def close(self) -> None:
        self._thread.shutdown()

    async def serve(self, stop: service.Stop) -> None:
        """Claim and execute until ``stop``. What is claimed is finished; the rest stays in the queue."""
        async with asyncio.TaskGroup() as group:
            while not stop.is_requested:
                try:
                    claimed = await self._queue.claim(self._key, self._process, self._size, _CLAIM_WAIT)
                except QueueUnavailable as error:
                    log.warning("queue unavailable", extra={"error": str(error)})
                    await asyncio.sleep(0.1)
                    continue
                ready, misfits = self._read(claimed)
                if misfits:
                    group.create_task(self._finish(misfits))
                for batch in job_arrays.batches(ready, self._size):
                    replies = await self._execute(batch)
                    group.create_task(self._finish(replies))  # while the next batch is claimed

    async def _finish(self, replies: Answers) -> None:
        try:
            await self._queue.finish(self._key, replies)
        except QueueUnavailable as error:
            log.warning("answers lost with the queue", extra={"error": str(error), "jobs": len(replies)})

    def _shrink(self, size: int) -> None:
        """The device has no memory for batches of ``size``: from now on they have half of it."""
        self._size = max(1, min(self._size, size // 2))
        log.warning("out of memory", extra={"batch_size": size, "from_now_on": self._size})

    def _read(self, claimed: Sequence[Claimed]) -> tuple[list[Ready], Answers]:
        """The jobs whose inputs fit the model, and what those hear that do not."""
        ready: list[Ready] = []
        misfits: Answers = []
        for one in claimed:
            try:
                ready.append(Ready(one, job_arrays.fits(one.job, self._runtime.card)))
            except (ValueError, TypeError) as error:
                misfits.append((one, self._failure(one, ModelFailed(f"The job does not fit the model: {error}."))))
        return ready, misfits

    async def _execute(self, batch: Sequence[Ready]) -> Answers:
        now = time.monotonic()
        late = [ready.claimed for ready in batch if ready.claimed.job.deadline <= now]
        live = [ready for ready in batch if ready.claimed.job.deadline > now]
        replies = [(claimed, self._failure(claimed, DeadlineExceeded())) for claimed in late]
        if late:
            self._metrics.expired.labels(self._key).inc(len(late))
        if not live:
            return replies
        jobs = [ready.claimed.job for ready in live]
        log.debug("claimed", extra={"jobs": [j.id for j in jobs], "request_ids": [j.request_id for j in jobs]})
        self.is_executing = True
        try:
            return replies + await self._run([r.claimed for r in live], stack([r.array for r in live]))
        finally:
            self.is_executing = False

    async def _run(self, batch: list[Claimed], inputs: Array) -> Answers:
        self.begun += 1
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._thread, self._answers, batch, inputs)
        except DeviceLost:
            raise
        except Exception as error:
            if isinstance(error, OutOfMemory) and not job_arrays.varies(inputs[0], self._runtime.card):
                self._shrink(len(batch))
            if len(batch) > 1:
                half = len(batch) // 2
                return await self._run(batch[:half], inputs[:half]) + await self._run(batch[half:], inputs[half:])
            self._metrics.failed.labels(self._key).inc()
            log.exception("the model raised", extra={"job": batch[0].job.id, "request_id": batch[0].job.request_id})
            failure = error if isinstance(error, ShoalError) else ModelFailed()
            return [(batch[0], self._failure(batch[0], failure))]
        seconds = time.monotonic() - started
        self._count(batch, seconds)
        self._record(batch, started, seconds)
        log.log(
            logging.DEBUG if all(c.job.heartbeat for c in batch) else logging.INFO,
            "executed",
            extra={
                "jobs": [c.job.id for c in batch],
                "request_ids": [c.job.request_id for c in batch],
                "batch_size": len(batch),
                "ms": round(seconds * 1000, 2),
            },
        )
        return [
            (
                claimed,
                Reply(
                    job=claimed.job.id,
                    answer=answer.json,
                    outputs=answer.outputs,
                    queue_ms=(started - claimed.job.submitted) * 1000,
                    inference_ms=seconds * 1000,
                    batch_size=len(batch),
                    attempt=claimed.attempt,
                    process=self._process,
                ),
            )
            for claimed, answer in zip(batch, answers, strict=True)
        ]

    def _answers(self, batch: list[Claimed], inputs: Array) -> list[_Answer]:
        """Execute, in the model's thread."""
        asked = [Asked(c.job.options, c.job.frame, c.job.outputs) for c in batch]
        answers = self._runtime.run(inputs, asked)
        if len(answers) != len(batch):
            raise ModelFailed(f"{len(answers)} answers for {len(batch)} images")
        return [_packed(answer, one.outputs) for answer, one in zip(answers, asked, strict=True)]

    def _count(self, batch: list[Claimed], seconds: float) -> None:
        self.executions += 1
        self.longest = max(self.longest, seconds)
        images = sum(not claimed.job.heartbeat for claimed in batch)
        if not images:
            return
        self.batches += 1
        self.images += images
        self.seconds += seconds
        self._metrics.images.labels(self._key).inc(images)
        self._metrics.batch_size.labels(self._key).observe(images)
        self._metrics.execution.labels(self._key).observe(seconds)
        self._metrics.executions.labels(self._key, images).inc()
        self._metrics.execution_seconds.labels(self._key, images).inc(seconds)

    def _record(self, batch: list[Claimed], started: float, seconds: float) -> None:
        """A span in the trace of each job, linked to those of the others in the batch."""
        traced = [claimed.job.trace_id for claimed in batch if claimed.job.trace_id] if self._tracer.is_on else []
        for claimed in batch if traced else ():
            if claimed.job.trace_id:
                self._tracer.record(
                    "execution",
                    seconds,
                    parent=claimed.job.trace_id,
                    links=[other for other in traced if other != claimed.job.trace_id],
                    shoal_model=self._key,
                    shoal_batch__size=len(batch),
                    shoal_queue__seconds=started - claimed.job.submitted,
                    shoal_attempt=claimed.attempt,
                )

    def _failure(self, claimed: Claimed, error: ShoalError) -> Reply:
        return Reply(
            job=claimed.job.id, code=error.code, message=error.message, attempt=claimed.attempt, process=self._process
        )


def _packed(answer: dict[str, Any], outputs: Sequence[Output] | None) -> _Answer:
    """An answer of the kind that was asked for. Raises ``ModelFailed`` for the other, ``ValueError`` for no numbers."""
    if (outputs is not None) != isinstance(answer, Outputs):
        raise ModelFailed("The model does not give what was asked for: its own outputs, or an answer of its task.")
    return _Answer(outputs=job_arrays.tensors(answer)) if isinstance(answer, Outputs) else _Answer(json=answer)


async def _report(executor: Executor, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Tell the supervisor that we live, what was executed, and for how many of our own reports one execution lasts.

    Counting reports, and not time, leaves out what this process was not allowed to run.
    """
    lasting, before = 0, 0
    while True:
        lasting = lasting + 1 if executor.is_executing and executor.begun == before else 0
        before = executor.begun
        tell(
            {
                "event": "executed",
                "images": executor.images,
                "batches": executor.batches,
                "executions": executor.executions,
                "seconds": round(executor.seconds, 6),
                "longest": round(executor.longest, 6),
                "lasting": round(lasting * _REPORT_INTERVAL, 3),
            }
        )
        await asyncio.sleep(_REPORT_INTERVAL)


async def _main() -> int:
    tell, lines = processes.only_to_parent(), service.lines_of_stdin()
    orders = msgspec.json.decode(await anext(lines), type=Orders)
    logs.configure(orders.log_level, role="model", model_process=orders.process, pid=str(os.getpid()))
    try:
        runtime, size, seconds_per_image = await asyncio.to_thread(_load, orders.specification)
    except Exception as error:
        log.exception("the model does not load")
        tell({"event": "failed", "reason": str(error)[:_LONGEST_REASON]})
        return 1
    stop = service.Stop()
    stop.listen()  # not before: who still loads has nothing to finish, and ends at once
    metrics = ModelMetrics(CollectorRegistry())
    async with Queue.connect(orders.redis) as queue, tracing("model", orders.process) as tracer:
        executor = Executor(runtime, queue, orders.process, metrics, size=size, tracer=tracer)
        with contextlib.closing(executor):
            card = json.loads(msgspec.json.encode(runtime.card))
            tell({"event": "ready", "card": card, "seconds_per_image": seconds_per_image})
            async with service.background(service.hold_lifeline(lines), _report(executor, tell)):
                await executor.serve(stop)
    return 0


def _load(specification: Specification) -> tuple[Runtime, int, float]:
    """The warm model, the largest batch that fits the device, and what an image costs in it, until real ones tell."""
    started = time.monotonic()
    runtime = specification.load()
    runtime.warm_up()
    loaded = time.monotonic()
    size, seconds = largest_batch(runtime)
    log.info("loaded", extra={"model": runtime.card.key, "seconds": round(loaded - started, 2), "batch_size": size})
    return runtime, size, seconds / size


def largest_batch(runtime: Runtime) -> tuple[int, float]:
    """The largest batch, of its maximum halved again and again, for which there is memory, and its seconds."""
    spec, size = runtime.card.input, runtime.card.max_batch_size
    while True:
        images = np.zeros((size, spec.height, spec.width, spec.channels), dtype=np.uint8)
        began = time.monotonic()
        try:
            runtime.run(images, [Asked()] * size)
        except OutOfMemory:
            if size == 1:
                raise
            size //= 2
        else:
            return size, time.monotonic() - began


if __name__ == "__main__":
    processes.die_with_parent()
    raise SystemExit(service.run(_main()))
