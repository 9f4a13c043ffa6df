"""What a client of the Open Inference Protocol asks before and after it infers, as a worker answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from shoal import http, metrics, open_inference
from shoal.errors import NotReady
from shoal.wire import ModelCard, TensorSpec
from worker.dialects import arrays
from worker.dialects.inference_statistics import Statistics
from worker.questions import Questions

__all__ = ["OpenInferenceQuestions"]


class OpenInferenceQuestions:
    """The handlers. ``live`` and ``ready`` are the node's own."""

    def __init__(
        self, questions: Questions, front_metrics: metrics.FrontMetrics, *, live: http.Handler, ready: http.Handler
    ) -> None:
        self._questions = questions
        self._metrics = front_metrics
        self._live = live
        self._ready = ready

    def add_to(self, app: web.Application) -> None:
        open_inference.add_routes(
            app,
            server=self._server,
            live=self._live,
            ready=self._ready,
            models=self._models,
            index=self._index,
            statistics=self._statistics,
            metadata=self._metadata,
            model_ready=self._model_ready,
            load=self._load,
        )

    async def _server(self, request: web.Request) -> web.Response:
        self._questions.permit(request)
        return http.json_response(open_inference.server())

    async def _models(self, request: web.Request) -> web.Response:
        return http.json_response({"models": _names(self._questions.all(request))})

    async def _index(self, request: web.Request) -> web.Response:
        """Every model version of the node, or those that are ready."""
        states = self._questions.all(request)
        entries = [open_inference.entry(key, state.status, state.reason) for key, state in states.items()]
        ready_only = await open_inference.wants_ready_only(request)
        return http.json_response([one for one in entries if not ready_only or one["state"] == "READY"])

    async def _load(self, request: web.Request) -> web.Response:
        self._questions.permit(request)
        return await open_inference.refuse_loading(request)

    async def _metadata(self, request: web.Request) -> web.Response:
        _, card = self._questions.card(request)
        ready = [key for key, state in self._questions.all(request).items() if state.status == "ready"]
        return http.json_response(metadata(card, [key.rpartition("@")[2] for key in ready if _is_of(key, card)]))

    async def _model_ready(self, request: web.Request) -> web.Response:
        """200 when it is ready. Raises ``NotReady``."""
        state, card = self._questions.card(request)
        if state.status != "ready":
            raise NotReady(f"The model {card.key} is {state.status}.")
        return http.json_response(open_inference.model_ready(card.model))

    async def _statistics(self, request: web.Request) -> web.Response:
        """What the whole node has counted of a model version, of all those of a model, or of all models."""
        named = "model" in request.match_info
        states = self._questions.versions(request) if named else self._questions.all(request)
        statistics = Statistics(await asyncio.to_thread(metrics.samples, self._metrics.registry))
        return http.json_response({"model_stats": [statistics.of(key) for key in states]})


def metadata(card: ModelCard, versions: Iterable[str]) -> dict[str, Any]:
    """The input is the network's own where it has one that clients may send, and else an image as an array."""
    own = _described(card.tensor) if card.tensor else None
    image = TensorSpec(card.input.name, "uint8", card.input.shape)
    return {
        "name": card.model,
        "versions": list(versions),
        "platform": card.platform or "shoal",
        "inputs": [own or _described(image)],
        "outputs": [about for spec in card.outputs if (about := _described(spec))],
    }


def _described(spec: TensorSpec) -> dict[str, Any] | None:
    """The array with its batch; None for one that has no name in the protocol."""
    try:
        datatype = arrays.datatype_of(spec.dtype)
    except ValueError:
        return None
    return {"name": spec.name, "datatype": datatype, "shape": [-1, *spec.shape]}


def _names(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.rpartition("@")[0] for key in keys))


def _is_of(key: str, card: ModelCard) -> bool:
    return key.rpartition("@")[0] == card.model
