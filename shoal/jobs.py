"""An asynchronous job, as the SDK holds it: ask for it, wait for its answer, cancel it (docs/jobs.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote

from shoal.answers import Answer
from shoal.errors import BadGateway, ConnectionFailed, DeadlineExceeded

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
        """Wait for its answer, for ``timeout`` seconds or until it has ended. It is asked for once a second at most.

        The answer's ``path`` is ``proxy``, since a gateway brings it. Raises the error that the job failed with,
        ``JobCancelled``, or ``DeadlineExceeded`` when ``timeout`` is over: the job goes on then. While no gateway
        answers, or its worker is away and may come back, it waits on.
        """
        pause, hindrance = _FIRST_PAUSE, ""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        document = await self._ask(f"{self._path}/result")
                    except (ConnectionFailed, BadGateway) as error:
                        hindrance = f" The last failure: {error.message}"
                    else:
                        if not _is_queued(document):
                            return Answer.of(document, "proxy")
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            raise DeadlineExceeded(f"The job has not ended yet.{hindrance}") from None


def _is_queued(document: object) -> bool:
    return isinstance(document, Mapping) and document.get("status") == "queued"
