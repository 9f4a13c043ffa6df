"""Reads the one output of YOLO exports: centre x, centre y, width, height, and a probability of each class.

As YOLOv8 writes it, (n, 4 + classes, boxes), or the other way round, (n, boxes, 4 + classes); as YOLOv5, with
a fifth number, whether there is anything at all, by which the others are multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shoal.wire import ImageInput
from worker.models.networks import Spec
from worker.models.runtime import Array
from worker.models.tasks import outputs as network_outputs
from worker.models.tasks.geometry import corners
from worker.models.tasks.probabilities import Probabilities, as_they_are
from worker.models.tasks.settings import Table
from worker.models.tasks.suppression import Candidates

__all__ = ["Settings", "Yolo", "build"]


class Settings(Table):
    """The table ``[detection.yolo]``.

    ``output`` names the output to read where there are several. Which of its axes are columns, and whether there is
    ``objectness``, follow from the number of labels; both must be said where the labels or the shape do not tell.
    ``units`` are pixels of the input, or shares of it.
    """

    output: str = ""
    columns: Literal["auto", "first", "last"] = "auto"
    objectness: bool | None = None
    units: Literal["pixels", "shares"] = "pixels"


def build(settings: Settings, labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput) -> Yolo:
    """Raises ``ValueError`` when labels and output do not fit each other."""
    if not labels:
        raise ValueError("labels: a YOLO needs them: its output does not tell how many classes it has")
    spec = network_outputs.choose(outputs, settings.output, setting="yolo.output")
    size = (1.0, 1.0) if settings.units == "shares" else (float(image.width), float(image.height))
    decoder = Yolo(settings, spec.name, tuple(labels), size)
    decoder.axis(spec.shape)
    return decoder


@dataclass(frozen=True)
class Yolo:
    """The decoder. ``size`` is the input's, in the output's units."""

    settings: Settings
    output: str
    labels: tuple[str, ...]
    size: tuple[float, float]

    suppresses = True

    def axis(self, shape: tuple[int, ...]) -> int:
        """Which axis of (n, a, b) has the columns, -1 if that is open. Raises ``ValueError`` when none can."""
        if len(shape) != 3:
            raise ValueError(f"output {self.output!r} has shape {shape}, not (images, columns, boxes)")
        axes = {"auto": (1, 2), "first": (1,), "last": (2,)}[self.settings.columns]
        fitting = [axis for axis in axes if shape[axis] in self._widths()]
        possible = [axis for axis in axes if shape[axis] in (-1, *self._widths())]
        if not possible:
            widths = " or ".join(map(str, self._widths()))
            raise ValueError(f"labels: {len(self.labels)} make {widths} columns, but {self.output!r} has shape {shape}")
        if len(fitting) > 1:
            raise ValueError(f'yolo.columns: output {self.output!r} has shape {shape}: say "first" or "last"')
        return fitting[0] if fitting else -1

    def _widths(self) -> tuple[int, ...]:
        plain = 4 + len(self.labels)
        return {None: (plain, plain + 1), False: (plain,), True: (plain + 1,)}[self.settings.objectness]

    def candidates(self, outputs: Mapping[str, Array], thresholds: Probabilities) -> list[Candidates]:
        """See ``Decoder.candidates``: of each box, its most probable class."""
        values = network_outputs.tensor(outputs, self.output, len(thresholds))
        rows = values.swapaxes(1, 2) if self.axis(values.shape) == 1 else values
        return [self._found(*pair) for pair in zip(rows, thresholds, strict=True)]

    def _found(self, rows: Array, thresholds: Probabilities) -> Candidates:
        first = rows.shape[1] - len(self.labels)
        probabilities = as_they_are(rows[:, first:])
        if first == 5:
            probabilities *= as_they_are(rows[:, 4:5])
        classes = probabilities.argmax(axis=1)
        best = probabilities[np.arange(len(rows)), classes]
        chosen = best >= thresholds[classes]
        x, y, width, height = rows[chosen, :4].astype(np.float64).T / np.array([*self.size, *self.size])[:, np.newaxis]
        return Candidates(corners(x, y, width, height), classes[chosen], best[chosen])
