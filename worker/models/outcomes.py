"""Guesses a model's task from what it gives for a few images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker.models.runtime import Array
from worker.models.tasks.classification import activation_of

__all__ = ["Outcome", "task_of"]

_FEATURES = re.compile(r"feature|embed|pool|flatten|backbone|hidden|latent", re.IGNORECASE)
_MANY = 256
_BOX = 4
_ANCHORS = 1917  # of the feature maps 19, 10, 5, 3, 2 and 1
_FEWEST_BOXES = 100
_MOST_CLASSES = 1000
_SHARES = 2.0
_SCORES = re.compile("score|conf|prob", re.IGNORECASE)
_CLASSES = re.compile("class|label|categor", re.IGNORECASE)


@dataclass(frozen=True)
class Outcome:
    """Parts of a manifest, and why, by the dotted names of what they are about."""

    document: dict[str, Any]
    notes: dict[str, str] = field(default_factory=dict)


def task_of(outputs: Mapping[str, Array], *, labels: int, labels_file: str = "") -> Outcome:
    """The task by the outputs for a few images.

    ``labels`` is how many there are, 0 when nobody has said; they lie in ``labels_file`` beside the artefact, if that
    is named.
    """
    for guess in (_rows, _ready, _heads, _yolo):
        if found := guess(outputs, labels):
            if labels_file and found.document["task"] in ("classification", "detection"):
                return _with_labels(found, labels_file)
            return found
    shapes = ", ".join(f"{name!r} {_shape(array)}" for name, array in outputs.items())
    return Outcome({"task": "tensors"}, {"task": f"task: tensors, as no other fits the outputs {shapes}"})


def _with_labels(found: Outcome, file: str) -> Outcome:
    return Outcome({**found.document, "labels": file}, {**found.notes, "labels": f"labels: from {file}, beside it"})


def _rows(outputs: Mapping[str, Array], labels: int) -> Outcome | None:
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
    if count >= _MANY and not labels and _FEATURES.search(name):
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


def _ready(outputs: Mapping[str, Array], labels: int) -> Outcome | None:
    """Finished detections: boxes (n, m, 4) with a score and a class each, or rows (n, m, 6) of all."""
    if not labels:
        return None
    if len(outputs) == 1:
        ((name, rows),) = outputs.items()
        if rows.ndim != 3 or rows.shape[2] != 6 or not _is_whole(rows[..., 5]):
            return None
        table: dict[str, Any] = {"rows": name}
        boxes, why = rows[..., :4], f"one output {name!r} of rows of 6 numbers"
    else:
        found = _three(outputs)
        if found is None:
            return None
        table, boxes = found, outputs[found["boxes"]]
        why = f"outputs of boxes, scores and classes ({', '.join(found.values())})"
    table["units"] = "pixels" if boxes.size and float(np.abs(boxes).max()) > _SHARES else "shares"
    return Outcome(
        {"task": "detection", "detection": {"decoder": "boxes", "boxes": table}},
        {
            "task": f"task: detection, {why}",
            "detection.boxes": f"boxes: left, top, right, bottom in {table['units']}, a guess to check "
            '(detection.boxes.order may be "yxyx")',
        },
    )


def _three(outputs: Mapping[str, Array]) -> dict[str, str] | None:
    """Which outputs are boxes, scores and classes."""
    boxes = [name for name, array in outputs.items() if array.ndim == 3 and array.shape[2] == _BOX]
    flat = {name: array for name, array in outputs.items() if array.ndim == 2 and array.dtype.kind in "fiu"}
    if len(boxes) != 1:
        return None
    flat = {name: array for name, array in flat.items() if array.shape == outputs[boxes[0]].shape[:2]}
    classes = [name for name, array in flat.items() if _CLASSES.search(name) and _is_whole(array)]
    scores = [name for name in flat if _SCORES.search(name) and name not in classes]
    if (len(classes), len(scores)) != (1, 1):
        return None
    return {"boxes": boxes[0], "scores": scores[0], "classes": classes[0]}


def _heads(outputs: Mapping[str, Array], labels: int) -> Outcome | None:
    """The raw heads of an SSD: offsets (n, anchors, 4) and scores (n, anchors, classes)."""
    by_width = sorted(outputs.items(), key=lambda item: item[1].shape[-1:] != (_BOX,))
    if len(by_width) != 2 or any(array.ndim < 3 for array in outputs.values()):
        return None
    (boxes, offsets), (scores, columns) = by_width
    if offsets.shape[-1] != _BOX or columns.ndim != 3 or not offsets.shape[1] == columns.shape[1] == _ANCHORS:
        return None
    return Outcome(
        {"task": "detection", "detection": {"decoder": "ssd", "ssd": {"boxes": boxes, "scores": scores}}},
        {
            "task": f"task: detection, offsets {boxes!r} and scores {scores!r} of {_ANCHORS} anchors",
            "detection.ssd": "anchors: those of SSD MobileNet v2 at 300 x 300, a guess to check",
        },
    )


def _yolo(outputs: Mapping[str, Array], labels: int) -> Outcome | None:
    """Boxes and scores together: (n, 4 + classes, m) or (n, m, 4 + classes), perhaps with one more number."""
    if len(outputs) != 1:
        return None
    ((name, array),) = outputs.items()
    if array.ndim != 3 or array.dtype.kind != "f":
        return None
    first = array.shape[1] < array.shape[2]
    columns, boxes = (array.shape[1], array.shape[2]) if first else (array.shape[2], array.shape[1])
    has_objectness = columns == _BOX + 1 + labels if labels else not first
    classes = columns - _BOX - has_objectness
    if boxes < _FEWEST_BOXES or not 1 <= classes <= _MOST_CLASSES or labels not in (0, classes):
        return None
    unnamed: dict[str, Any] = {} if labels else {"labels": [str(number) for number in range(classes)]}
    table = {"columns": "first" if first else "last", "objectness": has_objectness}
    notes = {
        "task": f"task: detection, one output {name!r} {_shape(array)} as YOLO's: {classes} classes, "
        f"{'with' if has_objectness else 'without'} objectness",
        "input.crop": "crop: letterbox, as is usual for YOLO: a guess to check",
    }
    if unnamed:
        notes["labels"] = f"labels: none are given, so the {classes} classes are numbers"
    document = {"task": "detection", "detection": {"decoder": "yolo", "yolo": table}, "input": {"crop": "letterbox"}}
    return Outcome({**document, **unnamed}, notes)


def _is_whole(array: Array) -> bool:
    return bool((array == np.rint(array)).all())


def _shape(array: Array) -> str:
    return "(" + ", ".join(["n", *map(str, array.shape[1:])]) + ")"
