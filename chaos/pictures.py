"""Pictures of which no two are alike, and what the ``fake`` model answers for each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from shoal.wire import ImageInput
from worker.images import decode
from worker.models.fake import label_of

_INPUT = ImageInput("image", 32, 32, "squash")  # that of the model ``fake``
_PIXELS = 1_000_000
_PADDING = 20_000


@dataclass(frozen=True)
class Picture:
    data: bytes
    label: str


def pictures(seed: int) -> Iterator[Picture]:
    """Pictures without end, of some 20 kB, made as they are taken at less than a millisecond each."""
    random = np.random.default_rng(seed)
    while True:
        pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "BMP")
        data = stream.getvalue() + bytes(_PADDING)  # weight on the wire that costs nothing to decode
        yield Picture(data, label_of(decode(data, _INPUT, max_pixels=_PIXELS)[0]))
