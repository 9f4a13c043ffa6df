"""A worker that takes bodies and answers at once: so that whoever carries them to it is all that there is to measure.

``python -m bench.swallowing_worker DISCOVERY NAME`` prints its URL when it is registered, and ends with standard input.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from typing import cast

import msgspec
import uvloop

import discovery
from discovery import Member
from shoal.wire import LoadReport, ModelLoad

_ROOM = 1_000_000
_ANSWER = b'{"predictions":[{"label":"swallowed","index":0,"probability":1.0}],"success":true}'


class Swallowing(asyncio.Protocol):
    """One connection. Bodies have a Content-Length, and are counted and forgotten."""

    uploads = 0

    def __init__(self, name: str, incarnation: str, urls: list[str]) -> None:
        self._name, self._incarnation, self._urls = name, incarnation, urls
        self._head = b""
        self._left = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of asyncio's classes

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
            if self._left <= 0:
                self._answer(_ANSWER)
            return
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        self._head = b""
        if head.startswith(b"GET "):
            self._answer(self._report())
            return
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        Swallowing.uploads += 1
        self._left = int(length.partition(b":")[2]) - len(body)
        if self._left <= 0:
            self._answer(_ANSWER)

    def _answer(self, body: bytes) -> None:
        self._left = 0
        assert self._transport is not None
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def _report(self) -> bytes:
        load = ModelLoad(
            "ready", capacity=_ROOM, slots=_ROOM, bulk_slots=_ROOM, arrived=self.uploads, seconds_per_image=0.0001
        )
        (url,) = self._urls
        report = LoadReport(
            self._name, self._incarnation, measured=time.monotonic(), models={"fake@1": load}, public_url=url
        )
        return msgspec.json.encode(report)


async def main(where: str, name: str) -> None:
    incarnation, urls = uuid.uuid4().hex, list[str]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Swallowing(name, incarnation, urls), "127.0.0.1", 0)
    urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    member = Member("worker", name, incarnation, urls[0], urls[0], models={"fake@1": "ready"})
    async with discovery.connect(where) as backend, backend.membership(member):
        sys.stdout.write(urls[0] + "\n")
        sys.stdout.flush()
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
