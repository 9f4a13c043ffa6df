"""The SDK: ask a gateway where to, upload the image straight to that worker, and get the answer.

Only the standard library and aiohttp are needed. ``shoal.blocking`` is the same for code that is not async.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import aiohttp

from shoal.answers import Answer, Outcome, from_body
from shoal.answers import Path as Way
from shoal.calls import Call, Image, Priority, Terms, Wish, digest, read
from shoal.errors import (
    BadGateway,
    ConnectionFailed,
    DeadlineExceeded,
    NoWorker,
    QueueFull,
    ShoalError,
    UntrustedServer,
)
from shoal.gateways import Gateways
from shoal.grants import Grant, Grants
from shoal.jobs import AsyncJob
from shoal.presence import Gone, Presence

Mode = Literal["direct", "proxy"]

_MOST_USES = 16
_MOST_UPLOADS = 2  # workers that may see a complete upload of one image
_EXPIRY_MARGIN = 2.0
_CONNECT_SECONDS = 3.0
_ASKING = aiohttp.ClientTimeout(total=3)  # a gateway that is silent for longer is passed over
_JOB_SECONDS = 600.0
_RECONSIDER = 0.5  # seconds until a gateway knows more of a worker that failed
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_PRESENT = ("ready", "draining", "ejected")
_REQUEST_ID, _TIMEOUT_MS, _UPLOADS = "X-Request-ID", "Shoal-Timeout-Ms", "Shoal-Uploads"


class AsyncClient:
    """Predictions from a Shoal cluster.

    ``gateway`` is one URL, or several separated by commas: they are asked in turn, and the next one at once when
    one does not answer.
    ``mode`` is ``direct`` (upload straight to a worker, fall back to the proxy) or ``proxy`` (always through
    the gateway). ``timeout`` is the deadline of a whole call in seconds, retries included. With ``by_content`` equal
    images are uploaded to the same worker, which may remember its answer, at the cost of a lookup for every image.
    ``ca`` is a file (PEM) of the only authorities whose certificates are trusted, of gateways and workers; by default
    they are the system's. Raises ``OSError`` when it cannot be read.
    """

    def __init__(
        self,
        gateway: str,
        *,
        api_key: str | None = None,
        mode: Mode = "direct",
        timeout: float = 30.0,
        by_content: bool = False,
        ca: str | Path | None = None,
    ) -> None:
        self._gateways = Gateways(gateway)
        if mode not in ("direct", "proxy"):
            raise ValueError(f"mode is 'direct' or 'proxy', not {mode!r}")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._mode: Mode = mode
        self._timeout = timeout
        self._by_content = by_content
        self._ssl = True if ca is None else ssl.create_default_context(cafile=ca)
        self._session: aiohttp.ClientSession | None = None
        self._grants: dict[Wish, Grants] = {}
        self._workers = Presence(self._is_trusted)
        self._live = Presence(self._is_live)

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._gateways!r}, {self._mode}>"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ssl=self._ssl),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close()
        self._live.close()
        if self._session is not None:
            await self._session.close()

    async def predict(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: str | None = None,
        label: str | None = None,
        key: str | None = None,
        top_k: int | None = None,
        options: Mapping[str, str | float] | None = None,
        priority: Priority = "interactive",
        timeout: float | None = None,
    ) -> Answer:
        """The model's answer for ``image``: encoded bytes, the path of a file, or an open binary file.

        A ``version`` is a number, a ``label`` a name for one; without either, where traffic is split, equal ``key``
        get equal versions. ``options`` are those of the model's task, such as ``{"threshold": 0.3}``. ``bulk`` images
        wait for ``interactive`` ones. Raises the ``ShoalError`` that describes what went wrong, ``DeadlineExceeded``
        after ``timeout`` seconds, or ``OSError`` when the file cannot be read.
        """
        terms = Terms(
            model=model, version=version, label=label, key=key, top_k=top_k, options=options, priority=priority
        )
        body = await read(image)
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        content = await digest(body) if self._by_content and self._mode == "direct" else ""
        return Answer.of(*await self._carry(Call(body, terms, deadline, content)))

    async def predict_many(
        self, images: Iterable[Image], *, concurrency: int = 8, **terms: Unpack[Terms]
    ) -> AsyncGenerator[Outcome, None]:
        """The outcome of every image, as they come; at most ``concurrency`` are under way at once.

        ``terms`` are those of ``predict``.
        """
        numbered = enumerate(images)
        done: asyncio.Queue[Outcome | None] = asyncio.Queue(concurrency)

        async def work() -> None:
            for number, image in numbered:
                try:
                    outcome = Outcome(number, image, answer=await self.predict(image, **terms))
                except (ShoalError, OSError) as error:
                    outcome = Outcome(number, image, error=error)
                await done.put(outcome)

        async def all_work() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(concurrency):
                        group.create_task(work())
            except BaseException:
                while not done.empty():
                    done.get_nowait()
                done.put_nowait(None)
                raise
            await done.put(None)

        # No task group around the yield: it would cancel the caller's own code.
        task = asyncio.create_task(all_work())
        try:
            while (outcome := await done.get()) is not None:
                yield outcome
            await task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def submit(self, image: Image, *, webhook: str | None = None, **terms: Unpack[Terms]) -> AsyncJob:
        """Have ``image`` answered later: the job, once the cluster has taken it, within the client's own ``timeout``.

        ``terms`` are those of ``predict``, but ``timeout`` is that of the job, 600 s by default: one that is not
        executed by then fails. ``webhook`` is a URL that the result is sent to as well. Raises as ``predict`` does,
        ``JobsDisabled``, and ``UrlDisabled``, ``UrlNotAllowed`` or ``InvalidUrl`` because of the webhook. An image
        whose first upload got no answer is sent again, and may become two jobs.
        """
        headers = {"Prefer": "respond-async"} | ({"Shoal-Webhook": webhook} if webhook else {})
        seconds = _JOB_SECONDS if (asked := terms.get("timeout")) is None else asked
        body, deadline = await read(image), time.monotonic() + self._timeout
        call = Call(body, terms, deadline, headers=headers, job_seconds=seconds)
        document, _ = await self._carry(call)
        return AsyncJob.of(document, self._ask)

    def job(self, id: str) -> AsyncJob:
        """The job of that id, which anybody may have submitted."""
        return AsyncJob(id, self._ask)

    async def status(self) -> dict[str, Any]:
        """Every worker that the gateway knows, with its state and load."""
        async with asyncio.timeout(self._timeout):
            document: dict[str, Any] = await self._ask("/status")
            return document

    # The life of a call

    async def _carry(self, call: Call) -> tuple[Any, Way]:
        """The document of the answer, and the way that the image went."""
        try:
            async with asyncio.timeout(max(0.0, call.deadline - time.monotonic())):
                return await self._tried(call)
        except TimeoutError:
            raise DeadlineExceeded(call.summary()) from None

    async def _tried(self, call: Call) -> tuple[Any, Way]:
        pause = 0.0  # the first retry is at once, elsewhere
        while True:
            direct = self._mode == "direct" and call.direct_tries < _MOST_UPLOADS
            try:
                return await (self._direct(call) if direct else self._proxied(call))
            except BadGateway:
                raise  # the gateway has sent the image to as many workers as may see it
            except ShoalError as error:
                call.uploads = max(call.uploads, error.uploads)
                if not error.retryable or call.uploads >= _MOST_UPLOADS:
                    raise
                call.failure = error
            wait = call.failure.retry_after if isinstance(call.failure, QueueFull) else None
            if (wait or pause) > call.deadline - time.monotonic():
                raise call.failure
            await asyncio.sleep(wait * random.uniform(0.75, 1.25) if wait else pause)  # noqa: S311  not all at once
            pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)

    async def _direct(self, call: Call) -> tuple[Any, Way]:
        try:
            grant = await self._grant(call)
        except NoWorker:
            call.direct_tries = _MOST_UPLOADS  # nobody that we could reach: the gateway may reach somebody
            raise
        if grant.incarnation in call.excluded:  # there is nobody else, and the gateway may not know yet how it is
            call.excluded.clear()
            self._forget_grant(call)
            await asyncio.sleep(_RECONSIDER)
            grant = await self._grant(call)
        call.direct_tries += 1
        try:
            document = await self._upload(grant, call)
        except ShoalError as error:
            if error.retryable:
                call.excluded.add(grant.incarnation)
                self._forget_grant(call)
            if isinstance(error, QueueFull):
                call.direct_tries -= 1
            raise
        return document, "direct"

    async def _upload(self, grant: Grant, call: Call) -> Any:
        """Raises ``ConnectionFailed`` also when the gateway finds meanwhile that the worker has gone or hangs."""
        headers = {"Authorization": f"Bearer {grant.ticket}"}
        try:
            return await self._workers.watched(grant.incarnation, self._post(grant.url, call, headers, call.options))
        except Gone:
            call.uploads += 1
            raise ConnectionFailed("The worker fell silent.") from None
        except UntrustedServer as error:
            raise ConnectionFailed(error.message) from error  # others may be better, or the way through the gateway

    async def _is_trusted(self, incarnation: str) -> bool:
        """Whether a gateway still trusts a worker."""
        try:
            state = (await self._ask(f"/workers/{incarnation}"))["state"]
        except ShoalError:
            return True  # no gateway answers: that says nothing of the worker
        return state in _PRESENT

    async def _is_live(self, gateway: str) -> bool:
        assert self._session is not None
        try:
            async with self._session.get(f"{gateway}/livez", timeout=_ASKING):
                return True
        except (aiohttp.ClientError, OSError):
            return False

    def _forget_grant(self, call: Call) -> None:
        if call.wish in self._grants:
            self._grants[call.wish].current = None

    async def _grant(self, call: Call) -> Grant:
        if call.needs_its_own_lookup:
            return await self._lookup(call, 1)
        grants = self._grants.setdefault(call.wish, Grants())
        grants.waiting += 1
        try:
            async with grants.lock:
                grant = grants.take(call.excluded, call.seconds)
                if grant is None:
                    grants.current = await self._lookup(call, min(grants.waiting, _MOST_USES))
                    grant = grants.take(set(), float("inf"))
                    assert grant is not None
                return grant
        finally:
            grants.waiting -= 1

    async def _lookup(self, call: Call, uses: int) -> Grant:
        query = {"n": str(uses)} | call.query()
        if call.digest:
            query["digest"] = call.digest
        if call.excluded:
            query["exclude"] = ",".join(sorted(call.excluded))
        answer = await self._ask("/lookup", query, {**call.headers, **_about(call)})
        expires = time.monotonic() + max(0.5, float(answer["expires_in"]) - _EXPIRY_MARGIN)
        return Grant(
            answer["url"],
            answer["ticket"],
            answer["incarnation"],
            int(answer["uses"]),
            expires,
            float(answer.get("expected_wait", 0.0)),
        )

    async def _proxied(self, call: Call) -> tuple[Any, Way]:
        headers = self._headers | {_UPLOADS: str(call.uploads)}
        gateway = self._gateways.in_turn()[0]
        posting = self._post(f"{gateway}/predict", call, headers, call.query() | call.options)
        try:
            document = await self._live.watched(gateway, posting)
        except Gone:
            self._gateways.avoid(gateway)
            call.uploads += 1
            raise ConnectionFailed("The gateway fell silent.") from None
        except (ConnectionFailed, asyncio.CancelledError):
            self._gateways.avoid(gateway)
            raise
        return document, "proxy"

    async def _post(self, url: str, call: Call, headers: dict[str, str], query: dict[str, str]) -> Any:
        assert self._session is not None, "use the client as a context manager"
        headers = {**headers, **call.headers, **_about(call), "Content-Type": "application/octet-stream"}
        try:
            async with self._session.post(
                url, data=call.body, params=query, headers=headers, timeout=_no_timeout()
            ) as response:
                return await _document(response)
        except aiohttp.ClientConnectorError as error:
            raise _not_connected(error) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise ConnectionFailed("no connection in time") from error
            call.uploads += 1
            raise ConnectionFailed(str(error) or type(error).__name__) from error

    async def _ask(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
    ) -> Any:
        """What the first gateway says that answers."""
        assert self._session is not None, "use the client as a context manager"
        headers = {**self._headers, **(headers or {})}
        failure = ConnectionFailed()
        for gateway in self._gateways.in_turn():
            try:
                async with self._session.request(
                    method, f"{gateway}{path}", params=query, headers=headers, timeout=_ASKING
                ) as response:
                    return await _document(response)
            except asyncio.CancelledError:
                self._gateways.avoid(gateway)
                raise
            except (aiohttp.ClientError, OSError) as error:
                self._gateways.avoid(gateway)
                failure = _not_connected(error)
        raise failure


def _about(call: Call) -> dict[str, str]:
    return {_REQUEST_ID: call.request_id, _TIMEOUT_MS: call.remaining_ms()}


def _not_connected(error: Exception) -> ConnectionFailed:
    kind = UntrustedServer if isinstance(error, aiohttp.ClientConnectorCertificateError) else ConnectionFailed
    return kind(str(error) or type(error).__name__)


def _no_timeout() -> aiohttp.ClientTimeout:
    """The call's own deadline ends everything; only a connection attempt is cut shorter."""
    return aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)


async def _document(response: aiohttp.ClientResponse) -> Any:
    """The JSON of a good answer. Raises the error that a bad one describes."""
    text = await response.read()
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if response.status in (200, 202) and document is not None:
        return document
    after, uploads = response.headers.get("Retry-After", ""), response.headers.get(_UPLOADS, "")
    error = from_body(document, status=response.status, retry_after=float(after) if after.isdigit() else None)
    error.uploads = int(uploads) if uploads.isdigit() else 0
    raise error
