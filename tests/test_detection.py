"""Where things are in a picture: boxes, their overlap, three kinds of detectors, and the way back to the original."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shoal.wire import Frame, ImageInput
from worker.models.networks import Spec
from worker.models.runtime import Array, Asked
from worker.models.tasks import detection, ssd, suppression
from worker.models.tasks.geometry import into_picture, iou
from worker.models.tasks.suppression import Candidates, suppress

IMAGE = ImageInput("image", 100, 200, "squash")
THINGS = ("cat", "dog", "cow")

Box = tuple[float, float, float, float]


def boxes_of(*rows: Sequence[float]) -> Array:
    return np.array(rows, np.float64).reshape(-1, 4)


# --- overlap -----------------------------------------------------------------------------------------------------

OVERLAPS: dict[str, tuple[Box, Box, float]] = {
    "the same": ((0, 0, 2, 2), (0, 0, 2, 2), 1),
    "apart": ((0, 0, 1, 1), (5, 5, 6, 6), 0),
    "side by side": ((0, 0, 1, 1), (1, 0, 2, 1), 0),
    "half": ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
    "a corner": ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
    "inside": ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4),
    "across": ((0, 1, 3, 2), (1, 0, 2, 3), 1 / 5),
    "empty": ((1, 1, 1, 1), (1, 1, 1, 1), 0),
    "inside out": ((3, 3, 1, 1), (0, 0, 4, 4), 0),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_overlap(case: str) -> None:
    one, other, expected = OVERLAPS[case]
    assert iou(np.array(one, float), boxes_of(other))[0] == pytest.approx(expected)
    assert iou(np.array(other, float), boxes_of(one))[0] == pytest.approx(expected)


def naive_iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def naive_suppression(found: Sequence[tuple[Box, int, float]], most_iou: float, most: int) -> list[int]:
    """Every pair, one after another."""
    kept: list[int] = []
    for index in sorted(range(len(found)), key=lambda i: (-found[i][2], i)):
        box, number, _ = found[index]
        rivals = [found[i][0] for i in kept if found[i][1] == number]
        if len(kept) < most and all(naive_iou(box, rival) <= most_iou for rival in rivals):
            kept.append(index)
    return kept


sides = st.integers(0, 12)
found_boxes = st.tuples(sides, sides, st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)


@given(
    st.lists(st.tuples(found_boxes, st.integers(0, 2), st.sampled_from([0.1, 0.25, 0.5, 0.7, 0.9])), max_size=30),
    st.sampled_from([0.0, 0.2, 0.5, 0.6, 0.95, 1.0]),
    st.integers(1, 12),
)
def test_suppression_is_that_of_every_pair(found: list[tuple[Box, int, float]], most_iou: float, most: int) -> None:
    candidates = Candidates(
        boxes_of(*(box for box, _, _ in found)),
        np.array([number for _, number, _ in found], np.int64),
        np.array([probability for _, _, probability in found]),
    )
    expected = naive_suppression(found, most_iou, most)
    kept = suppress(candidates, most_iou=most_iou, most=most)
    assert kept.boxes.tolist() == [list(found[i][0]) for i in expected]
    assert kept.classes.tolist() == [found[i][1] for i in expected]
    assert kept.probabilities.tolist() == [found[i][2] for i in expected]


def test_of_very_many_candidates_the_best_are_considered() -> None:
    random = np.random.default_rng(3)
    corner = random.random((200_000, 2)) * 0.9
    many = Candidates(
        np.concatenate([corner, corner + 0.05], axis=1), random.integers(0, 90, 200_000), random.random(200_000)
    )
    kept = suppress(many, most_iou=1.0, most=1000)
    assert kept.probabilities.tolist() == sorted(many.probabilities.tolist(), reverse=True)[:1000]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=50), st.integers(1, 20))
def test_what_is_worth_considering_is_all_that_could_be_kept(shares: list[float], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppression, "_MOST_CANDIDATES", most)
        chosen = suppression.worth(np.array(shares))
    best = sorted(range(len(shares)), key=lambda i: (-shares[i], i))[:most]
    assert chosen[best].all()
    assert min(shares[i] for i in best) == min(np.array(shares)[chosen])


# --- from the input to the picture -------------------------------------------------------------------------------

FRAMES: dict[str, tuple[Frame, Box, Box]] = {
    "squashed": (Frame(400, 300, 0, 0, 400, 300), (0.25, 0.5, 0.75, 1), (100, 150, 300, 300)),
    "centre": (Frame(400, 300, 100, 50, 300, 250), (0, 0, 0.5, 0.5), (100, 50, 200, 150)),
    "letterboxed": (Frame(400, 100, 0, -150, 400, 250), (0.25, 0.4, 0.5, 0.6), (100, 10, 200, 90)),
    "cut off at the picture": (Frame(400, 100, 0, -150, 400, 250), (-0.1, 0, 1.1, 1), (0, 0, 400, 100)),
    "beside the picture": (Frame(400, 100, 0, -150, 400, 250), (0, 0, 1, 0.3), (0, 0, 400, 0)),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_box_in_the_picture(case: str) -> None:
    frame, box, expected = FRAMES[case]
    assert into_picture(boxes_of(box), frame)[0].tolist() == pytest.approx(list(expected))


edges = st.floats(-500, 500, allow_nan=False)


@given(st.integers(1, 5000), st.integers(1, 5000), edges, edges, st.floats(1, 9000), st.floats(1, 9000), found_boxes)
def test_what_is_in_the_picture_survives_the_way_there_and_back(
    width: int, height: int, left: float, top: float, across: float, down: float, box: Box
) -> None:
    frame = Frame(width, height, left, top, left + across, top + down)
    inside = np.array(box) / 20 * np.array([width, height] * 2)
    shares = (inside - np.array([left, top] * 2)) / np.array([across, down] * 2)
    assert into_picture(shares[np.newaxis], frame)[0].tolist() == pytest.approx(inside.tolist(), abs=1e-6)


# --- one task for every kind of detector -------------------------------------------------------------------------

READY = [
    Spec("detection_boxes", "float32", (-1, 4, 4)),
    Spec("detection_scores", "float32", (-1, 4)),
    Spec("detection_classes", "float32", (-1, 4)),
]
READY_NAMES = {"boxes": "detection_boxes", "scores": "detection_scores", "classes": "detection_classes"}


def detector(
    labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput = IMAGE, **settings: Any
) -> detection.Detection:
    return detection.build(detection.Settings.model_validate(settings), labels, outputs, image)


def detected(task: detection.Detection, outputs: Mapping[str, Array], *asked: Asked) -> list[dict[str, Any]]:
    found = task.answers(outputs, asked or [Asked()])
    assert json.loads(json.dumps(found)) == found
    for answer in found:
        probabilities = [p["probability"] for p in answer["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
    return found


def names_and_boxes(answer: dict[str, Any]) -> list[tuple[str, int, list[float]]]:
    return [(p["label"], p["index"], p["box"]) for p in answer["predictions"]]


def ready(**settings: Any) -> detection.Detection:
    return detector(THINGS, READY, **({"decoder": "boxes", "boxes": READY_NAMES} | settings))


def finished(*things: tuple[Box, float, int]) -> dict[str, Array]:
    """The outputs of a network that has found these in one picture, filled up with nothing."""
    filled = [*things, *[((0.0, 0.0, 0.0, 0.0), 0.0, 0)] * (4 - len(things))]
    return {
        "detection_boxes": np.array([[box for box, _, _ in filled]], np.float32),
        "detection_scores": np.array([[score for _, score, _ in filled]], np.float32),
        "detection_classes": np.array([[number for _, _, number in filled]], np.float32),
    }


CAT_AND_COW = finished(((0.5, 0, 1, 0.5), 0.75, 0), ((0, 0, 0.25, 1), 0.875, 2))


def test_boxes_are_in_pixels_of_the_original_picture() -> None:
    frame = Frame(1000, 500, 0, -250, 1000, 750)
    [answer] = detected(ready(), CAT_AND_COW, Asked(frame=frame))
    assert (answer["width"], answer["height"]) == (1000, 500)
    assert answer["predictions"][0] == {
        "label": "cow",
        "index": 2,
        "probability": 0.875,
        "box": [0.0, 0.0, 250.0, 500.0],
    }
    assert answer["predictions"][1]["box"] == [500.0, 0.0, 1000.0, 250.0]


def test_without_a_frame_boxes_are_in_pixels_of_the_input() -> None:
    [answer] = detected(ready(), CAT_AND_COW)
    assert (answer["width"], answer["height"]) == (200, 100)
    assert names_and_boxes(answer) == [("cow", 2, [0.0, 0.0, 50.0, 100.0]), ("cat", 0, [100.0, 0.0, 200.0, 50.0])]


def test_what_lies_beside_the_picture_is_left_out() -> None:
    frame = Frame(1000, 100, 0, -450, 1000, 550)
    [answer] = detected(ready(max_detections=1), CAT_AND_COW, Asked(frame=frame))
    assert names_and_boxes(answer) == [("cow", 2, [0.0, 0.0, 250.0, 100.0])]
    [answer] = detected(ready(), finished(((0.5, 0, 1, 0.4), 0.75, 0)), Asked(frame=frame))
    assert answer["predictions"] == []


def test_each_class_may_have_its_own_threshold() -> None:
    def found(task: detection.Detection, **options: float) -> list[str]:
        [answer] = detected(task, CAT_AND_COW, Asked(options))
        return [p["label"] for p in answer["predictions"]]

    assert found(ready(threshold=0.8)) == ["cow"]
    assert found(ready(threshold=0.8, thresholds={"cat": 0.7})) == ["cow", "cat"]
    assert found(ready(threshold=0.5, thresholds={"2": 0.9})) == ["cat"]
    assert found(ready(threshold=0.8), threshold=0.75) == ["cow", "cat"]
    assert found(ready(), threshold=0.9) == []
    assert found(ready(thresholds={"cow": 0.9}), threshold=0.1) == ["cat"], "a request does not lower a class's own"
    assert found(ready(thresholds={"cat": 0.1}), threshold=0.8) == ["cow"], "but it may raise it"


def test_classes_are_renamed_and_those_without_a_name_never_found() -> None:
    [answer] = detected(ready(rename={"cow": "Kuh"}, thresholds={"cow": 0.1}), CAT_AND_COW)
    assert [p["label"] for p in answer["predictions"]] == ["Kuh", "cat"]
    [answer] = detected(ready(rename={"cow": ""}), CAT_AND_COW, Asked({"threshold": 0.0}))
    assert [p["label"] for p in answer["predictions"]] == ["cat"]


def test_each_image_is_asked_for_itself() -> None:
    both = {name: np.concatenate([values, values]) for name, values in CAT_AND_COW.items()}
    asked = (Asked({"max_detections": 1}), Asked({}, Frame(10, 10, 0, 0, 10, 10)))
    first, second = detected(ready(), both, *asked)
    assert names_and_boxes(first) == [("cow", 2, [0.0, 0.0, 50.0, 100.0])]
    assert names_and_boxes(second) == [("cow", 2, [0.0, 0.0, 2.5, 10.0]), ("cat", 0, [5.0, 0.0, 10.0, 5.0])]


@pytest.mark.parametrize(
    "option", [{"threshold": -1}, {"threshold": "0.5"}, {"iou": 1.5}, {"iou": math.nan}, {"max_detections": 0.5}]
)
def test_a_bad_option_is_refused_by_name(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be a .*number from"):
        detected(ready(), CAT_AND_COW, Asked(option))


def test_its_card_knows_of_boxes_and_options() -> None:
    assert ready().boxes
    assert set(ready().options) == {"threshold", "max_detections"}
    assert set(yolo().options) == {"threshold", "max_detections", "iou"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "decoder"),
        ({"decoder": "rcnn"}, "decoder"),
        ({"decoder": "ssd", "yolo": {}}, "the decoder is ssd, and there is a table yolo"),
        ({"decoder": "ssd", "ssd": {"scales": [0.1, 0.2]}}, "one for each of feature_maps, and one more"),
        ({"decoder": "yolo", "threshold": 2}, "threshold"),
        ({"decoder": "yolo", "thresholds": {"cat": -1}}, "thresholds"),
        ({"decoder": "yolo", "nonsense": 1}, "nonsense"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        detection.Settings.model_validate(settings)


# --- ready boxes -------------------------------------------------------------------------------------------------


def test_ready_boxes_come_in_other_orders_units_and_numbers() -> None:
    settings = {**READY_NAMES, "order": "yxyx", "units": "pixels", "first_class": 1}
    outputs = finished(((10, 20, 50, 120), 0.75, 1), ((0, 0, 100, 200), 0.5, 3))
    [answer] = detected(ready(boxes=settings), outputs)
    assert names_and_boxes(answer) == [("cat", 0, [20.0, 10.0, 120.0, 50.0]), ("cow", 2, [0.0, 0.0, 200.0, 100.0])]


def test_ready_rows_of_six() -> None:
    rows = np.array([[[20, 10, 120, 50, 0.75, 1], [0, 0, 9, 9, 0.25, 0], [0, 0, 0, 0, -1, -1]]], np.float32)
    task = detector(THINGS, [Spec("rows", "float32", (-1, -1, 6))], decoder="boxes", boxes={"units": "pixels"})
    [answer] = detected(task, {"rows": rows})
    assert names_and_boxes(answer) == [("dog", 1, [20.0, 10.0, 120.0, 50.0])]
    assert len(detected(task, {"rows": rows}, Asked({"threshold": 0.0}))[0]["predictions"]) == 2


def test_ready_boxes_are_not_suppressed_again() -> None:
    twice = finished(((0, 0, 1, 1), 0.75, 0), ((0, 0, 1, 1), 0.625, 0))
    assert len(detected(ready(), twice)[0]["predictions"]) == 2


def test_a_class_without_a_label_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of the 3 labels"):
        detected(ready(), finished(((0, 0, 1, 1), 0.75, 3)))


@pytest.mark.parametrize(
    ("labels", "outputs", "settings", "message"),
    [
        ((), READY, READY_NAMES, "labels: ready boxes need them"),
        (THINGS, READY, {}, 'boxes: name the output with "rows"'),
        (THINGS, READY, {**READY_NAMES, "rows": "detection_boxes"}, 'boxes: name the output with "rows"'),
        (THINGS, READY, {**READY_NAMES, "scores": "scores"}, "boxes.scores: the network has no output 'scores'"),
        (THINGS, READY, {**READY_NAMES, "scores": ""}, "boxes.scores: the network has 3 outputs"),
        (THINGS, READY, {**READY_NAMES, "boxes": "detection_scores"}, "not \\(images, boxes, 4\\)"),
        (THINGS, READY[:1], {}, "not \\(images, boxes, 6\\)"),
    ],
)
def test_ready_boxes_that_do_not_fit(
    labels: Sequence[str], outputs: Sequence[Spec], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detector(labels, outputs, decoder="boxes", boxes=settings)


# --- YOLO --------------------------------------------------------------------------------------------------------


def yolo(shape: tuple[int, ...] = (-1, 7, 50), labels: Sequence[str] = THINGS, **settings: Any) -> detection.Detection:
    return detector(labels, [Spec("output0", "float32", shape)], decoder="yolo", yolo=settings)


def written(*things: tuple[Box, Sequence[float]], boxes: int = 50) -> Array:
    """Rows of centre, size and columns, as YOLO writes them, filled up with zeros: (1, boxes, columns)."""
    rows = np.zeros((1, boxes, 4 + len(things[0][1])), np.float32)
    for index, ((left, top, right, bottom), columns) in enumerate(things):
        rows[0, index] = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, *columns]
    return rows


CAT: Box = (20, 10, 120, 50)
NEAR_CAT: Box = (22, 10, 122, 50)
COW: Box = (0, 0, 40, 100)
EXPECTED = [("cat", 0, list(CAT)), ("cow", 2, list(COW))]
SEEN = ((CAT, [0.75, 0.1, 0]), (NEAR_CAT, [0.7, 0.1, 0.2]), (COW, [0, 0.5, 0.625]), ((0, 0, 9, 9), [0.4, 0.4, 0.3]))


@pytest.mark.parametrize("shape", [(-1, 7, 50), (-1, 7, -1), (-1, -1, -1)])
def test_yolo_version_8(shape: tuple[int, ...]) -> None:
    rows = written(*SEEN)
    assert names_and_boxes(detected(yolo(shape), {"output0": rows.swapaxes(1, 2)})[0]) == EXPECTED


@pytest.mark.parametrize("shape", [(-1, 50, 7), (-1, -1, 7), (-1, -1, -1)])
def test_yolo_the_other_way_round(shape: tuple[int, ...]) -> None:
    assert names_and_boxes(detected(yolo(shape), {"output0": written(*SEEN)})[0]) == EXPECTED


@pytest.mark.parametrize("last", [True, False])
def test_yolo_version_5_with_objectness(last: bool) -> None:
    rows = written((CAT, [0.8, 0.9, 0.1, 0]), (COW, [0.9, 0, 0.5, 0.6]), ((0, 0, 9, 9), [0.4, 1, 0, 0]))
    task = yolo((-1, 50, 8) if last else (-1, 8, 50))
    [answer] = detected(task, {"output0": rows if last else rows.swapaxes(1, 2)})
    assert names_and_boxes(answer) == EXPECTED
    assert [p["probability"] for p in answer["predictions"]] == pytest.approx([0.72, 0.54])


def test_yolo_in_shares_of_the_input() -> None:
    rows = written(((0.1, 0.1, 0.6, 0.5), [0.75, 0, 0]))
    [answer] = detected(yolo((-1, 50, 7), units="shares"), {"output0": rows})
    [(label, _, box)] = names_and_boxes(answer)
    assert label == "cat"
    assert box == pytest.approx([20, 10, 120, 50], abs=0.01)


def test_a_request_chooses_how_much_may_overlap() -> None:
    def found(*things: tuple[Box, Sequence[float]], **options: float) -> int:
        [answer] = detected(yolo((-1, 50, 7)), {"output0": written(*things)}, Asked(options))
        return len(answer["predictions"])

    assert (found(*SEEN), found(*SEEN, iou=1.0)) == (2, 3)
    beside = (CAT, [0.75, 0, 0]), ((100.0, 10.0, 200.0, 50.0), [0.7, 0, 0])
    assert (found(*beside), found(*beside, iou=0.1)) == (2, 1)


@pytest.mark.parametrize(
    ("shape", "labels", "settings", "message"),
    [
        ((-1, 9, 50), THINGS, {}, "3 make 7 or 8 columns"),
        ((-1, 8, 50), THINGS, {"objectness": False}, "3 make 7 columns"),
        ((-1, 7, 50), THINGS, {"columns": "last"}, "3 make 7 or 8 columns"),
        ((-1, 7, 8), THINGS, {}, 'say "first" or "last"'),
        ((-1, 7), THINGS, {}, "not \\(images, columns, boxes\\)"),
        ((-1, 7, 50), (), {}, "labels: a YOLO needs them"),
        ((-1, 7, 50), THINGS, {"output": "other"}, "yolo.output: the network has no output 'other'"),
    ],
)
def test_a_yolo_that_does_not_fit(
    shape: tuple[int, ...], labels: Sequence[str], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        yolo(shape, labels, **settings)


# --- SSD ---------------------------------------------------------------------------------------------------------

SSD_SPECS = [Spec("boxes", "float32", (-1, 1917, 1, 4)), Spec("scores", "float32", (-1, 1917, 91))]
COCO = ("background", *(f"thing {number}" for number in range(1, 91)))


def test_the_anchors_are_those_of_the_model_zoo() -> None:
    """By hand from the configuration of ssd_mobilenet_v2_coco: the first cell of a few feature maps, and the last."""
    grid = ssd.anchors(ssd.Settings())
    assert grid.shape == (1917, 4)
    root = math.sqrt(2)
    first = [(0.1, 0.1), (0.2 / root, 0.2 * root), (0.2 * root, 0.2 / root)]
    assert grid[:3].tolist() == [pytest.approx([0.5 / 19, 0.5 / 19, *sizes]) for sizes in first]
    second = 19 * 19 * 3
    sizes = [(0.35, 0.35), (0.35 / root, 0.35 * root), (0.35 * root, 0.35 / root)]
    sizes += [(0.35 / math.sqrt(3), 0.35 * math.sqrt(3)), (0.35 * math.sqrt(3), 0.35 / math.sqrt(3))]
    sizes += [(math.sqrt(0.35 * 0.5),) * 2]
    assert grid[second : second + 6].tolist() == [pytest.approx([0.05, 0.05, *size], rel=1e-3) for size in sizes]
    assert grid[second + 6].tolist() == pytest.approx([0.05, 0.15, 0.35, 0.35]), "x runs faster than y"
    assert grid[-1].tolist() == pytest.approx([0.5, 0.5, math.sqrt(0.95), math.sqrt(0.95)])


def raw(*things: tuple[int, int, float, Sequence[float]]) -> dict[str, Array]:
    """Raw heads: of an anchor, a class, its logit and the offsets."""
    boxes, scores = np.zeros((1, 1917, 1, 4), np.float32), np.full((1, 1917, 91), -9, np.float32)
    for anchor, number, logit, offsets in things:
        scores[0, anchor, number] = logit
        boxes[0, anchor, 0] = offsets
    return {"boxes": boxes, "scores": scores}


def single_shot(labels: Sequence[str] = COCO, **settings: Any) -> detection.Detection:
    return detector(labels, SSD_SPECS, decoder="ssd", ssd={"boxes": "boxes", "scores": "scores", **settings})


def test_offsets_move_and_stretch_an_anchor() -> None:
    """The last anchor is centred and sqrt(0.95) wide; offsets of 10 are its whole size, of 5·ln 2 twice it."""
    side = math.sqrt(0.95)
    plain, moved = (
        raw((1916, 17, 2.0, [0, 0, 0, 0])),
        raw((1916, 17, 2.0, [-2, 1, 5 * math.log(0.5), 5 * math.log(0.25)])),
    )
    [answer] = detected(single_shot(), plain)
    [prediction] = answer["predictions"]
    assert prediction["probability"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert (prediction["label"], prediction["index"]) == ("thing 17", 17)
    expected = [200 * (0.5 - side / 2), 100 * (0.5 - side / 2), 200 * (0.5 + side / 2), 100 * (0.5 + side / 2)]
    assert prediction["box"] == pytest.approx(expected, abs=0.01)
    [answer] = detected(single_shot(), moved)
    x, y, wide, high = 0.5 + 0.1 * side, 0.5 - 0.2 * side, side / 4, side / 2
    expected = [200 * (x - wide / 2), 100 * (y - high / 2), 200 * (x + wide / 2), 100 * (y + high / 2)]
    assert answer["predictions"][0]["box"] == pytest.approx(expected, abs=0.01)


def test_an_anchor_may_show_two_things_and_the_background_is_none() -> None:
    outputs = raw((1916, 17, 2.0, [0, 0, 0, 0]), (1916, 18, 3.0, [0, 0, 0, 0]), (1916, 0, 5.0, [0, 0, 0, 0]))
    assert [p["index"] for p in detected(single_shot(), outputs)[0]["predictions"]] == [18, 17]
    assert [p["index"] for p in detected(single_shot(background=-1), outputs)[0]["predictions"]] == [0, 18, 17]


def test_labels_may_skip_the_background() -> None:
    [answer] = detected(single_shot(COCO[1:]), raw((1916, 17, 2.0, [0, 0, 0, 0]), (1916, 0, 9.0, [0, 0, 0, 0])))
    assert [(p["label"], p["index"]) for p in answer["predictions"]] == [("thing 17", 16)]


def test_softmax_over_the_background_too() -> None:
    outputs = raw((1916, 17, 5.0, [0, 0, 0, 0]), (1916, 0, 5.0, [0, 0, 0, 0]))
    [answer] = detected(single_shot(activation="softmax"), outputs, Asked({"threshold": 0.4}))
    assert [round(p["probability"], 3) for p in answer["predictions"]] == [0.5]


def test_offsets_beyond_all_measure_do_no_harm() -> None:
    [answer] = detected(single_shot(), raw((1916, 17, 2.0, [0, 0, 1e30, 1e30])))
    assert answer["predictions"][0]["box"] == [0, 0, 200, 100]


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        (COCO[:50], {}, "there are 50, but output 'scores' has 91 classes"),
        (COCO[1:], {"background": -1}, "there are 90, but output 'scores' has 91 classes"),
        (COCO, {"feature_maps": [19], "scales": [0.1, 0.2]}, "1083 anchors"),
        (COCO, {"boxes": "offsets"}, "ssd.boxes: the network has no output 'offsets'"),
        (COCO, {"boxes": ""}, "ssd.boxes: the network has 2 outputs"),
    ],
)
def test_an_ssd_that_does_not_fit(labels: Sequence[str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        single_shot(labels, **settings)


# --- outputs that make no sense ----------------------------------------------------------------------------------

NONSENSE: dict[str, tuple[detection.Detection, dict[str, Array]]] = {
    "boxes not finite": (ready(), CAT_AND_COW | {"detection_boxes": np.full((1, 4, 4), np.nan)}),
    "scores beyond 1": (ready(), CAT_AND_COW | {"detection_scores": np.full((1, 4), 7.0)}),
    "fewer scores than boxes": (ready(), CAT_AND_COW | {"detection_scores": np.zeros((1, 3))}),
    "boxes of five": (ready(), CAT_AND_COW | {"detection_boxes": np.zeros((1, 4, 5))}),
    "another batch": (ready(), CAT_AND_COW | {"detection_boxes": np.zeros((2, 4, 4))}),
    "yolo of other columns": (yolo((-1, -1, -1)), {"output0": np.zeros((1, 9, 50))}),
    "yolo of logits": (yolo((-1, 7, 50)), {"output0": np.full((1, 7, 50), -5.0)}),
    "ssd of other anchors": (single_shot(), raw() | {"boxes": np.zeros((1, 100, 1, 4))}),
    "ssd of other classes": (single_shot(), raw() | {"scores": np.zeros((1, 1917, 21))}),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_outputs_that_make_no_sense_are_refused(nonsense: str) -> None:
    task, outputs = NONSENSE[nonsense]
    with pytest.raises(ValueError, match=r"output|model gave"):
        task.answers(outputs, [Asked()])
