"""One image on its way from the SDK to an answer: what is asked of it, and what has been tried."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal, TypedDict

from shoal.errors import ConnectionFailed, ShoalError

Image = bytes | str | Path | IO[bytes]
Priority = Literal["interactive", "bulk"]
Wish = tuple[str | None, str | None, str | None, Priority]  # model, version, label, priority: what a grant is for


class Terms(TypedDict, total=False):
    """What may be asked with an image, as ``AsyncClient.predict`` says."""

    model: str | None
    version: str | None
    label: str | None
    key: str | None
    top_k: int | None
    options: Mapping[str, str | float] | None
    priority: Priority
    timeout: float | None


class Call:
    """One image. ``deadline`` is on the monotonic clock; ``digest`` is the SHA-256 of the image if that decides.

    ``headers`` go with the lookup and the upload. ``job_seconds`` is the deadline of a job, which goes on without us.
    Raises ``TypeError`` for a term that there is not.
    """

    def __init__(
        self,
        body: bytes,
        terms: Terms,
        deadline: float,
        digest: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        job_seconds: float | None = None,
    ) -> None:
        if unknown := terms.keys() - Terms.__annotations__.keys():
            raise TypeError(f"there is no {', '.join(sorted(unknown))}: {', '.join(Terms.__annotations__)}")
        self.body = body
        self.deadline = deadline
        self.headers = dict(headers or {})
        self._job_seconds = job_seconds
        self.wish: Wish = (
            terms.get("model"),
            terms.get("version"),
            terms.get("label"),
            terms.get("priority", "interactive"),
        )
        self.key = terms.get("key")
        self.digest = digest
        top_k = terms.get("top_k")
        self.options = {name: str(value) for name, value in (terms.get("options") or {}).items()}
        self.options |= {} if top_k is None else {"top_k": str(top_k)}
        self.request_id = uuid.uuid4().hex
        self.direct_tries = 0
        self.uploads = 0
        self.excluded: set[str] = set()
        self.failure: ShoalError = ConnectionFailed()

    def __repr__(self) -> str:
        return f"<Call {self.request_id}: {self.direct_tries} direct tries, {self.uploads} uploads>"

    @property
    def needs_its_own_lookup(self) -> bool:
        """Whether the answer of a lookup depends on this image, and serves no other."""
        return bool(self.key or self.digest)

    @property
    def seconds(self) -> float:
        """What the cluster may take."""
        return self.deadline - time.monotonic() if self._job_seconds is None else self._job_seconds

    def remaining_ms(self) -> str:
        return str(max(1, int(self.seconds * 1000)))

    def query(self) -> dict[str, str]:
        """What a gateway is to know."""
        model, version, label, priority = self.wish
        bulk = "bulk" if priority == "bulk" else None
        wanted = {"model": model, "version": version, "label": label, "key": self.key, "priority": bulk}
        return {name: value for name, value in wanted.items() if value is not None}

    def summary(self) -> str:
        tried = f" The last failure: {self.failure.message}" if self.direct_tries or self.uploads else ""
        return f"No answer before the deadline.{tried}"


async def read(image: Image) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | Path):
        return await asyncio.to_thread(Path(image).read_bytes)
    return await asyncio.to_thread(image.read)


async def digest(body: bytes) -> str:
    """The SHA-256 of an image, beside the loop: it may be large."""
    return (await asyncio.to_thread(hashlib.sha256, body)).hexdigest()
