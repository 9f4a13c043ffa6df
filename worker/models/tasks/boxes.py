"""Reads detections that the network has finished itself, suppression included: boxes, scores and classes.

As TensorFlow's object detection API and CenterNet give them: three outputs (n, boxes, 4), (n, boxes) and (n, boxes); or
one with rows of box, score and class, (n, boxes, 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from shoal.wire import ImageInput
from worker.models.networks import Spec
from worker.models.runtime import Array
from worker.models.tasks import outputs as network_outputs
from worker.models.tasks.probabilities import Probabilities, as_they_are
from worker.models.tasks.settings import Table
from worker.models.tasks.suppression import Candidates

__all__ = ["Ready", "Settings", "build"]


class Settings(Table):
    """The table ``[detection.boxes]``.

    ``rows`` names the one output with everything, or ``boxes``, ``scores`` and ``classes`` the three. ``units`` are
    shares of the input, or its pixels; ``first_class`` is the network's number of the first label.
    """

    rows: str = ""
    boxes: str = ""
    scores: str = ""
    classes: str = ""
    order: Literal["xyxy", "yxyx"] = "xyxy"
    units: Literal["shares", "pixels"] = "shares"
    first_class: Annotated[int, Field(ge=0)] = 0


def build(settings: Settings, labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput) -> Ready:
    """Raises ``ValueError`` when settings, labels and outputs do not fit each other."""
    if not labels:
        raise ValueError("labels: ready boxes need them: the outputs do not tell how many classes there are")
    three = (settings.boxes, settings.scores, settings.classes)
    if any(three) == bool(settings.rows) and len(outputs) != 1:
        raise ValueError('boxes: name the output with "rows", or all of "boxes", "scores" and "classes"')
    if any(three):
        parts = zip(("boxes", "scores", "classes"), three, strict=True)
        specs = [network_outputs.choose(outputs, name, setting=f"boxes.{part}") for part, name in parts]
        _check(specs[0], 4)
    else:
        specs = [network_outputs.choose(outputs, settings.rows, setting="boxes.rows")]
        _check(specs[0], 6)
    size = (1.0, 1.0) if settings.units == "shares" else (float(image.width), float(image.height))
    return Ready(settings, tuple(spec.name for spec in specs), tuple(labels), size)


def _check(spec: Spec, columns: int) -> None:
    if len(spec.shape) != 3 or spec.shape[2] not in (-1, columns):
        raise ValueError(f"output {spec.name!r} has shape {spec.shape}, not (images, boxes, {columns})")


@dataclass(frozen=True)
class Ready:
    """The decoder. ``names`` are those of the one output or of the three; ``size`` is the input's, in their units."""

    settings: Settings
    names: tuple[str, ...]
    labels: tuple[str, ...]
    size: tuple[float, float]

    suppresses = False

    def candidates(self, outputs: Mapping[str, Array], thresholds: Probabilities) -> list[Candidates]:
        """See ``Decoder.candidates``."""
        images = len(thresholds)
        tensors = [network_outputs.tensor(outputs, name, images) for name in self.names]
        if len(tensors) == 1:
            rows = tensors[0]
            tensors = (
                [rows[..., :4], rows[..., 4], rows[..., 5]] if rows.ndim == 3 and rows.shape[2] == 6 else [rows] * 3
            )
        boxes, scores, classes = tensors
        if boxes.ndim != 3 or boxes.shape[2] != 4 or not scores.shape == classes.shape == boxes.shape[:2]:
            shapes = ", ".join(str(outputs[name].shape) for name in self.names)
            raise ValueError(f"outputs of shapes {shapes} are not boxes with a score and a class each")
        return [self._found(boxes[i], scores[i], classes[i], thresholds[i]) for i in range(images)]

    def _found(self, boxes: Array, scores: Array, classes: Array, thresholds: Probabilities) -> Candidates:
        probabilities = as_they_are(np.maximum(scores, 0))  # -1 is how some fill up a short list
        numbers = np.rint(classes).astype(np.int64) - self.settings.first_class
        known = (numbers >= 0) & (numbers < len(self.labels))
        if (probabilities[~known] >= max(thresholds.min(), 1e-9)).any():
            raise ValueError(f"the model gave a class that has none of the {len(self.labels)} labels")
        chosen = known & (probabilities >= thresholds[np.where(known, numbers, 0)])
        order = [0, 1, 2, 3] if self.settings.order == "xyxy" else [1, 0, 3, 2]
        shares = boxes[chosen][:, order].astype(np.float64) / np.array([*self.size, *self.size])
        return Candidates(shares, numbers[chosen], probabilities[chosen])
