"""One worker as gateways, clients and Consul see it, without the work: its listener, load reports, tickets and queue.

Images are executed one after the other in simulated time, so the queue, the expected wait and the time of an answer
are those of a worker that takes ``seconds_per_image``.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from http import HTTPStatus
from pathlib import Path
from typing import cast

import msgspec

from discovery import Member
from shoal import http
from shoal.errors import ShoalError
from shoal.tickets import Ticket, Verifier
from shoal.version import VERSION
from shoal.wire import LoadReport, ModelLoad, Served

_SHARING_SECONDS = 3.0  # as the worker's queue: one that has not polled for so long shares no slots
_HEAD = re.compile(rb"(?P<method>[A-Z]+) (?P<path>[^ ?]*)(?:\?(?P<query>[^ ]*))? HTTP/1\.1\r\n")
_FIELD = re.compile(rb"(?m)^([A-Za-z-]+): *(.*?)\r?$")
_TICKET = re.compile(rb"(?:^|&)ticket=([^&]*)")
_DIGEST = "5f" * 32


class SimulatedWorker:
    """One worker with one model version, ``key``."""

    def __init__(self, name: str, incarnation: str, key: str, seconds_per_image: float, capacity: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.key = key
        self.draining = False
        self.url = ""
        self._seconds = seconds_per_image
        self._capacity = capacity
        self._free_at = 0.0
        self._polled: dict[str, float] = {}
        self._arrived: Counter[str] = Counter()
        self._images = 0
        self._answer_seconds = 0.0
        self._verifier: Verifier | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()

    def __repr__(self) -> str:
        return f"<SimulatedWorker {self.name} at {self.url}>"

    async def listen(self, ticket_keys: Path | None) -> None:
        self._verifier = Verifier(ticket_keys, self.incarnation) if ticket_keys else None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, self._connections), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def kill(self) -> None:
        """Nobody listens any more, and every connection breaks."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    @property
    def member(self) -> Member:
        models = {self.key: "ready"}
        return Member(
            "worker", self.name, self.incarnation, self.url, self.url, zone="a", version=VERSION, models=models
        )

    def polled_by(self, gateway: str) -> float:
        """When that gateway asked last."""
        return self._polled[gateway]

    def report(self, gateway: str) -> bytes:
        """The load as a worker says it, with an equal share of the free slots for each gateway that polls."""
        now = time.monotonic()
        if gateway:
            self._polled[gateway] = now
        sharers = sum(now - polled < _SHARING_SECONDS for polled in self._polled.values())
        depth = self._depth(now)
        slots = max(0, self._capacity - depth) // max(1, sharers)
        load = ModelLoad(
            status="ready",
            queue_depth=depth,
            capacity=self._capacity,
            slots=slots,
            bulk_slots=slots * 7 // 8,
            arrived=self._arrived[gateway],
            seconds_per_image=self._seconds,
            idle=max(0.0, now - self._free_at),
            digest=_DIGEST,
            task="classification",
            processes=1,
            images=self._images,
            busy=self._images * self._seconds,
        )
        served = Served(self._images, self._answer_seconds, self._images * 1000)
        return msgspec.json.encode(
            LoadReport(
                self.name,
                self.incarnation,
                measured=now,
                draining=self.draining,
                models={self.key: load},
                public_url=self.url,
                served={self.key: served},
            )
        )

    def admit(self, token: str) -> tuple[Ticket | None, float]:
        """Who asks, and the seconds until the answer. Raises ``ShoalError`` for a ticket that is none."""
        ticket = self._verifier.verify(token) if self._verifier else None
        now = time.monotonic()
        self._free_at = max(now, self._free_at) + self._seconds
        self._images += 1
        self._answer_seconds += self._free_at - now
        if ticket:
            self._arrived[ticket.gateway] += 1
        return ticket, self._free_at - now

    def answer(self) -> bytes:
        model, _, version = self.key.rpartition("@")
        predictions = [{"label": f"class {n}", "probability": 0.2} for n in range(5)]
        document = {"success": True, "model": model, "version": version, "worker": self.name, "digest": _DIGEST}
        return json.dumps(document | {"predictions": predictions}).encode()

    def _depth(self, now: float) -> int:
        return max(0, round((self._free_at - now) / self._seconds))


class _Connection(asyncio.Protocol):
    """Answers one request after the other, as plainly as HTTP/1.1 allows: ours is not what is measured."""

    def __init__(self, worker: SimulatedWorker, connections: set[asyncio.Transport]) -> None:
        self._worker = worker
        self._connections = connections
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        assert self._transport is not None
        self._connections.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        line = _HEAD.match(head + b"\r\n")
        if line is None:
            self._answer(HTTPStatus.BAD_REQUEST, b"")
            return
        fields = {name.lower(): value for name, value in _FIELD.findall(head)}
        length = int(fields.get(b"content-length", b"0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        match line["path"]:
            case b"/load":
                self._answer(HTTPStatus.OK, self._worker.report(fields.get(b"shoal-gateway", b"").decode()))
            case b"/readyz" | b"/livez":
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE if self._worker.draining else HTTPStatus.OK, b"{}")
            case b"/predict":
                ticket = _TICKET.search(line["query"] or b"")
                bearer = fields.get(b"authorization", b"").removeprefix(b"Bearer ")
                self._predict((ticket[1] if ticket else bearer).decode())
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"{}")

    def _predict(self, token: str) -> None:
        try:
            ticket, seconds = self._worker.admit(token)
        except ShoalError as error:
            self._answer(HTTPStatus(error.status), b"{}", f"Shoal-Code: {error.code}\r\n")
            return
        report = ticket is not None and not ticket.uses
        asyncio.get_running_loop().call_later(seconds, self._predicted, ticket.gateway if ticket and report else "")

    def _predicted(self, gateway: str) -> None:
        load = f"{http.LOAD}: {self._worker.report(gateway).decode()}\r\n" if gateway else ""
        self._answer(HTTPStatus.OK, self._worker.answer(), load)

    def _answer(self, status: HTTPStatus, body: bytes, more: str = "") -> None:
        if self._transport is not None:
            head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: application/json\r\n"
            self._transport.write(f"{head}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body)
