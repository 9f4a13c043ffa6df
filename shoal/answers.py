"""What a prediction gives back to the caller of the SDK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal.errors import BadGateway, ShoalError, from_code

Path = Literal["direct", "proxy"]


@dataclass(frozen=True)
class Prediction:
    """A class that the model sees in the image: its name, its number, and its probability from 0 to 1.

    ``box`` is where, when the model tells: left, top, right and bottom in pixels of the upright original picture.
    """

    label: str
    index: int
    probability: float
    box: tuple[float, float, float, float] | None = None

    def __str__(self) -> str:
        if self.box is None:
            return f"{self.label} {self.probability:.3f}"
        left, top, right, bottom = self.box
        return f"{self.label} {self.probability:.2f} at {left:.0f},{top:.0f} {right - left:.0f}x{bottom - top:.0f}"

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Prediction:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything that is not a prediction."""
        box = document.get("box")
        if box is not None:
            left, top, right, bottom = map(float, box)
            box = left, top, right, bottom
        return cls(str(document["label"]), int(document["index"]), float(document["probability"]), box)


@dataclass(frozen=True)
class Answer:
    """The answer for one image, and where it came from.

    ``predictions`` is sorted, most probable first, and empty for a model that neither classifies nor detects, or has
    found nothing; ``document`` is the whole JSON answer (an embedding is ``document["embedding"]``); ``path`` tells
    whether the image went straight to the worker or through a gateway.
    """

    predictions: tuple[Prediction, ...]
    model: str
    version: str
    worker: str
    request_id: str
    path: Path
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, document: object, path: Path) -> Answer:
        """Raises ``BadGateway`` for anything that is not an answer."""
        try:
            assert isinstance(document, Mapping)
            return cls(
                predictions=tuple(map(Prediction.of, document.get("predictions", ()))),
                model=str(document["model"]),
                version=str(document["version"]),
                worker=str(document["worker"]),
                request_id=str(document["request_id"]),
                path=path,
                document=document,
            )
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadGateway("The answer is not one of Shoal's.") from error


@dataclass(frozen=True)
class Outcome:
    """One image of many: the answer, or the error that it met. ``number`` counts from 0, as given."""

    number: int
    image: object
    answer: Answer | None = None
    error: ShoalError | OSError | None = None


def from_body(body: object, *, status: int, retry_after: float | None = None) -> ShoalError:
    """The error that an answer's JSON ``body`` describes; anything unreadable is a ``BadGateway``."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping) or not isinstance(error.get("code"), str):
        return BadGateway(f"HTTP {status} without a readable error.", retry_after=retry_after)
    request_id = error.get("request_id")
    return from_code(
        error["code"],
        str(error.get("message", "")),
        retry_after=retry_after,
        request_id=request_id if isinstance(request_id, str) else None,
    )
