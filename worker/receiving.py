"""From a request's body to the items it asks about: images, received or fetched, and decoded in threads; or arrays."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from aiohttp import web

from shoal import http
from shoal.errors import DeadlineExceeded, InvalidRequest, ShoalError, TooManyPixels
from shoal.wire import Frame, ModelCard, Tensor
from worker.asking import Wanted
from worker.dialects import Item
from worker.fetching import Fetcher
from worker.front_orders import Limits
from worker.images import decode, pixels_of
from worker.queue import bulk_capacity
from worker.timings import Timings
from worker.together import together

T = TypeVar("T")

_LARGE = 256 * 1024  # bytes that take longer to digest than a thread to ask
_LONGEST_JSON = 64 * 1024


@dataclass(frozen=True)
class Decoded:
    """A model's input, and what part of the picture it shows; ``digest`` is the sha256 of the item as it came."""

    digest: str
    tensor: Tensor
    frame: Frame | None


class Receiver:
    """What one front takes in."""

    def __init__(self, limits: Limits, decoders: ThreadPoolExecutor, fetcher: Fetcher) -> None:
        self._limits = limits
        self._decoders = decoders
        self._fetcher = fetcher
        self._most = min(limits.images_per_request, bulk_capacity(limits.capacity))

    def __repr__(self) -> str:
        return f"<Receiver of {self._most} images a request, {self._fetcher}>"

    def size_of(self, request: web.Request, wanted: Wanted) -> int:
        """The most bytes that the request may come to, by its head. Raises ``UrlDisabled``."""
        if wanted.dialect.takes_urls and _names_urls(request):
            self._fetcher.check_enabled()
            return wanted.limit
        return wanted.limit if request.content_length is None else request.content_length

    async def receive(self, request: web.Request, wanted: Wanted, timings: Timings) -> list[bytes]:
        """The images as they came. Raises what ``http.read_images`` and ``Fetcher.fetch_all`` raise."""
        seconds = min(self._limits.upload_timeout, wanted.seconds)
        most = 1 if wanted.is_rendered else self._most
        if not _names_urls(request):
            images = await http.read_images(request, wanted.limit, seconds, most=most)
            timings.mark("receive")
            return images
        urls = _urls(await http.read_body(request, min(wanted.limit, _LONGEST_JSON), seconds), most)
        timings.mark("receive")
        images = await self._fetcher.fetch_all(urls, wanted.limit, wanted.seconds)
        timings.mark("fetch")
        return images

    @property
    def most(self) -> int:
        """Items in one request."""
        return self._most

    async def read_body(self, request: web.Request, wanted: Wanted, timings: Timings) -> bytes:
        """A body that is not just images. Raises ``BodyTooLarge`` or ``UploadTimeout``."""
        body = await http.read_body(request, wanted.limit, min(self._limits.upload_timeout, wanted.seconds))
        timings.mark("receive")
        return body

    async def digests(self, items: Sequence[Item]) -> list[str]:
        """The sha256 of each."""
        if sum(map(_size, items)) < _LARGE:
            return _digests(items)
        return await self.in_thread(partial(_digests, items))

    async def decode(self, items: Sequence[tuple[int, Item]], wanted: Wanted, *, many: bool) -> list[Decoded]:
        """The inputs of numbered items. Raises ``UnsupportedImage``, ``InvalidImage``, or ``TooManyPixels`` when an
        image has too many, or all together; of many it says which."""
        most, card, deadline = self._limits.max_pixels, wanted.card, wanted.deadline
        if many:
            images = [(n, item) for n, item in items if isinstance(item, bytes)]
            sizes = [self._numbered(n, partial(pixels_of, image, max_pixels=most)) for n, image in images]
            if sizes and sum(await together(sizes)) > most:
                raise TooManyPixels(f"The images have more than {most} pixels together.")
            return await together([self._numbered(n, partial(_decode, i, card, deadline, most)) for n, i in items])
        (_, item), *_ = items
        return [await self.in_thread(partial(_decode, item, card, deadline, most))]

    async def in_thread(self, work: Callable[[], T]) -> T:
        """``work`` in one of the decode threads."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def _numbered(self, number: int, work: Callable[[], T]) -> T:
        try:
            return await self.in_thread(work)
        except ShoalError as error:
            raise type(error)(f"Image {number}: {error.message}") from error


def _decode(item: Item, card: ModelCard, deadline: float, max_pixels: int) -> Decoded:
    if time.monotonic() > deadline:
        raise DeadlineExceeded
    if isinstance(item, Tensor):
        return Decoded(_digest(item), item, None)
    pixels, frame = decode(item, card.input, max_pixels=max_pixels)
    return Decoded(_digest(item), Tensor(str(pixels.dtype), pixels.shape, pixels.tobytes()), frame)


def _size(item: Item) -> int:
    return len(item.data if isinstance(item, Tensor) else item)


def _digest(item: Item) -> str:
    if isinstance(item, Tensor):
        return hashlib.sha256(f"{item.dtype}{item.shape}".encode() + item.data).hexdigest()
    return hashlib.sha256(item).hexdigest()


def _digests(items: Sequence[Item]) -> list[str]:
    return [_digest(item) for item in items]


def _names_urls(request: web.Request) -> bool:
    return request.content_type == "application/json"


def _urls(body: bytes, most: int) -> list[str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is not JSON.") from error
    match document:
        case {"url": str() as url} if len(document) == 1:
            return [url]
        case {"urls": [str(), *_] as urls} if len(document) == 1 and all(isinstance(url, str) for url in urls):
            if len(urls) > most:
                raise InvalidRequest(f"There are more than {most} URLs.")
            return list(urls)
    raise InvalidRequest('The body is {"url": "https://…"} or {"urls": ["https://…", …]}, and nothing else.')
