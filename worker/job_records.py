"""The records of asynchronous jobs in the node's Redis: what was accepted, its answers, and the state of its webhook.

A record is written in the step that submits its images, and gets their answers in the step that takes each out of the
queue, so neither front nor courier has anything that could be lost. The keys are in ``worker/redis_keys.py``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import redis.asyncio as aioredis
from redis.exceptions import ResponseError

from shoal.paths import JOB_ID
from shoal.wire import Reply, pack, unpack_reply
from worker.jobs import Offer, Refused
from worker.offering import GROUP, bulk_capacity, keys_of, words_of
from worker.redis_client import connected, is_out_of_memory, scripts, translated
from worker.redis_keys import JOB_EVENTS

Status = Literal["queued", "done", "failed", "cancelled"]
Delivery = Literal["waiting", "delivered", "failed"]

_EVENTS_AT_ONCE = 256


class Head(msgspec.Struct, frozen=True):
    """What a record says of a job from the beginning. ``images`` are the ids of its jobs in the queue, in order.

    ``about`` goes into the answer: model, version, digest, worker, request_id. ``stages`` are the milliseconds that the
    front took.
    """

    id: str
    model: str
    images: tuple[str, ...]
    about: dict[str, str]
    stages: dict[str, float]
    webhook: str = ""


@dataclass(frozen=True)
class Terms:
    """How many records may be kept, of how many bytes together, and how long one is kept after its end (seconds)."""

    most: int
    most_bytes: int
    lifetime: float


@dataclass(frozen=True)
class Record:
    """A job as it is now. Instants are seconds since the epoch; ``expires_in`` and ``next_attempt_in`` are seconds.

    ``replies`` are those of its images, in order, once it is done; ``failure`` is why it failed. ``said`` is what came
    of the last attempt to send its webhook.
    """

    head: Head
    status: Status
    created: float
    deadline: float
    ended: float | None
    expires_in: float
    replies: tuple[Reply, ...] = ()
    failure: Reply | None = None
    delivery: Delivery | None = None
    attempts: int = 0
    next_attempt_in: float | None = None
    said: str = ""


@dataclass(frozen=True)
class Event:
    """A job has a status now."""

    entry: bytes
    id: str
    status: Status
    model: str


@dataclass(frozen=True)
class Due:
    """What there is to do. ``webhooks`` are ids, each with the seconds until its next attempt, the first ones first.

    ``next_deadline`` is in seconds from now. ``queued`` and ``waiting`` count jobs, and webhooks that are to be sent.
    """

    webhooks: Sequence[tuple[str, float]]
    next_deadline: float | None
    queued: int
    waiting: int


def new_name() -> str:
    """128 random bits: the part of a job's id that nobody can guess."""
    return secrets.token_hex(16)


def name_of(id: str) -> str:
    """The random part of a job's id, or "" when it is none."""
    found = JOB_ID.fullmatch(id)
    return found["name"] if found else ""


class JobRecords:
    """The records of one node. Construct with ``JobRecords.connect``."""

    def __init__(self, client: aioredis.Redis, blocking: aioredis.Redis) -> None:
        self._client = client
        self._blocking = blocking
        self._scripts = scripts(client)

    def __repr__(self) -> str:
        return "<JobRecords>"

    @classmethod
    @asynccontextmanager
    async def connect(cls, path: str) -> AsyncIterator[JobRecords]:
        """The records in the Redis that listens at the socket ``path``. Connects on first use."""
        async with connected(path) as (client, blocking):
            yield cls(client, blocking)

    async def accept(
        self,
        head: Head,
        offers: Sequence[Offer],
        terms: Terms,
        *,
        capacity: int,
        capacity_bytes: int,
        ticket: str = "",
        uses: int = 0,
        gateway: str = "",
    ) -> int | Refused:
        """Submit the images of a job and write its record: all of it or nothing. Returns the depth of the queue.

        A record of that id that is there already stays, and nothing is submitted: -1. Beside what ``Queue.submit_all``
        refuses, ``crowded`` is one record too many, which leaves the use of the ticket uncounted.
        """
        first = offers[0]
        room = capacity if first.priority == "interactive" else bulk_capacity(capacity)
        remaining = max(1, int((first.deadline - time.monotonic()) * 1000))
        own: list[Any] = [head.id, msgspec.msgpack.encode(head), int(terms.lifetime * 1000), remaining, head.webhook]
        own += [head.model, GROUP, terms.most, terms.most_bytes]
        packed = [pack(offer.job) for offer in offers if offer.job]
        words = words_of(offers, packed, room, capacity_bytes, uses=uses, gateway=gateway)
        try:
            async with translated(full=False):
                word, depth, found = await self._scripts["job_accept"](keys_of(head.model, ticket), own + words)
        except ResponseError as error:
            if not is_out_of_memory(error):
                raise
            return Refused("full", 0)
        return int(depth) if word == b"ok" else Refused(word.decode(), depth, found)

    async def find(self, id: str) -> Record | None:
        """The job as it is now, or None when there is none of that id, or none any more."""
        async with translated():
            found = await self._scripts["job_find"]([], [id])
        if not found:
            return None
        flat, ends, due = found
        return _record(dict(zip(flat[::2], flat[1::2], strict=True)), ends, due)

    async def cancel(self, id: str) -> bool:
        """End a job that is queued. What a process has claimed of it is executed, and thrown away."""
        async with translated():
            return bool(await self._scripts["job_cancel"]([], [id]))

    # The courier's side

    async def due(self, most: int) -> Due:
        """Fail what is late, forget what has had its time, and say what else there is to do."""
        async with translated():
            webhooks, late, queued, waiting = await self._scripts["job_tick"]([], [most])
        return Due(
            [(id.decode(), ms / 1000) for id, ms in webhooks], None if late < 0 else late / 1000, queued, waiting
        )

    async def attempted(self, id: str, delivery: Delivery, said: str, pause: float = 0.0) -> None:
        """Write down what an attempt to send a webhook came to. One that is ``waiting`` is due after ``pause`` s."""
        async with translated():
            await self._scripts["job_attempted"]([], [id, delivery, said, int(pause * 1000)])

    async def events(self, wait: float) -> list[Event]:
        """Changes that nobody has counted yet; when there are none, wait up to ``wait`` seconds for one."""
        async with translated(wait=wait):
            found: Any = await self._blocking.xread(
                {JOB_EVENTS: b"0-0"}, count=_EVENTS_AT_ONCE, block=max(1, int(wait * 1000))
            )
        entries = found[0][1] if found else []
        return [Event(entry, f[b"id"].decode(), f[b"status"].decode(), f[b"model"].decode()) for entry, f in entries]

    async def counted(self, events: Sequence[Event]) -> None:
        """Do not tell of these again."""
        if events:
            async with translated():
                await self._client.xdel(JOB_EVENTS, *[event.entry for event in events])


def _record(fields: Mapping[bytes, bytes], ends: int, due: int) -> Record:
    head = msgspec.msgpack.decode(fields[b"head"], type=Head)
    status: Any = fields[b"status"].decode()
    delivery: Any = fields[b"delivery"].decode() if b"delivery" in fields else None
    answers = [fields.get(b"answer:" + image.encode()) for image in head.images] if status == "done" else []
    return Record(
        head=head,
        status=status,
        created=int(fields[b"created"]) / 1000,
        deadline=int(fields[b"deadline"]) / 1000,
        ended=int(fields[b"ended"]) / 1000 if b"ended" in fields else None,
        expires_in=ends / 1000,
        replies=tuple(unpack_reply(answer) for answer in answers if answer is not None),
        failure=unpack_reply(fields[b"failure"]) if fields.get(b"failure") else None,
        delivery=delivery,
        attempts=int(fields.get(b"attempts", 0)),
        next_attempt_in=None if due < 0 else due / 1000,
        said=fields.get(b"said", b"").decode(),
    )
