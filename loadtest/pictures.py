"""The pictures that are uploaded: made before the run, each unlike all others, or read from a folder."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_TILE = 40  # pixels of a generated picture that share one colour before they are smoothed
_GRAIN = 0.15  # without it a JPEG is unnaturally small
_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An encoded image. ``name`` is unique in a run; ``size`` is what it is reported under."""

    name: str
    size: str
    data: bytes


def make(sizes: list[tuple[int, int]], count: int) -> list[Picture]:
    """``count`` JPEGs of each size, the same ones everywhere with the same Pillow."""
    return [
        Picture(f"{width}x{height}-{number}", f"{width}x{height}", _jpeg(width, height, number))
        for number in range(count)
        for width, height in sizes
    ]


def read(folder: Path) -> list[Picture]:
    """Every image of a folder, by name. Raises ``ValueError`` when there is none, or ``OSError``."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} has no images ({', '.join(sorted(_SUFFIXES))})")
    return [Picture(path.name, folder.name, path.read_bytes()) for path in paths]


def _jpeg(width: int, height: int, number: int) -> bytes:
    pixels = random.Random(f"{width}x{height}-{number}")  # noqa: S311 - pictures are no secret
    across, down = max(2, width // _TILE), max(2, height // _TILE)
    tiles = Image.frombytes("RGB", (across, down), pixels.randbytes(across * down * 3))
    grain = Image.frombytes("RGB", (width, height), pixels.randbytes(width * height * 3))
    picture = Image.blend(tiles.resize((width, height), Image.Resampling.BICUBIC), grain, _GRAIN)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
