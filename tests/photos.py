"""Distinct pictures for tests, and what the ``fake`` model answers for them."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from shoal.wire import ImageInput
from worker.images import decode
from worker.models.fake import label_of

FAKE_INPUT = ImageInput("image", 32, 32, "squash")


@cache
def photo(seed: int, *, width: int = 160, height: int = 120, kind: str = "JPEG") -> bytes:
    """A picture unlike that of any other seed."""
    tiles = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    picture = Image.fromarray(np.kron(tiles, np.ones((20, 20, 1), dtype=np.uint8)))
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def fake_label(image: bytes, spec: ImageInput = FAKE_INPUT) -> str:
    """What the ``fake`` model answers for this picture."""
    return label_of(decode(image, spec, max_pixels=10**9)[0])
