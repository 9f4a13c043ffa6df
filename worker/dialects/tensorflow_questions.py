"""What a client of TensorFlow Serving asks beside predictions, as a worker answers it."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from shoal import http, tensorflow_serving
from shoal.wire import ModelCard, TensorSpec
from worker.dialects.tensorflow_serving import SIGNATURE
from worker.questions import Questions

__all__ = ["TensorFlowQuestions", "metadata"]

_TYPES = {
    "bool": "DT_BOOL",
    "float16": "DT_HALF",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "int8": "DT_INT8",
    "int16": "DT_INT16",
    "int32": "DT_INT32",
    "int64": "DT_INT64",
    "uint8": "DT_UINT8",
    "uint16": "DT_UINT16",
    "uint32": "DT_UINT32",
    "uint64": "DT_UINT64",
}


class TensorFlowQuestions:
    """The handlers."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def add_to(self, app: web.Application) -> None:
        tensorflow_serving.add_routes(
            app, models=self._models, status=self._status, metadata=self._metadata, refuse=self._refuse
        )

    async def _models(self, request: web.Request) -> web.Response:
        names = (key.rpartition("@")[0] for key in self._questions.all(request))
        return http.json_response(tensorflow_serving.models(names))

    async def _status(self, request: web.Request) -> web.Response:
        states = self._questions.versions(request)
        versions = [(key.rpartition("@")[2], state.status, state.reason) for key, state in states.items()]
        return http.json_response(tensorflow_serving.model_status(request.match_info["model"], versions))

    async def _metadata(self, request: web.Request) -> web.Response:
        _, card = self._questions.card(request)
        return http.json_response(metadata(card))

    async def _refuse(self, request: web.Request) -> web.Response:
        self._questions.permit(request)
        return await tensorflow_serving.refuse(request)


def metadata(card: ModelCard) -> dict[str, Any]:
    """The one signature. Its input is the network's own where it has one, and else an image as pixels."""
    taken = card.tensor or TensorSpec(card.input.name, "uint8", card.input.shape)
    signature = {
        "inputs": {taken.name: _described(taken)},
        "outputs": {spec.name: _described(spec) for spec in card.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": card.model, "signature_name": "", "version": card.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    """An array with its batch, as a ``TensorInfo``."""
    sides = [{"size": str(side), "name": ""} for side in (-1, *spec.shape)]
    return {
        "name": spec.name,
        "dtype": _TYPES.get(spec.dtype, "DT_STRING"),
        "tensor_shape": {"dim": sides, "unknown_rank": False},
    }
