"""The loop of a model process, on a real queue: what it does when the device has no memory, or is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shoal.metrics import ModelMetrics
from shoal.service import Stop
from shoal.wire import ImageInput, Job, ModelCard, Reply, Tensor, unpack_reply
from tests.redis_servers import RedisServer
from worker.model_process import Executor, largest_batch
from worker.models.runtime import Array, Asked, DeviceLost, OutOfMemory
from worker.queue import Queue

CARD = ModelCard(
    model="small",
    version="1",
    digest="d",
    task="tensors",
    input=ImageInput("image", 2, 2, channels=1),
    max_batch_size=16,
)
ROOM: dict[str, Any] = {"capacity": 1000, "capacity_bytes": 1 << 30}


class Small:
    """A model on a device with memory for a few images, which may be lost."""

    card = CARD

    def __init__(self, memory: int, *, lost_at: int = -1) -> None:
        self.memory = memory
        self.lost_at = lost_at
        self.sizes: list[int] = []

    def warm_up(self) -> None:
        """Nothing to do."""

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        if self.lost_at in batch[:, 0, 0, 0]:
            raise DeviceLost("CUDA error: an illegal memory access was encountered")
        if len(batch) > self.memory:
            raise OutOfMemory(f"{len(batch)} images")
        self.sizes.append(len(batch))
        return [{"number": int(image[0, 0, 0])} for image in batch]


@pytest.fixture
async def queue(valkey: RedisServer) -> AsyncIterator[Queue]:
    async with Queue.connect(str(valkey.socket)) as connected:
        await connected.prepare(CARD.key)
        yield connected
        await connected.forget_model(CARD.key)
        await connected.forget_front("front")


async def submit(queue: Queue, *numbers: int) -> None:
    for number in numbers:
        job = Job(
            f"j{number}",
            {"image": Tensor("uint8", (2, 2, 1), bytes([number] * 4))},
            ["front"],
            submitted=time.monotonic(),
            remaining_ms=30_000,
            request_id=f"r{number}",
        )
        await queue.submit(CARD.key, job, **ROOM)


async def replies(queue: Queue, count: int) -> dict[str, Reply]:
    found: dict[str, Reply] = {}
    after = b"0-0"
    async with asyncio.timeout(20):
        while len(found) < count:
            after, packed = await queue.replies("front", after, 1.0)
            found |= {reply.job: reply for reply in map(unpack_reply, packed)}
    return found


def executor(runtime: Small, queue: Queue) -> Executor:
    return Executor(runtime, queue, "small@1/test", ModelMetrics(CollectorRegistry()), size=CARD.max_batch_size)


async def test_out_of_memory_halves_the_batch_and_answers_all(queue: Queue) -> None:
    model = Small(memory=3)
    await submit(queue, *range(12))
    stop = Stop()
    running = executor(model, queue)
    serving = asyncio.create_task(running.serve(stop))
    found = await replies(queue, 12)
    assert {name: reply.answer for name, reply in found.items()} == {f"j{n}": {"number": n} for n in range(12)}
    assert model.sizes == [3, 3, 3, 3]
    model.sizes.clear()
    await submit(queue, *range(20, 29))
    await replies(queue, 21)
    assert max(model.sizes) <= 3
    stop.request()
    await serving
    running.close()


async def test_a_lost_device_ends_the_process_and_its_jobs_are_there_for_the_next(queue: Queue) -> None:
    await submit(queue, 1, 2, 3)
    running = executor(Small(memory=8, lost_at=2), queue)
    with pytest.raises(ExceptionGroup) as raised:
        await running.serve(Stop())
    assert raised.group_contains(DeviceLost)
    running.close()
    moved, culprits = await queue.reclaim(CARD.key, "small@1/test")
    assert (moved, culprits) == (3, [])


@pytest.mark.parametrize(("memory", "size"), [(16, 16), (15, 8), (7, 4), (1, 1)])
def test_the_largest_batch_that_fits_is_found_before_the_model_is_ready(memory: int, size: int) -> None:
    assert largest_batch(Small(memory))[0] == size


def test_a_model_for_which_not_even_one_image_fits_does_not_load() -> None:
    with pytest.raises(OutOfMemory):
        largest_batch(Small(0))
