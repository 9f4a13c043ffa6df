"""Guesses a model's task from what it gives for a few images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.models.runtime import Array
from worker.models.tasks.classification import activation_of

__all__ = ["Outcome", "task_of"]

_FEATURES = re.compile(r"feature|embed|pool|flatten|backbone|hidden|latent", re.IGNORECASE)
_MANY = 256
_BOX = 4


@dataclass(frozen=True)
class Outcome:
    """Parts of a manifest, and why, by the dotted names of what they are about."""

    document: dict[str, Any]
    notes: dict[str, str] = field(default_factory=dict)


def task_of(outputs: Mapping[str, Array], *, has_labels: bool, labels_file: str = "") -> Outcome:
    """The task by the outputs for at least two images; ``labels_file`` lies beside the artefact, if it is named."""
    labelled = has_labels or bool(labels_file)
    for guess in (_rows, _pair, _yolo):
        if found := guess(outputs, labelled):
            if labels_file and found.document["task"] in ("classification", "detection"):
                return _with_labels(found, labels_file)
            return found
    shapes = ", ".join(f"{name!r} {_shape(array)}" for name, array in outputs.items())
    return Outcome({"task": "tensors"}, {"task": f"task: tensors, as no other fits the outputs {shapes}"})


def _with_labels(found: Outcome, file: str) -> Outcome:
    return Outcome({**found.document, "labels": file}, {**found.notes, "labels": f"labels: from {file}, beside it"})


def _rows(outputs: Mapping[str, Array], labelled: bool) -> Outcome | None:
    """One number for each class."""
    if len(outputs) != 1:
        return None
    ((name, array),) = outputs.items()
    rows = array.reshape(len(array), -1)
    count = rows.shape[1]
    if array.dtype.kind != "f" or max(array.shape[1:], default=1) != count:
        return None
    if count == 1:
        return _single(name, rows)
    if count >= _MANY and not labelled and _FEATURES.search(name):
        return Outcome(
            {"task": "embedding"},
            {"task": f"task: embedding, one output named {name!r} of {count} numbers, and no labels"},
        )
    activation = activation_of(rows)
    return Outcome(
        {"task": "classification", "classification": {"activation": activation}},
        {
            "task": f"task: classification, one output {name!r} of {count} numbers",
            "classification.activation": f"activation: {_reason(activation, rows)}",
        },
    )


def _reason(activation: str, rows: Array) -> str:
    if activation == "none":
        return "none, its numbers are not negative and have the sum 1"
    if ((rows >= 0) & (rows <= 1)).all():
        return (
            'softmax, a guess to check: its numbers are from 0 to 1 without having the sum 1 ("none" takes them as is)'
        )
    return "softmax, as its numbers are no probabilities yet"


def _single(name: str, rows: Array) -> Outcome | None:
    if not ((rows >= 0) & (rows <= 1)).all():
        return None
    return Outcome(
        {"task": "classification", "classification": {"activation": "none"}},
        {
            "task": f"task: classification, one output {name!r} of one number: absence and presence of something",
            "classification.activation": "activation: none, its number is from 0 to 1",
        },
    )


def _pair(outputs: Mapping[str, Array], labelled: bool) -> Outcome | None:
    """Boxes (n, m, 4) and scores (n, m, classes)."""
    if len(outputs) != 2:
        return None
    return None


def _yolo(outputs: Mapping[str, Array], labelled: bool) -> Outcome | None:
    """Boxes and scores together: (n, 4 + classes, m) or (n, m, 4 + classes)."""
    return None


def _shape(array: Array) -> str:
    return "(" + ", ".join(["n", *map(str, array.shape[1:])]) + ")"
