"""Shoal's own dialect, and that of the origin systems: a picture as the body or in a form, answered with JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from shoal import http
from shoal.errors import WrongTask
from shoal.wire import ModelCard
from worker.asking import Wanted
from worker.dialects import Received, Target
from worker.prediction_document import prediction_document
from worker.receiving import Receiver
from worker.submissions import Answered
from worker.timings import Timings

__all__ = ["PAIRS", "WHOLE"]

_NO_BOXES = "Only the predictions of a model that finds boxes can be drawn."


class _Native:
    """What both shapes of answers have in common."""

    takes_urls = True

    def target(self, request: web.Request) -> Target:
        return Target(request.query.get("model") or None, request.query.get("version"))

    async def receive(self, request: web.Request, wanted: Wanted, receiver: Receiver, timings: Timings) -> Received:
        return Received(await receiver.receive(request, wanted, timings), wanted)


class Whole(_Native):
    """``POST /predict``: a document, or the picture with its boxes."""

    def renders(self, request: web.Request, card: ModelCard) -> bool:
        wanted = _wants_a_picture(request)
        if wanted and not card.boxes:
            raise WrongTask(_NO_BOXES)
        return wanted

    def response(
        self, answers: Sequence[Answered], wanted: Wanted, timings: Timings, headers: Mapping[str, str], *, worker: str
    ) -> web.Response:
        return http.json_response(prediction_document(answers, wanted.about(worker), timings.stages), headers=headers)


class Pairs(_Native):
    """``POST /``: the second origin system's lists of [label, score], of classifiers."""

    def renders(self, request: web.Request, card: ModelCard) -> bool:
        if card.task != "classification":
            raise WrongTask
        if _wants_a_picture(request):
            raise WrongTask(_NO_BOXES)
        return False

    def response(
        self, answers: Sequence[Answered], wanted: Wanted, timings: Timings, headers: Mapping[str, str], *, worker: str
    ) -> web.Response:
        lists = [_pairs(answered.reply.answer or {}) for answered in answers]
        return http.json_response(lists if len(lists) > 1 else lists[0], headers=headers)


WHOLE, PAIRS = Whole(), Pairs()


def _wants_a_picture(request: web.Request) -> bool:
    said = http.switch(request, "render")
    return http.prefers(request, "image/jpeg") if said is None else said


def _pairs(answer: dict[str, Any]) -> list[list[Any]]:
    return [[p["label"], p["probability"]] for p in answer["predictions"]]
