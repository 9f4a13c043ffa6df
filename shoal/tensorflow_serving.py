"""What a gateway and a worker say alike when they are asked as TensorFlow Serving, or KServe's first protocol, is.

https://www.tensorflow.org/tfx/serving/api_rest. Both protocols have the path of a model: one document answers both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from shoal import http
from shoal.errors import InvalidRequest
from shoal.paths import TENSORFLOW_SERVING
from shoal.publication import order
from shoal.wire import Status

__all__ = ["METADATA", "MODELS", "REFUSED", "STATUS", "add_routes", "model_status", "models", "refuse"]

MODELS = "/v1/models"
STATUS = TENSORFLOW_SERVING
METADATA = tuple(f"{path}/metadata" for path in STATUS)
REFUSED = tuple(f"{path}:{verb}" for path in STATUS for verb in ("classify", "regress", "explain"))

_STATES: Mapping[Status, str] = {
    "loading": "LOADING",
    "ready": "AVAILABLE",
    "stalled": "AVAILABLE",
    "restarting": "LOADING",
    "stopping": "UNLOADING",
    "failed": "END",
}


def add_routes(
    app: web.Application, *, models: http.Handler, status: http.Handler, metadata: http.Handler, refuse: http.Handler
) -> None:
    """Every question beside predictions, and who answers it."""
    for path, handler in {MODELS: models, **dict.fromkeys(STATUS, status), **dict.fromkeys(METADATA, metadata)}.items():
        app.router.add_get(path, handler)
    for path in REFUSED:
        app.router.add_post(path, refuse)


def models(names: Iterable[str]) -> dict[str, Any]:
    return {"models": sorted(set(names))}


def model_status(model: str, versions: Iterable[tuple[str, Status | None, str]]) -> dict[str, Any]:
    """The state of versions: number, status (None where nobody has it yet) and reason; the highest first.

    ``name`` and ``ready`` are KServe's.
    """
    known = sorted(versions, key=lambda said: order(said[0]), reverse=True)
    return {
        "name": model,
        "ready": any(status == "ready" for _, status, _ in known),
        "model_version_status": [_version(*said) for said in known],
    }


def _version(version: str, status: Status | None, reason: str) -> dict[str, Any]:
    error = {"error_code": "OK", "error_message": ""}
    if status == "failed":
        error = {"error_code": "INTERNAL", "error_message": reason}
    return {"version": version, "state": _STATES.get(status, "START") if status else "START", "status": error}


async def refuse(request: web.Request) -> web.Response:
    """Raises ``InvalidRequest`` for a verb that is not there."""
    verb = request.path.rpartition(":")[2]
    raise InvalidRequest(f"There is no :{verb} here: models answer :predict.")
