"""An asynchronous job, as the SDK holds it: ask for it, wait for its answer, cancel it (docs/jobs.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from shoal.answers import Answer
from shoal.errors import BadGateway, DeadlineExceeded, ShoalError

__all__ = ["AsyncJob"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class Ask(Protocol):
    """A request to whichever gateway answers first; the document of a good answer, else the error of a bad one."""

    async def __call__(self, path: str, *, method: str = "GET") -> Any: ...


class AsyncJob:
    """A job that the cluster has taken. ``id`` is all that ``AsyncClient.job`` needs to find it again, anywhere.

    Keep the id to yourself: with any API key it opens the result.

    Every method raises ``UnknownJob`` when the job is forgotten, or was lost with its worker.
    """

    def __init__(self, id: str, ask: Ask) -> None:
        self.id = id
        self._path = f"/jobs/{quote(id, safe='')}"
        self._ask = ask

    def __repr__(self) -> str:
        return f"<AsyncJob {self.id.partition('.')[0]}>"  # the rest opens the result

    @classmethod
    def of(cls, document: object, ask: Ask) -> AsyncJob:
        """The job of a 202. Raises ``BadGateway`` for anything else."""
        if not isinstance(document, Mapping) or not isinstance(document.get("id"), str):
            raise BadGateway("The answer is not one of Shoal's.")
        return cls(document["id"], ask)

    async def status(self) -> dict[str, Any]:
        """Where it stands: ``status`` is ``queued``, ``done``, ``failed`` or ``cancelled``; times are in UTC."""
        document: dict[str, Any] = await self._ask(self._path)
        return document

    async def cancel(self) -> dict[str, Any]:
        """Cancel it while it is queued; the status afterwards. One that has ended stays as it is."""
        document: dict[str, Any] = await self._ask(self._path, method="DELETE")
        return document

    async def result(self, *, timeout: float | None = None) -> Answer:
        """Wait for its answer, for ``timeout`` seconds or until it has ended. It is asked for more and more seldom, in
        the end once a second.

        The answer's ``path`` is ``proxy``, since a gateway brings it. Raises ``JobCancelled``, the error that the job
        failed with (``DeadlineExceeded`` when it was late), or ``DeadlineExceeded`` when ``timeout`` is over: the job
        goes on then, as its ``status`` says. It waits on while no gateway answers, and while discovery still knows a
        worker that does not.
        """
        pause = _FIRST_PAUSE
        hindrance: ShoalError | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    wait = pause
                    try:
                        document = await self._ask(f"{self._path}/result")
                    except ShoalError as error:
                        if await self._has_failed(error):
                            raise
                        wait, hindrance = max(pause, error.retry_after or 0.0), error
                    else:
                        if not _is_queued(document):
                            return Answer.of(document, "proxy")
                    await asyncio.sleep(wait)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            last = f" The last failure: {hindrance.message}" if hindrance else ""
            raise DeadlineExceeded(f"The job has not ended yet.{last}") from None

    async def _has_failed(self, error: ShoalError) -> bool:
        """Whether asking for the result again is in vain: a retryable error may be the job's own, or one of the way."""
        if not error.retryable:
            return True
        try:
            return (await self.status()).get("status") in ("failed", "cancelled")
        except ShoalError as another:
            if another.retryable:
                return False
            raise


def _is_queued(document: object) -> bool:
    return isinstance(document, Mapping) and document.get("status") == "queued"
