"""``Client``: the SDK for code that is not async, which is ``AsyncClient`` on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, Unpack

from shoal.answers import Answer, Outcome
from shoal.calls import Image, Terms
from shoal.client import AsyncClient, Mode
from shoal.jobs import AsyncJob

T = TypeVar("T")


class Wait(Protocol):
    """What a coroutine gives, once it has run on the client's thread."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


class Job:
    """``AsyncJob`` for code that is not async: the same methods and errors."""

    def __init__(self, job: AsyncJob, wait: Wait) -> None:
        self._job = job
        self._wait = wait

    def __repr__(self) -> str:
        return repr(self._job).replace("AsyncJob", "Job", 1)

    @property
    def id(self) -> str:
        return self._job.id

    def status(self) -> dict[str, Any]:
        """As ``AsyncJob.status``."""
        return self._wait(self._job.status())

    def result(self, *, timeout: float | None = None) -> Answer:
        """As ``AsyncJob.result``."""
        return self._wait(self._job.result(timeout=timeout))

    def cancel(self) -> dict[str, Any]:
        """As ``AsyncJob.cancel``."""
        return self._wait(self._job.cancel())


class Client:
    """``AsyncClient`` for code that is not async: the same arguments, methods and errors.

    Safe to share between threads. Use it as a context manager, or call ``close``.
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
        self._client = AsyncClient(gateway, api_key=api_key, mode=mode, timeout=timeout, by_content=by_content, ca=ca)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return repr(self._client).replace("AsyncClient", "Client", 1)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shoal-client", daemon=True)
        self._thread.start()
        self._wait(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; calls of other threads end. A closed client can be entered again."""
        if self._loop is None or self._thread is None:
            return
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.__aexit__(None, None, None)

    def predict(self, image: Image, **terms: Unpack[Terms]) -> Answer:
        """As ``AsyncClient.predict``."""
        return self._wait(self._client.predict(image, **terms))

    def predict_many(
        self, images: Iterable[Image], *, concurrency: int = 8, **terms: Unpack[Terms]
    ) -> Iterator[Outcome]:
        """As ``AsyncClient.predict_many``."""
        outcomes = self._client.predict_many(images, concurrency=concurrency, **terms)

        async def following() -> Outcome | None:
            return await anext(outcomes, None)

        try:
            while (outcome := self._wait(following())) is not None:
                yield outcome
        finally:
            self._wait(outcomes.aclose())

    def submit(self, image: Image, *, webhook: str | None = None, **terms: Unpack[Terms]) -> Job:
        """As ``AsyncClient.submit``."""
        return Job(self._wait(self._client.submit(image, webhook=webhook, **terms)), self._wait)

    def job(self, id: str) -> Job:
        """As ``AsyncClient.job``."""
        return Job(self._client.job(id), self._wait)

    def status(self) -> dict[str, Any]:
        """As ``AsyncClient.status``."""
        return self._wait(self._client.status())

    def _submit(self, work: Coroutine[Any, Any, T]) -> Any:
        if self._loop is None:
            work.close()
            raise RuntimeError("use the client as a context manager")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        result: T = self._submit(work).result()
        return result
