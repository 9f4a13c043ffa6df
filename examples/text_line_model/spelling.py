"""Makes text of what the network gives at each step from left to right: a character, and how sure it is of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

BLANK = 0
CHARACTERS = ["", *Path(__file__).with_name("characters.txt").read_text(encoding="utf-8").split("\n"), " "]


def in_letters(answers: list[dict[str, Any]], asked: Sequence[Any]) -> list[dict[str, Any]]:
    """``{"text", "confidence"}`` for each picture."""
    return [_read(answer["outputs"]) for answer in answers]


def _read(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """One character for each run of equal numbers, and none for a blank: connectionist temporal classification."""
    steps = outputs["character"]["data"]
    starts = [here for here, (before, number) in enumerate(pairwise([BLANK, *steps])) if number not in (BLANK, before)]
    sure = [outputs["probability"]["data"][here] for here in starts]
    return {
        "text": "".join(CHARACTERS[steps[here]] for here in starts).strip(),
        "confidence": round(sum(sure) / len(sure), 3) if sure else 0.0,
    }
