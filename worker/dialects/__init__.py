"""The ways in which clients ask for predictions, one file each: Shoal's own, and those of other servers.

A dialect reads what a request asks and gives it its answer. Between the two, whatever the dialect, a request is some
images or ready-made arrays on their way through the queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from shoal.wire import ModelCard, Tensor

if TYPE_CHECKING:
    from worker.asking import Wanted
    from worker.receiving import Receiver
    from worker.submissions import Answered
    from worker.timings import Timings

__all__ = ["Dialect", "Item", "Received", "Target"]

Item = bytes | Tensor
"""An image as it came, encoded, or an array that the client has made ready."""


@dataclass(frozen=True)
class Target:
    """Whom a request is for, by its head. Without a model it is the first one.

    A ``label`` is resolved by a gateway, whose ticket says the version.
    """

    model: str | None = None
    version: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Received:
    """What came: the items in order, and what is wanted of them, as the body may have changed it."""

    items: Sequence[Item]
    wanted: Wanted


class Dialect(Protocol):
    """How one kind of client speaks. It has no state.

    One that ``takes_urls`` reads a JSON body as the addresses of pictures, which are fetched.
    """

    @property
    def takes_urls(self) -> bool: ...

    def target(self, request: web.Request) -> Target:
        """Whom the request is for. Raises ``InvalidRequest``."""

    def renders(self, request: web.Request, card: ModelCard) -> bool:
        """Whether the request wants the picture with its boxes drawn.

        Raises ``WrongTask`` when a model of this ``card`` cannot answer it.
        """

    async def receive(self, request: web.Request, wanted: Wanted, receiver: Receiver, timings: Timings) -> Received:
        """Read the body. Raises what is wrong with it."""

    def response(
        self, answers: Sequence[Answered], wanted: Wanted, timings: Timings, headers: Mapping[str, str], *, worker: str
    ) -> web.Response:
        """The answers of all items, in order, as the client expects them."""
