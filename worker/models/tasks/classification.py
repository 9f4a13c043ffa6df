"""What is in the picture: classes, most probable first.

The answer is ``{"predictions": [{"label", "index", "probability"}, …]}``, of equals the lower index first. A request
may choose ``top_k`` and ``threshold``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from shoal.wire import ImageInput, Option
from worker.models.networks import Spec
from worker.models.runtime import Array, Asked
from worker.models.tasks import outputs as network_outputs
from worker.models.tasks.labels import by_class, renamed
from worker.models.tasks.options import THRESHOLD, TOP_K, number
from worker.models.tasks.probabilities import (
    Probabilities,
    are_probabilities,
    as_they_are,
    sigmoid,
    softmax,
    softmax_unless_probabilities,
)
from worker.models.tasks.settings import Count, Share, Table

__all__ = ["Classification", "Settings", "activation_of", "build"]

Activation = Literal["auto", "softmax", "sigmoid", "none"]


class Settings(Table):
    """The table ``[classification]``.

    ``output`` names the output to read where there are several. ``activation`` makes probabilities of it; ``auto`` is
    softmax for every row but those that are probabilities already (none negative, sum 1 within 0.001), a rule that
    looks at nothing but the row itself, so that an image's answer never depends on its neighbours or on what came
    before. A ``probability`` becomes ``probability · weight + adjust``, brought back to 0…1 and not to a sum of 1; keys
    are labels, as they are before ``rename``, or numbers of classes.
    """

    output: str = ""
    activation: Activation = "auto"
    top_k: Count = 5
    threshold: Share = 0.0
    weights: dict[str, float] = Field(default_factory=dict)
    adjust: dict[str, float] = Field(default_factory=dict)
    rename: dict[str, str] = Field(default_factory=dict)


def activation_of(rows: Array) -> Literal["softmax", "none"]:
    """What these outputs of a trained model need, for a manifest: ``none`` if every row is probabilities already."""
    return "none" if are_probabilities(rows.astype(np.float64)).all() else "softmax"


def build(settings: Settings, labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput) -> Classification:
    """Raises ``ValueError`` when settings, labels and outputs do not fit each other.

    Two labels for a single value are those of its absence and its presence. Without labels, classes are named by
    their numbers, when the network tells how many there are.
    """
    spec = network_outputs.choose(outputs, settings.output)
    columns = network_outputs.width(spec)
    if columns == 1 and settings.activation in ("auto", "softmax"):
        raise ValueError(
            f'activation: output {spec.name!r} is a single value: say "sigmoid" if it is a logit, "none" if it is a '
            "probability"
        )
    if not labels and columns < 0:
        raise ValueError(f"labels: output {spec.name!r} does not tell how many classes it has: give their labels")
    names = tuple(labels) or tuple(map(str, range(max(2, columns))))
    if columns not in (-1, len(names)) and (columns, len(names)) != (1, 2):
        raise ValueError(f"labels: there are {len(names)}, but output {spec.name!r} has {columns} classes")
    return Classification(
        settings,
        spec.name,
        renamed(names, settings.rename),
        np.array(by_class(names, settings.weights, 1.0, setting="weights")),
        np.array(by_class(names, settings.adjust, 0.0, setting="adjust")),
    )


@dataclass(frozen=True)
class Classification:
    """The task, for one network. ``weights`` and ``offsets`` have a value for each label."""

    settings: Settings
    output: str
    labels: tuple[str, ...]
    weights: Probabilities
    offsets: Probabilities

    @property
    def options(self) -> Mapping[str, Option]:
        return {"top_k": TOP_K, "threshold": THRESHOLD}

    @property
    def boxes(self) -> bool:
        return False

    def answers(self, outputs: Mapping[str, Array], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """See ``Task.answers``. Raises ``ValueError`` for a bad option too."""
        tops = [int(number(one.options, "top_k", TOP_K, self.settings.top_k)) for one in asked]
        thresholds = [number(one.options, "threshold", THRESHOLD, self.settings.threshold) for one in asked]
        probabilities = self.probabilities(network_outputs.rows(outputs, self.output, len(asked)))
        order = np.argsort(-probabilities, axis=-1, kind="stable")[:, : max(tops)]
        chosen = np.take_along_axis(probabilities, order, axis=-1)
        return [
            {
                "predictions": [
                    {"label": self.labels[index], "index": index, "probability": probability}
                    for index, probability in zip(row[:top_k], shares[:top_k], strict=True)
                    if probability >= threshold
                ]
            }
            for row, shares, top_k, threshold in zip(order.tolist(), chosen.tolist(), tops, thresholds, strict=True)
        ]

    def probabilities(self, rows: Array) -> Probabilities:
        """Of each class in each row, with the manifest's tweaks. Raises ``ValueError``."""
        found = _ACTIVATIONS[self.settings.activation](rows)
        if (found.shape[1], len(self.labels)) == (1, 2):
            found = np.concatenate([1.0 - found, found], axis=1)
        if found.shape[1] != len(self.labels):
            raise ValueError(f"output {self.output!r} has {found.shape[1]} classes, and {len(self.labels)} labels")
        if self.settings.weights or self.settings.adjust:
            found = np.clip(found * self.weights + self.offsets, 0.0, 1.0)
        return found


_ACTIVATIONS: Mapping[Activation, Callable[[Array], Probabilities]] = {
    "auto": softmax_unless_probabilities,
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": as_they_are,
}
