"""Distinct JPEGs of 640 x 480 pixels and about 100 KB, the same on every machine with the same Pillow."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 480
_TARGET_BYTES = 100_000
_SEED = 640_480

Field = npt.NDArray[np.float64]


def make(count: int) -> list[bytes]:
    return [_encode(_scene(np.random.default_rng((_SEED, number)))) for number in range(count)]


def distinct(jpeg: bytes, serial: int) -> bytes:
    """The same photo under other bytes (a comment segment), so that no cache can answer for the model."""
    comment = f"shoal bench {serial:012d}".encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _scene(random: np.random.Generator) -> Image.Image:
    """Sky-to-ground gradient, soft-edged objects, and detail with the 1/f spectrum of natural images."""
    image = Image.fromarray(_clip(_gradient(random)))
    for _ in range(int(random.integers(3, 9))):
        _draw_object(image, random)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.5, 2.5)))), dtype=np.float64)
    detail = _natural_noise(random, falloff=float(random.uniform(0.9, 1.3)))
    tint = random.uniform(0.6, 1.4, size=3)
    strength = random.uniform(18, 34)
    return Image.fromarray(_clip(pixels + strength * detail[..., np.newaxis] * tint))


def _gradient(random: np.random.Generator) -> Field:
    top, bottom = random.uniform(30, 230, size=(2, 3))
    down = np.linspace(0, 1, HEIGHT)[:, np.newaxis, np.newaxis]
    return np.broadcast_to(top + (bottom - top) * down, (HEIGHT, WIDTH, 3))


def _draw_object(image: Image.Image, random: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
    across, down = random.uniform(40, 260, size=2)
    red, green, blue = (int(value) for value in random.integers(10, 245, size=3))
    box = (x - across / 2, y - down / 2, x + across / 2, y + down / 2)
    match int(random.integers(3)):
        case 0:
            draw.ellipse(box, fill=(red, green, blue))
        case 1:
            draw.rounded_rectangle(box, radius=18, fill=(red, green, blue))
        case _:
            stripe = max(6, int(across // 8))
            for left in range(int(box[0]), int(box[2]), 2 * stripe):
                draw.rectangle((left, box[1], left + stripe, box[3]), fill=(red, green, blue))


def _natural_noise(random: np.random.Generator, *, falloff: float) -> Field:
    """Zero mean, unit deviation, amplitude proportional to 1 / frequency ** falloff."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, np.newaxis], np.fft.rfftfreq(WIDTH)[np.newaxis, :])
    frequency[0, 0] = np.inf
    phase = np.exp(2j * np.pi * random.random(frequency.shape))
    noise: Field = np.fft.irfft2(phase / frequency**falloff, s=(HEIGHT, WIDTH))
    noise -= noise.mean()
    return noise / np.std(noise)


def _clip(pixels: Field) -> npt.NDArray[np.uint8]:
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _encode(image: Image.Image) -> bytes:
    """As near to the target size as a JPEG quality between 50 and 98 brings it."""
    low, high = 50, 98
    best = b""
    while low <= high:
        quality = (low + high) // 2
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        candidate = buffer.getvalue()
        if not best or abs(len(candidate) - _TARGET_BYTES) < abs(len(best) - _TARGET_BYTES):
            best = candidate
        low, high = (quality + 1, high) if len(candidate) < _TARGET_BYTES else (low, quality - 1)
    return best
