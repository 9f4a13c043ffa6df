"""What a version answered where it was prepared, and whether it does so here: ``golden.npz`` in its folder.

The file holds ``images``, uint8 (n, height, width, channels), and each output of the network as ``output:NAME``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worker.models.runtime import Array

__all__ = ["FILE", "Golden", "GoldenMismatch", "check", "difference", "read", "write"]

FILE = "golden.npz"

_IMAGES = "images"
_OUTPUT = "output:"


class GoldenMismatch(ValueError):
    """The model does not answer here as it did where it was prepared, or gives values that are not finite."""


@dataclass(frozen=True)
class Golden:
    """Images, and the outputs for them by name."""

    images: Array
    outputs: Mapping[str, Array]


def write(folder: Path, golden: Golden) -> None:
    """Record it in a version's folder."""
    outputs = {f"{_OUTPUT}{name}": array for name, array in golden.outputs.items()}
    with (folder / FILE).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{_IMAGES: golden.images}, **outputs)


def read(folder: Path) -> Golden | None:
    """What the folder has recorded, if anything. Raises ``ValueError`` for a file that is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            arrays = dict(opened)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{FILE} is damaged: {error}") from error
    images = arrays.pop(_IMAGES, None)
    outputs = {name.removeprefix(_OUTPUT): array for name, array in arrays.items() if name.startswith(_OUTPUT)}
    if images is None or not outputs:
        raise ValueError(f"{FILE} has no images or no outputs")
    return Golden(images, outputs)


def difference(expected: Array, found: Array) -> float:
    """The largest difference of two arrays of one shape, in units of the largest magnitude expected, of 1 at least.

    So it is absolute for probabilities, and relative for outputs that are large, whose small values may be the
    cancelled rest of large ones. Infinite when one of the two has values that are not finite.
    """
    if not expected.size:
        return 0.0
    wide, other = expected.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(other - wide).max() / max(1.0, np.abs(wide).max()))


def check(golden: Mapping[str, Array], found: Mapping[str, Array], tolerance: float) -> None:
    """Raises ``GoldenMismatch``, which says by how much and where."""
    if golden.keys() != found.keys():
        raise GoldenMismatch(f"the outputs are {', '.join(sorted(found))}, recorded were {', '.join(sorted(golden))}")
    for name, expected in golden.items():
        array = found[name]
        if array.shape != expected.shape:
            raise GoldenMismatch(f"output {name!r} has shape {array.shape}, recorded was {expected.shape}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise GoldenMismatch(f"output {name!r} is not finite")
        if (by := difference(expected, array)) > tolerance:
            raise GoldenMismatch(
                f"output {name!r} differs by {by:.3g} from the recorded one, tolerated are {tolerance:.3g}"
            )
