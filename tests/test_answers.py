"""What the SDK makes of an answer, and how the command line shows it."""

from __future__ import annotations

from typing import Any

import pytest

from shoal import cli
from shoal.answers import Answer, Outcome, Prediction
from shoal.errors import BadGateway

HEAD = {"success": True, "model": "m", "version": "1", "worker": "w", "request_id": "r"}
CAT = {"label": "cat", "index": 17, "probability": 0.9312}
CAT_THERE = {**CAT, "box": [12.25, 30, 212.3, 210.4]}
DOG_THERE = {"label": "dog", "index": 18, "probability": 0.5, "box": [0.0, 0.0, 9.0, 5.0]}


def answer(**document: Any) -> Answer:
    return Answer.of(HEAD | document, "direct")


def test_a_prediction_has_a_box_when_the_model_tells() -> None:
    assert answer(predictions=[CAT]).predictions == (Prediction("cat", 17, 0.9312),)
    assert answer(predictions=[CAT_THERE]).predictions == (Prediction("cat", 17, 0.9312, (12.25, 30.0, 212.3, 210.4)),)


SUMMARIES: dict[str, tuple[dict[str, Any], str]] = {
    "classes": ({"predictions": [CAT, DOG_THERE | {"box": None}]}, "cat 0.931, dog 0.500"),
    "boxes": ({"predictions": [CAT_THERE, DOG_THERE]}, "cat 0.93 at 12,30 200x180; dog 0.50 at 0,0 9x5"),
    "nothing": ({"predictions": []}, "nothing found"),
    "an embedding": ({"embedding": [0.5] * 7}, "7 floats: 0.5000 0.5000 0.5000 0.5000 0.5000 ..."),
    "tensors": ({"outputs": {"mask": {"dtype": "uint8", "shape": [2, 2], "data": []}}}, "mask uint8 [2, 2]"),
    "anything else": ({}, "answered"),
}


@pytest.mark.parametrize("kind", SUMMARIES)
def test_the_command_line_says_it_in_a_line(kind: str) -> None:
    document, summary = SUMMARIES[kind]
    line = cli._line("a.jpg", Outcome(0, "a.jpg", answer(**document)), as_json=False)
    assert line == f"a.jpg: {summary}   (direct, w)"


@pytest.mark.parametrize(
    "broken",
    [
        {"predictions": [CAT | {"box": [1, 2, 3]}]},
        {"predictions": [CAT | {"box": "left"}]},
        {"predictions": [CAT | {"box": 5}]},
        {"predictions": [{"label": "cat"}]},
        {"predictions": ["cat"]},
        {"predictions": 5},
    ],
)
def test_what_is_no_answer_is_the_gateways_fault(broken: dict[str, Any]) -> None:
    with pytest.raises(BadGateway, match="not one of Shoal's"):
        answer(**broken)
