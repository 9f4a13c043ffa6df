"""A full queue is said with 429 on the head of a request, before a byte of its body is asked for; never with 503."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.clusters import Cluster, eventually_async, up
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

CAPACITY = 4
SETTINGS = {"capacity": CAPACITY, "hang_timeout": 60}  # the model stands still, and is left alone


@dataclass(frozen=True)
class Full:
    """A cluster whose only queue is full, and stays so."""

    cluster: Cluster
    session: aiohttp.ClientSession
    grant: dict[str, Any]

    @property
    def uploads(self) -> dict[str, tuple[str, str]]:
        """Where an image may be sent, and with what credential."""
        return {
            "direct": (self.grant["url"], self.grant["ticket"]),
            "proxy": (f"{self.cluster.gateway}/predict", self.cluster.api_key),
        }


async def _status_of(session: aiohttp.ClientSession, url: str, **options: Any) -> tuple[int, Any, str]:
    async with session.request(options.pop("method", "GET"), url, **options) as response:
        return response.status, await response.json(), response.headers.get("Retry-After", "")


async def _depth(cluster: Cluster, session: aiohttp.ClientSession) -> int:
    _, document, _ = await _status_of(session, f"{cluster.gateway}/status", headers=cluster.headers)
    return sum(load["queue_depth"] for worker in document["workers"] for load in worker["models"].values())


@asynccontextmanager
async def _full(cluster: Cluster) -> AsyncIterator[Full]:
    """Stop the model process, and send as many images as may wait. They are answered in the end."""
    async with aiohttp.ClientSession() as session:
        (model,) = cluster.pids("model")

        async def granted() -> dict[str, Any]:
            while True:  # a place for which a ticket is out is taken, until the ticket is given up
                status, grant, _ = await _status_of(session, f"{cluster.gateway}/lookup", headers=cluster.headers)
                if status == 200:
                    return dict(grant)
                await asyncio.sleep(0.1)

        async def upload(seed: int, grant: dict[str, Any]) -> None:
            headers = {"Authorization": f"Bearer {grant['ticket']}"}
            options = {"method": "POST", "data": photo(seed), "headers": headers}
            status, document, _ = await _status_of(session, grant["url"], **options)
            assert (status, document["predictions"][0]["label"]) == (200, fake_label(photo(seed)))

        async def is_full() -> bool:
            return await _depth(cluster, session) == CAPACITY

        os.kill(model, signal.SIGSTOP)
        try:
            grant = await granted()
            waiting = [asyncio.create_task(upload(seed, await granted())) for seed in range(CAPACITY)]
            await eventually_async(is_full, within=10, what="a full queue")
            yield Full(cluster, session, grant)
        finally:
            os.kill(model, signal.SIGCONT)
        await asyncio.gather(*waiting)


@asynccontextmanager
async def _full_cluster() -> AsyncIterator[Full]:
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    arguments = [text for setting in settings for text in ("--worker-setting", setting)]
    with up("--workers", "1", "--model", "fake", *arguments) as cluster:
        async with _full(cluster) as full:
            yield full
        assert cluster.log(message="request", status=503) == []


async def _ask_first(url: str, credential: str) -> tuple[bytes, dict[str, str], Any]:
    """The first line, the headers and the document that answer a head that asks whether to send ten megabytes."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(
        f"POST {parts.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n"
        "Content-Type: image/jpeg\r\nExpect: 100-continue\r\nContent-Length: 10000000\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    first, *lines = head.decode().strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await asyncio.wait_for(reader.readexactly(int(headers.get("Content-Length", "0"))), 5)
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return first.encode(), headers, json.loads(body or b"null")


async def test_a_full_queue_is_told_before_the_body_is_asked_for() -> None:
    async with _full_cluster() as full:
        for url, credential in full.uploads.values():
            first, headers, document = await _ask_first(url, credential)
            assert first.startswith(b"HTTP/1.1 429 "), first  # and no "100 Continue" before
            assert (document["error"]["code"], document["error"]["retryable"]) == ("queue_full", True)
            assert int(headers["Retry-After"]) >= 1

        # Neither does a lookup send anybody there
        lookup = f"{full.cluster.gateway}/lookup"
        status, document, retry_after = await _status_of(full.session, lookup, headers=full.cluster.headers)
        assert (status, document["error"]["code"]) == (429, "queue_full")
        assert int(retry_after) >= 1

        # Nor is it ever anything else, however many come at once
        codes = await asyncio.gather(*(_code(full, number) for number in range(60)))
        assert Counter(codes) == {(429, "queue_full"): 60}
        assert await _depth(full.cluster, full.session) == CAPACITY


async def _code(full: Full, number: int) -> tuple[int, str]:
    if number % 3 == 0:
        status, document, _ = await _status_of(
            full.session, f"{full.cluster.gateway}/lookup", headers=full.cluster.headers
        )
    else:
        url, credential = full.uploads["direct" if number % 3 == 1 else "proxy"]
        headers = {"Authorization": f"Bearer {credential}"}
        status, document, _ = await _status_of(
            full.session, url, method="POST", data=photo(1000 + number), headers=headers
        )
    return status, document["error"]["code"]
