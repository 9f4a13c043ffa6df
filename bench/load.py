"""The load generator: a closed loop of aiohttp callers that checks every answer against the in-process one."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from bench.measure import Reading
from bench.model import best_label
from bench.photos import distinct

_REQUEST_SECONDS = 60.0
_MOST_ERRORS = 20


class WrongAnswer(Exception):
    """An answer that asking again would not make right."""


class Unavailable(Exception):
    """The server says that it cannot answer now."""


class Send(Protocol):
    """One photo to a server, one answer back. Raises what ``post`` raises."""

    async def __call__(self, session: aiohttp.ClientSession, jpeg: bytes) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Photo:
    """What is sent, and the label that must come back."""

    jpeg: bytes
    label: str


@dataclass
class Outcome:
    """What the callers saw. ``batch_sizes`` has one entry an image, when the server tells."""

    seconds: float = 0.0
    spent: Reading = field(default_factory=lambda: Reading(0.0, 0.0, 0.0))
    latencies: list[float] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Album:
    """An endless supply of photos, no two requests with the same bytes."""

    def __init__(self, photos: Sequence[Photo]) -> None:
        self._photos = itertools.cycle(photos)
        self._serial = itertools.count(1)

    def __iter__(self) -> Iterator[Photo]:
        for photo in self._photos:
            yield Photo(distinct(photo.jpeg, next(self._serial)), photo.label)


async def drive(
    send: Send,
    album: Album,
    *,
    requests: int,
    concurrency: int,
    seconds: float,
    meter: Callable[[], Reading],
) -> Outcome:
    """``concurrency`` callers until ``requests`` are sent or ``seconds`` are over; what was sent is awaited.

    One unmeasured request a caller comes first. ``meter`` reads the CPU time used so far.
    """
    outcome = Outcome()
    supply = itertools.islice(album, requests)
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await _round(send, session, itertools.islice(album, concurrency), concurrency, seconds, Outcome())
        before, started = meter(), time.perf_counter()
        await _round(send, session, supply, concurrency, seconds, outcome)
        outcome.seconds = time.perf_counter() - started
        outcome.spent = meter().since(before)
    return outcome


async def check(send: Send, album: Album) -> None:
    """One correct prediction. Raises what ``post`` raises."""
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await _predict(send, session, next(iter(album)))


async def post(session: aiohttp.ClientSession, url: str, **request: Any) -> Mapping[str, Any]:
    """POST, and the answer's JSON.

    Raises ``aiohttp.ClientError``, ``TimeoutError``, ``Unavailable`` (429 or 5xx), or ``WrongAnswer``.
    """
    async with session.post(url, **request) as response:
        return await read(response)


async def read(response: aiohttp.ClientResponse) -> Mapping[str, Any]:
    """The JSON of an answer that must be 200. Raises what ``post`` raises."""
    body = await response.read()
    if response.status != 200:
        failure = Unavailable if response.status >= 500 or response.status == 429 else WrongAnswer
        raise failure(f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
    try:
        answer: Mapping[str, Any] = json.loads(body)
    except ValueError as error:
        raise WrongAnswer(f"not JSON: {body[:200].decode(errors='replace')}") from error
    return answer


async def _round(
    send: Send,
    session: aiohttp.ClientSession,
    photos: Iterator[Photo],
    concurrency: int,
    seconds: float,
    outcome: Outcome,
) -> None:
    deadline = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < deadline and len(outcome.errors) < _MOST_ERRORS:
            photo = next(photos, None)
            if photo is None:
                return
            started = time.perf_counter()
            try:
                batch_size = await _predict(send, session, photo)
            except (aiohttp.ClientError, TimeoutError, Unavailable, WrongAnswer) as error:
                outcome.errors.append(f"{type(error).__name__}: {error}")
                continue
            outcome.latencies.append(time.perf_counter() - started)
            if batch_size:
                outcome.batch_sizes.append(batch_size)

    await asyncio.gather(*(caller() for _ in range(concurrency)))


async def _predict(send: Send, session: aiohttp.ClientSession, photo: Photo) -> int:
    """The size of the batch that the photo was in, 0 when the server does not tell."""
    answer = await send(session, photo.jpeg)
    try:
        label = best_label(answer)
    except ValueError as error:
        raise WrongAnswer(str(error)) from error
    if label != photo.label:
        raise WrongAnswer(f"{label!r} instead of {photo.label!r}")
    return int(answer.get("batch_size", 0))
