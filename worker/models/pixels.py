"""Makes a network's input of decoded photos: scaled, in its order of channels, its layout and its dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from worker.models.networks import NotLoadable, Spec
from worker.models.runtime import Array

if TYPE_CHECKING:
    from worker.models.manifest import Input

__all__ = ["Pixels", "holds", "shape", "spec"]


def shape(wanted: Input, declared: tuple[int, ...]) -> tuple[int, ...]:
    """One image's shape, for a network that declares so much (the batch first, -1 for what varies).

    One of grey images may leave their only channel out. Raises ``NotLoadable`` when the two do not fit.
    """
    size = (wanted.height, wanted.width)
    image = (*size, wanted.channels) if wanted.layout == "NHWC" else (wanted.channels, *size)
    for candidate in [image, size] if wanted.channels == 1 else [image]:
        if len(declared) == len(candidate) + 1 and all(
            d in (-1, c) for d, c in zip(declared[1:], candidate, strict=True)
        ):
            return candidate
    raise NotLoadable(
        f"it takes images of shape {_written(declared[1:])}, but the manifest's are {_written(image)} ({wanted.layout})"
    )


def spec(wanted: Input) -> Spec:
    """The input of a network that declares none: just what the manifest says."""
    return Spec(wanted.name or "image", wanted.dtype, (-1, *shape(wanted, (-1,) * 4)))


@dataclass(frozen=True)
class Pixels:
    """How uint8 (n, height, width, channels), RGB or grey, becomes the input that a network declares.

    Pixels are scaled and offset in float32, and cast last. ``channels`` are in the order of the network.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: npt.NDArray[np.float32]
    offset: npt.NDArray[np.float32]
    reverses: bool
    channels_first: bool

    @classmethod
    def of(cls, wanted: Input, taken: Spec) -> Pixels:
        """Raises ``NotLoadable`` when the manifest's input and the network's do not fit.

        What the manifest casts to must hold no more than what the network takes: uint8 fits float32, not the reverse.
        """
        one = shape(wanted, taken.shape)
        if not holds(taken.dtype, wanted.dtype):
            raise NotLoadable(
                f"it takes {taken.dtype}, which the manifest's {wanted.dtype} does not fit: set input.dtype"
            )
        return cls(
            one,
            taken.dtype,
            np.asarray(wanted.scale, np.float32),
            np.asarray(wanted.offset, np.float32),
            wanted.order == "BGR" and wanted.channels == 3,
            wanted.layout == "NCHW",
        )

    def prepared(self, images: Array) -> Array:
        """A contiguous batch for the network."""
        batch = images[..., ::-1] if self.reverses else images
        if (self.scale != 1).any() or (self.offset != 0).any():
            batch = batch * self.scale
            batch += self.offset
        if self.channels_first:
            batch = batch.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(batch, self.dtype).reshape(len(images), *self.shape)


def holds(dtype: str, other: str) -> bool:
    """Whether a NumPy dtype represents every value of another. Strings, and what NumPy does not know, hold nothing."""
    try:
        return bool(np.can_cast(other, dtype, "safe")) and np.dtype(dtype).kind in "iuf"
    except TypeError:
        return False


def _written(sizes: tuple[int, ...]) -> str:
    return " x ".join("any" if size < 0 else str(size) for size in sizes) or "nothing"
