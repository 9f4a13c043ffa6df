"""Judges photos without any network: how sharp one is, and its most frequent colors. See docs/plain-python.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

COLORS = 3
LEVELS = 6  # of each channel: colors that are nearer than that count as one
BLURRED = 120.0  # below it, a photo looks blurred at this size


class PhotoCheck:
    """The model: constructed with its folder, called with a batch of pictures, uint8 RGB (n, height, width, 3)."""

    outputs = ("sharpness", "colors")

    def __init__(self, folder: Path) -> None:
        """Files that a model needs, such as weights or a table, lie in ``folder``; this one needs none."""

    def __call__(self, images: Images) -> tuple[npt.NDArray[np.float32], Images]:
        """Sharpness (n,), and colors (n, COLORS, 3), the most frequent first."""
        return sharpness(images), np.stack([colors(image) for image in images])


def sharpness(images: Images) -> npt.NDArray[np.float32]:
    """The variance of the Laplacian of each picture's green: edges are what a blurred one lacks."""
    green = images[..., 1].astype(np.float32)
    middle = green[:, 1:-1, 1:-1]
    around = green[:, :-2, 1:-1] + green[:, 2:, 1:-1] + green[:, 1:-1, :-2] + green[:, 1:-1, 2:]
    return (around - 4 * middle).var(axis=(1, 2))


def colors(image: Images) -> Images:
    """The mean of each of the most frequent colors, (COLORS, 3)."""
    pixels = image.reshape(-1, 3)
    kind = (pixels.astype(np.uint16) * LEVELS // 256) @ np.array([LEVELS * LEVELS, LEVELS, 1], np.uint16)
    frequent = np.argsort(-np.bincount(kind, minlength=LEVELS**3), kind="stable")[:COLORS]
    return np.array([_mean(pixels[kind == one]) for one in frequent], np.uint8)


def _mean(pixels: Images) -> npt.NDArray[np.float64]:
    return pixels.mean(axis=0).round() if len(pixels) else np.zeros(3)


def in_words(answers: list[dict[str, Any]], asked: Sequence[Any]) -> list[dict[str, Any]]:
    """The hook after the model: what people and programs rather read than tensors."""
    return [_in_words(answer["outputs"]) for answer in answers]


def _in_words(outputs: Mapping[str, Any]) -> dict[str, Any]:
    sharp = float(outputs["sharpness"]["data"])
    return {
        "sharpness": round(sharp, 1),
        "blurred": sharp < BLURRED,
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in outputs["colors"]["data"]],
    }
