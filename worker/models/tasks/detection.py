"""What is where in the picture: classes with boxes, most probable first.

The answer is ``{"predictions": [{"label", "index", "probability", "box": [left, top, right, bottom]}, …], "width",
"height"}``, all in pixels of the upright original picture, whatever of it the model has seen, or of the network's
input when there is no frame. A request may choose ``threshold``, ``max_detections``, and ``iou`` where we suppress.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from shoal.wire import Frame, ImageInput, Option
from worker.models.networks import Spec
from worker.models.runtime import Array, Asked
from worker.models.tasks.boxes import Settings as Boxes
from worker.models.tasks.geometry import into_picture
from worker.models.tasks.labels import by_class, renamed
from worker.models.tasks.options import IOU, THRESHOLD, TOP_K, number
from worker.models.tasks.probabilities import Probabilities
from worker.models.tasks.settings import Count, Share, Table
from worker.models.tasks.ssd import Settings as Ssd
from worker.models.tasks.suppression import Candidates, suppress
from worker.models.tasks.yolo import Settings as Yolo

__all__ = ["DECODERS", "Decoder", "Detection", "Settings", "build"]

DECODERS = {
    "ssd": "worker.models.tasks.ssd",
    "yolo": "worker.models.tasks.yolo",
    "boxes": "worker.models.tasks.boxes",
}

# Of a box's place, a hundredth of a pixel is more than any model knows.
_DECIMALS = 2
_NEVER = 2.0


class Settings(Table):
    """The table ``[detection]``, and one more for the ``decoder``.

    ``thresholds`` are those of single classes, where ``threshold`` is not right; keys are labels, as they are before
    ``rename``, or numbers of classes. Of two boxes of a class that overlap by more than ``iou``, the less probable is
    left out. A class whose label is empty is never found.
    """

    decoder: Literal["ssd", "yolo", "boxes"]
    threshold: Share = 0.5
    thresholds: dict[str, Share] = Field(default_factory=dict)
    iou: Share = 0.6
    max_detections: Count = 100
    rename: dict[str, str] = Field(default_factory=dict)
    ssd: Ssd = Field(default_factory=Ssd)
    yolo: Yolo = Field(default_factory=Yolo)
    boxes: Boxes = Field(default_factory=Boxes)

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        strangers = sorted({name for name in DECODERS if name in self.model_fields_set} - {self.decoder})
        if strangers:
            raise ValueError(f"the decoder is {self.decoder}, and there is a table {strangers[0]}")
        return self


class Decoder(Protocol):
    """How to read the outputs of one kind of detector."""

    @property
    def labels(self) -> Sequence[str]:
        """The name of each class."""

    @property
    def suppresses(self) -> bool:
        """Whether its candidates are many for each thing, of which the best is to be chosen."""

    def candidates(self, outputs: Mapping[str, Array], thresholds: Probabilities) -> list[Candidates]:
        """What may be in each of n images, where it is as probable as ``thresholds`` (n, classes) demands.

        Raises ``ValueError`` for outputs that make no sense.
        """


def build(settings: Settings, labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput) -> Detection:
    """Raises ``ValueError`` when settings, labels and outputs do not fit each other."""
    module = importlib.import_module(DECODERS[settings.decoder])
    decoder: Decoder = module.build(getattr(settings, settings.decoder), labels, outputs, image)
    names = renamed(decoder.labels, settings.rename)
    own = by_class(decoder.labels, settings.thresholds, -1.0, setting="thresholds")
    thresholds = np.array([threshold if name else _NEVER for name, threshold in zip(names, own, strict=True)])
    frame = Frame(image.width, image.height, 0, 0, image.width, image.height)
    return Detection(settings, decoder, names, thresholds, frame)


@dataclass(frozen=True)
class Detection:
    """The task, for one network. ``thresholds`` has a class's own, or -1; ``frame`` is that of a bare input."""

    settings: Settings
    decoder: Decoder
    labels: tuple[str, ...]
    thresholds: Probabilities
    frame: Frame

    @property
    def options(self) -> Mapping[str, Option]:
        return {"threshold": THRESHOLD, "max_detections": TOP_K} | ({"iou": IOU} if self.decoder.suppresses else {})

    @property
    def boxes(self) -> bool:
        return True

    def answers(self, outputs: Mapping[str, Array], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """See ``Task.answers``. Raises ``ValueError`` for a bad option too."""
        wanted = [self._wanted(one) for one in asked]
        found = self.decoder.candidates(outputs, np.stack([self._thresholds(one) for one in asked]))
        return [self._answer(*each) for each in zip(found, wanted, asked, strict=True)]

    def _wanted(self, asked: Asked) -> tuple[float, int]:
        iou = number(asked.options, "iou", IOU, self.settings.iou)
        return iou, int(number(asked.options, "max_detections", TOP_K, self.settings.max_detections))

    def _thresholds(self, asked: Asked) -> Probabilities:
        """A request's threshold raises those of single classes, and takes the place of the others."""
        default = number(asked.options, "threshold", THRESHOLD, self.settings.threshold)
        own = self.thresholds
        raised: Probabilities = np.maximum(own, default) if "threshold" in asked.options else own
        return np.where(own < 0, default, raised)

    def _answer(self, found: Candidates, wanted: tuple[float, int], asked: Asked) -> dict[str, Any]:
        iou, most = wanted
        frame = asked.frame or self.frame
        best = suppress(found, most_iou=iou, most=most) if self.decoder.suppresses else found.descending()
        places = np.round(into_picture(best.boxes, frame), _DECIMALS)
        visible = ((places[:, 2] > places[:, 0]) & (places[:, 3] > places[:, 1])).nonzero()[0][:most]
        rows = zip(
            best.classes[visible].tolist(), best.probabilities[visible].tolist(), places[visible].tolist(), strict=True
        )
        return {
            "predictions": [
                {"label": self.labels[index], "index": index, "probability": probability, "box": box}
                for index, probability, box in rows
            ],
            "width": frame.width,
            "height": frame.height,
        }
