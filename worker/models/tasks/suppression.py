"""What a network may have found in one picture, and the choice of the best of boxes that show the same thing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.models.tasks.geometry import Boxes, iou

__all__ = ["Candidates", "suppress", "worth"]

# The most probable are considered; it bounds what a request with a threshold of 0 can cost.
_MOST_CANDIDATES = 2000


@dataclass(frozen=True)
class Candidates:
    """n boxes, in shares of the network's input, with the class (number) and the probability of each."""

    boxes: Boxes
    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, chosen: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Candidates:
        return Candidates(self.boxes[chosen], self.classes[chosen], self.probabilities[chosen])

    def descending(self) -> Candidates:
        """The most probable first; of equals, the one that came first."""
        return self[np.argsort(-self.probabilities, kind="stable")]


def worth(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which of so many are probable enough to be considered at all: a quick choice before boxes are computed."""
    if len(probabilities) <= _MOST_CANDIDATES:
        return np.ones(len(probabilities), dtype=bool)
    least = np.partition(probabilities, -_MOST_CANDIDATES)[-_MOST_CANDIDATES]
    chosen: npt.NDArray[np.bool_] = probabilities >= least
    return chosen


def suppress(candidates: Candidates, *, most_iou: float, most: int) -> Candidates:
    """At most ``most`` of them, descending, without those that overlap a better one of their class by more."""
    left = candidates.descending()[:_MOST_CANDIDATES]
    kept: list[int] = []
    numbers = np.arange(len(left))
    while len(numbers) and len(kept) < most:
        best, numbers = int(numbers[0]), numbers[1:]
        kept.append(best)
        same = left.classes[numbers] == left.classes[best]
        overlaps = np.zeros(len(numbers), dtype=bool)
        overlaps[same] = iou(left.boxes[best], left.boxes[numbers[same]]) > most_iou
        numbers = numbers[~overlaps]
    return left[np.array(kept, dtype=np.int64)]
