"""Reads the raw heads of a single-shot detector (SSD): an offset and a score of each class for each anchor.

Anchors and offsets are those of TensorFlow's object detection API (``grid_anchor_generator``, ``FasterRcnnBoxCoder``);
the defaults those of ``ssd_mobilenet_v2_coco``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from shoal.wire import ImageInput
from worker.models.networks import Spec
from worker.models.runtime import Array
from worker.models.tasks import outputs as network_outputs
from worker.models.tasks.geometry import Boxes, corners
from worker.models.tasks.probabilities import Probabilities, as_they_are, sigmoid, softmax
from worker.models.tasks.settings import Table
from worker.models.tasks.suppression import Candidates, worth

__all__ = ["Settings", "Ssd", "anchors", "build"]

Positive = Annotated[float, Field(gt=0)]

# e^20 is far beyond any picture, and far from what float64 cannot hold.
_LARGEST_EXPONENT = 20.0
_ACTIVATIONS = {"sigmoid": sigmoid, "softmax": softmax, "none": as_they_are}


class Settings(Table):
    """The table ``[detection.ssd]``.

    ``boxes`` (n, anchors, 4) or (n, anchors, 1, 4) are offsets of centre y, centre x, height and width, multiplied by
    ``variances``; ``scores`` (n, anchors, classes) become probabilities by ``activation``; ``background`` is the column
    that means nothing was found, -1 if there is none. Every feature map i has an anchor at its scale for each of
    ``ratios`` (width / height), and a square one between its scale and the next; with ``reduce_first_map`` the first
    has three only: a square of half its scale, and its scale at 2 and 1/2.
    """

    boxes: str = ""
    scores: str = ""
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    background: Annotated[int, Field(ge=-1)] = 0
    feature_maps: Annotated[list[Annotated[int, Field(ge=1, le=512)]], Field(min_length=1, max_length=16)] = Field(
        default=[19, 10, 5, 3, 2, 1]
    )
    scales: list[Positive] = Field(default=[0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0])
    ratios: Annotated[list[Positive], Field(min_length=1, max_length=16)] = Field(default=[1.0, 2.0, 0.5, 3.0, 0.3333])
    reduce_first_map: bool = True
    variances: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)

    @model_validator(mode="after")
    def _scales_fit(self) -> Self:
        if len(self.scales) != len(self.feature_maps) + 1:
            raise ValueError("scales: there must be one for each of feature_maps, and one more")
        return self


def anchors(settings: Settings) -> Boxes:
    """Rows of centre y, centre x, height and width in shares of the input: map by map, row by row, cell by cell."""
    found = []
    for number, cells in enumerate(settings.feature_maps):
        shapes = np.array(_shapes(settings, number))
        y, x = np.meshgrid((np.arange(cells) + 0.5) / cells, (np.arange(cells) + 0.5) / cells, indexing="ij")
        centers = np.repeat(np.stack([y.ravel(), x.ravel()], axis=1), len(shapes), axis=0)
        found.append(np.concatenate([centers, np.tile(shapes, (cells * cells, 1))], axis=1))
    return np.concatenate(found)


def _shapes(settings: Settings, number: int) -> list[tuple[float, float]]:
    """The height and width of each anchor of one feature map."""
    scale, following = settings.scales[number : number + 2]
    pairs = [(scale, ratio) for ratio in settings.ratios] + [((scale * following) ** 0.5, 1.0)]
    if number == 0 and settings.reduce_first_map:
        pairs = [(scale / 2, 1.0), (scale, 2.0), (scale, 0.5)]
    return [(size / ratio**0.5, size * ratio**0.5) for size, ratio in pairs]


def build(settings: Settings, labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput) -> Ssd:
    """Raises ``ValueError`` when anchors, classes and outputs do not fit each other."""
    boxes = network_outputs.choose(outputs, settings.boxes, setting="ssd.boxes")
    scores = network_outputs.choose(outputs, settings.scores, setting="ssd.scores")
    grid = anchors(settings)
    for spec in (boxes, scores):
        if len(spec.shape) < 3 or spec.shape[1] not in (-1, len(grid)):
            raise ValueError(f"output {spec.name!r} has shape {spec.shape}, not (images, {len(grid)} anchors, ...)")
    columns = scores.shape[-1]
    if not labels and columns < 0:
        raise ValueError(f"labels: output {scores.name!r} does not tell how many classes it has: give their labels")
    names = tuple(labels) or tuple(map(str, range(columns)))
    left_out = settings.background >= 0 and columns == len(names) + 1
    if not left_out and columns not in (-1, len(names)):
        raise ValueError(f"labels: there are {len(names)}, but output {scores.name!r} has {columns} classes")
    return Ssd(settings, boxes.name, scores.name, names, grid, left_out)


@dataclass(frozen=True)
class Ssd:
    """The decoder. Labels have one for the background, or ``without_background`` they skip its column."""

    settings: Settings
    boxes: str
    scores: str
    labels: tuple[str, ...]
    anchors: Boxes
    without_background: bool

    suppresses = True

    def candidates(self, outputs: Mapping[str, Array], thresholds: Probabilities) -> list[Candidates]:
        """See ``Decoder.candidates``."""
        images = len(thresholds)
        offsets = network_outputs.tensor(outputs, self.boxes, images)
        scores = network_outputs.tensor(outputs, self.scores, images)
        if offsets.size != images * len(self.anchors) * 4:
            raise ValueError(f"output {self.boxes!r} has shape {offsets.shape} for {len(self.anchors)} anchors")
        columns = len(self.labels) + self.without_background
        if scores.shape != (images, len(self.anchors), columns):
            raise ValueError(f"output {self.scores!r} has shape {scores.shape} for {columns} classes")
        offsets = offsets.reshape(images, len(self.anchors), 4)
        return [self._found(offsets[i], scores[i], thresholds[i]) for i in range(images)]

    def _found(self, offsets: Array, scores: Array, thresholds: Probabilities) -> Candidates:
        probabilities = _ACTIVATIONS[self.settings.activation](scores)
        if self.without_background:
            probabilities = np.delete(probabilities, self.settings.background, axis=1)
        probable = probabilities >= thresholds
        if self.settings.background >= 0 and not self.without_background:
            probable[:, self.settings.background] = False
        rows, classes = np.nonzero(probable)
        considered = worth(probabilities[rows, classes])
        rows, classes = rows[considered], classes[considered]
        return Candidates(self._boxes(offsets[rows], self.anchors[rows]), classes, probabilities[rows, classes])

    def _boxes(self, offsets: Array, grid: Boxes) -> Boxes:
        moved = offsets.astype(np.float64) / self.settings.variances
        sizes = np.exp(np.minimum(moved[:, 2:], _LARGEST_EXPONENT)) * grid[:, 2:]
        centers = moved[:, :2] * grid[:, 2:] + grid[:, :2]
        return corners(centers[:, 1], centers[:, 0], sizes[:, 1], sizes[:, 0])
