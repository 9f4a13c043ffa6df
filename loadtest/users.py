"""The users: one uploads through the gateway, one looks up a worker and uploads there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlencode

from locust import FastHttpUser, task
from locust.contrib.fasthttp import LocustBadStatusCode

from loadtest.run import Item, Run
from shoal.answers import Answer, from_body
from shoal.errors import BadGateway, ConnectionFailed, DeadlineExceeded, ShoalError

_FOREVER = 1e6
_STALE_SECONDS = 30.0  # servers close connections that are idle for longer, some of them in the middle of a POST
_DEFAULT_REFUSAL_SECONDS = 1.0


class Failed(Exception):
    """A failure that reports show by its stable code alone."""

    def __init__(self, code: str) -> None:
        super().__init__(code)

    def __repr__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Exchange:
    """One HTTP request and what came back; ``error`` is None when it went well."""

    document: Mapping[str, Any]
    length: int
    seconds: float
    error: ShoalError | None

    @property
    def refused(self) -> bool:
        return self.error is not None and self.error.status == 429

    @property
    def code(self) -> str | None:
        return self.error.code if self.error else None


class ShoalUser(FastHttpUser):
    """In a closed loop it asks again when it has its answer; in an open one it waits to be called."""

    abstract = True
    run_: ClassVar[Run]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._pause = 0.0
        self._last = time.perf_counter()

    def on_start(self) -> None:
        self.run_.admit(self)

    def on_stop(self) -> None:
        self.run_.dismiss(self)

    @task
    def work(self) -> None:
        if self.run_.closing or self.run_.plan.loop == "open":
            self._pause = _FOREVER  # Locust may stop a user that waits at any moment
            return
        self._pause = self.run_.plan.wait
        self.perform(time.perf_counter())

    def wait_time(self) -> float:
        return self._pause

    def perform(self, due: float) -> None:
        """One whole request, from the choice of a picture to the check of the answer."""
        with self.run_.request():
            now = time.perf_counter()
            if now - self._last > _STALE_SECONDS:
                self.client.client.clientpool.close()
            self.ask(self.run_.next_item(), due)
            self._last = time.perf_counter()

    def ask(self, item: Item, due: float) -> None:
        raise NotImplementedError

    def exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Exchange:
        """Send one request. It is not reported yet: only the caller knows what it was part of."""
        started = time.perf_counter()
        sent = {
            **headers,
            "Accept-Encoding": "identity",
            "Content-Type": "application/octet-stream",
            "Shoal-Timeout-Ms": str(int(self.run_.plan.timeout * 1000)),
        }
        response = self.client.request(method, url, data=body, headers=sent, catch_response=True)  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        broken = response.request_meta["exception"]
        if broken is not None and not isinstance(broken, LocustBadStatusCode):
            late = isinstance(broken, TimeoutError)
            return Exchange({}, 0, seconds, DeadlineExceeded() if late else ConnectionFailed(str(broken)))
        content = response.content or b""
        document = _document(content)
        if response.status_code == 200 and document:
            return Exchange(document, len(content), seconds, None)
        retry_after = _number(str(response.headers.get("Retry-After", "")) if response.headers else "")
        return Exchange(
            {}, len(content), seconds, from_body(document, status=response.status_code, retry_after=retry_after)
        )

    def report(self, kind: str, name: str, seconds: float, length: int, code: str | None) -> None:
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=seconds * 1000,
            response_length=length,
            exception=Failed(code) if code else None,
            context={},
        )

    def conclude(self, kind: str, name: str, item: Item, due: float, exchange: Exchange, last: str) -> None:
        """Report the whole request, from when it was due. ``last`` names the part that ended it."""
        seconds = time.perf_counter() - due
        if exchange.refused:
            self._pause = max(self._pause, exchange.error.retry_after or _DEFAULT_REFUSAL_SECONDS)  # type: ignore[union-attr]
            self.report("REFUSED", named(last, item), exchange.seconds, exchange.length, None)
            return
        code = exchange.code or self._wrong(item, exchange.document)
        self.report(kind, named(name, item), seconds, exchange.length, code)

    def query(self, item: Item) -> str:
        wanted = {"model": item.model} if item.model else {}
        if self.run_.plan.priority != "interactive":
            wanted["priority"] = self.run_.plan.priority
        return f"?{urlencode(wanted)}" if wanted else ""

    def key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.run_.plan.api_key}"} if self.run_.plan.api_key else {}

    def _wrong(self, item: Item, document: Mapping[str, Any]) -> str | None:
        try:
            answer = Answer.of(document, "direct")
        except BadGateway as error:
            return error.code
        label = answer.predictions[0].label if answer.predictions else ""
        return None if self.run_.agrees(item.picture, answer.model, answer.version, label) else "wrong_answer"


class ProxyUser(ShoalUser):
    """Sends the image to the gateway."""

    def ask(self, item: Item, due: float) -> None:
        url = f"{self.run_.next_gateway()}/predict{self.query(item)}"
        exchange = self.exchange("POST", url, self.key(), item.picture.data)
        self.conclude("PROXY", "predict", item, due, exchange, "predict")


class DirectUser(ShoalUser):
    """Asks the gateway where to, and uploads the image there."""

    def ask(self, item: Item, due: float) -> None:
        lookup = self.exchange("GET", f"{self.run_.next_gateway()}/lookup{self.query(item)}", self.key())
        self._report_part("GET", "lookup", item, lookup)
        if lookup.error is not None:
            self.conclude("DIRECT", "lookup+upload", item, due, lookup, "lookup")
            return
        ticket = {"Authorization": f"Bearer {lookup.document['ticket']}"}
        upload = self.exchange("POST", str(lookup.document["url"]), ticket, item.picture.data)
        self._report_part("POST", "upload", item, upload)
        self.conclude("DIRECT", "lookup+upload", item, due, upload, "upload")

    def _report_part(self, kind: str, name: str, item: Item, exchange: Exchange) -> None:
        if not exchange.refused:
            self.report(kind, named(name, item), exchange.seconds, exchange.length, exchange.code)


def named(name: str, item: Item) -> str:
    return " ".join((name, *item.words))


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _number(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None
