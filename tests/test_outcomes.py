"""The task that outputs suggest: a table of their shapes and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.wire import ImageInput
from worker.models import tasks
from worker.models.networks import Spec
from worker.models.outcomes import task_of
from worker.models.runtime import Array

RANDOM = np.random.default_rng(0)


def logits(*shape: int) -> Array:
    return RANDOM.normal(0, 3, (4, *shape)).astype(np.float32)


def shares(*shape: int) -> Array:
    return RANDOM.uniform(0, 1, (4, *shape)).astype(np.float32)


def probabilities(count: int) -> Array:
    raised = np.exp(logits(count))
    found: Array = raised / raised.sum(axis=1, keepdims=True)
    return found


def whole(*shape: int) -> Array:
    return RANDOM.integers(0, 3, (4, *shape)).astype(np.float32)


CASES: list[tuple[str, dict[str, Array], int, dict[str, Any]]] = [
    ("logits", {"y": logits(10)}, 0, {"task": "classification", "classification": {"activation": "softmax"}}),
    ("softmax", {"y": probabilities(10)}, 0, {"task": "classification", "classification": {"activation": "none"}}),
    ("two", {"y": logits(2)}, 2, {"task": "classification", "classification": {"activation": "softmax"}}),
    (
        "sides of one",
        {"y": logits(1, 1, 7)},
        0,
        {"task": "classification", "classification": {"activation": "softmax"}},
    ),
    ("sigmoids", {"y": shares(10)}, 0, {"task": "classification", "classification": {"activation": "softmax"}}),
    ("one share", {"y": shares(1)}, 0, {"task": "classification", "classification": {"activation": "none"}}),
    ("one number", {"y": logits(1) + 7}, 0, {"task": "tensors"}),
    ("features", {"avg_pool": logits(1280)}, 0, {"task": "embedding"}),
    (
        "features with labels",
        {"avg_pool": logits(1280)},
        1280,
        {"task": "classification", "classification": {"activation": "softmax"}},
    ),
    (
        "few features",
        {"avg_pool": logits(10)},
        0,
        {"task": "classification", "classification": {"activation": "softmax"}},
    ),
    ("many classes", {"y": logits(1000)}, 0, {"task": "classification", "classification": {"activation": "softmax"}}),
    ("whole numbers", {"y": whole(5).astype(np.int64)}, 0, {"task": "tensors"}),
    ("a picture", {"y": logits(32, 32, 3)}, 0, {"task": "tensors"}),
    ("several", {"a": logits(10), "b": logits(10)}, 0, {"task": "tensors"}),
    (
        "YOLOv8 with labels",
        {"output0": shares(84, 8400)},
        80,
        {"decoder": "yolo", "yolo": {"columns": "first", "objectness": False}},
    ),
    (
        "YOLOv5 with labels",
        {"output0": shares(25200, 85)},
        80,
        {"decoder": "yolo", "yolo": {"columns": "last", "objectness": True}},
    ),
    (
        "YOLOv8 without labels",
        {"output0": shares(7, 8400)},
        0,
        {"decoder": "yolo", "yolo": {"columns": "first", "objectness": False}},
    ),
    ("YOLO with other labels", {"output0": shares(84, 8400)}, 7, {"task": "tensors"}),
    (
        "SSD heads",
        {"scores": logits(1917, 91), "boxes": logits(1917, 4)},
        0,
        {"decoder": "ssd", "ssd": {"boxes": "boxes", "scores": "scores"}},
    ),
    ("other heads", {"scores": logits(1918, 91), "boxes": logits(1918, 4)}, 0, {"task": "tensors"}),
    (
        "finished boxes",
        {"num": whole(), "detection_boxes": shares(100, 4), "detection_scores": shares(100), "classes": whole(100)},
        3,
        {
            "decoder": "boxes",
            "boxes": {
                "boxes": "detection_boxes",
                "scores": "detection_scores",
                "classes": "classes",
                "units": "shares",
            },
        },
    ),
    (
        "finished rows",
        {"y": np.concatenate([100 * shares(50, 5), whole(50, 1)], axis=2)},
        3,
        {"decoder": "boxes", "boxes": {"rows": "y", "units": "pixels"}},
    ),
    ("rows without labels", {"y": np.concatenate([shares(50, 5), whole(50, 1)], axis=2)}, 0, {"task": "tensors"}),
]


@pytest.mark.parametrize(
    ("outputs", "labels", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_tasks(outputs: dict[str, Array], labels: int, expected: dict[str, Any]) -> None:
    found = task_of(outputs, labels=labels)
    if "decoder" in expected:
        assert (found.document["task"], found.document["detection"]) == ("detection", expected)
    else:
        assert found.document == expected
    assert "task" in found.notes


@pytest.mark.parametrize(("outputs", "labels"), [case[1:3] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_guessed_can_be_built(outputs: dict[str, Array], labels: int) -> None:
    document = task_of(outputs, labels=labels).document
    task = document["task"]
    module = tasks.module_of(task)
    specs = [Spec(name, array.dtype.name, (-1, *array.shape[1:])) for name, array in outputs.items()]
    names = [] if task in ("tensors", "embedding") else document.get("labels") or [str(n) for n in range(labels)]
    image = ImageInput("image", 300, 300)
    module.build(module.Settings.model_validate(document.get(task, {})), names, specs, image)


def test_the_file_of_labels_goes_to_tasks_that_have_labels() -> None:
    assert task_of({"y": logits(3)}, labels=3, labels_file="labels.txt").document["labels"] == "labels.txt"
    assert "labels" not in task_of({"y": logits(3, 5)}, labels=3, labels_file="labels.txt").document
