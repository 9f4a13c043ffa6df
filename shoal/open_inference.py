"""What a gateway and a worker say alike when they are asked as servers of the Open Inference Protocol are."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from shoal import http
from shoal.errors import InvalidRequest
from shoal.paths import MODEL, VERSION
from shoal.version import VERSION as SHOAL_VERSION
from shoal.wire import Status

__all__ = [
    "INDEX",
    "LIVE",
    "LOADING",
    "METADATA",
    "MODELS",
    "READY",
    "READY_MODEL",
    "SERVER",
    "STATISTICS",
    "add_routes",
    "entry",
    "model_ready",
    "refuse_loading",
    "server",
    "wants_ready_only",
]

SERVER = "/v2"
LIVE, READY = "/v2/health/live", "/v2/health/ready"
MODELS = "/v2/models"
METADATA = (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/{VERSION}")
READY_MODEL = tuple(f"{path}/ready" for path in METADATA)
STATISTICS = ("/v2/models/stats", *(f"{path}/stats" for path in METADATA))
"""The first is of all models, and goes before any that a model is named in."""
INDEX = "/v2/repository/index"
LOADING = tuple(f"/v2/repository/models/{MODEL}/{verb}" for verb in ("load", "unload"))

_EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "schedule_policy", "statistics")
_STATES: dict[Status, str] = {"ready": "READY", "loading": "LOADING", "restarting": "LOADING"}
_LONGEST_BODY = 64 * 1024
_UPLOAD_SECONDS = 10.0


def add_routes(
    app: web.Application,
    *,
    server: http.Handler,
    live: http.Handler,
    ready: http.Handler,
    models: http.Handler,
    index: http.Handler,
    statistics: http.Handler,
    metadata: http.Handler,
    model_ready: http.Handler,
    load: http.Handler,
) -> None:
    """Every question of the protocol, and who answers it."""
    asked = {SERVER: server, LIVE: live, READY: ready, MODELS: models}
    for paths, handler in ((STATISTICS, statistics), (METADATA, metadata), (READY_MODEL, model_ready)):
        asked |= dict.fromkeys(paths, handler)
    for path, handler in asked.items():
        app.router.add_get(path, handler)
    for path, handler in {INDEX: index, **dict.fromkeys(LOADING, load)}.items():
        app.router.add_post(path, handler)


class _IndexRequest(msgspec.Struct):
    ready: bool = False


def server() -> dict[str, Any]:
    return {"name": "shoal", "version": SHOAL_VERSION, "extensions": list(_EXTENSIONS)}


def model_ready(model: str) -> dict[str, Any]:
    return {"name": model, "ready": True}


def entry(key: str, status: Status | None, reason: str) -> dict[str, Any]:
    """A model version in the repository's index. One that nobody has, has no ``status``."""
    model, _, version = key.rpartition("@")
    state = _STATES.get(status, "UNAVAILABLE") if status else "UNAVAILABLE"
    return {"name": model, "version": version, "state": state, "reason": "" if state == "READY" else reason or status}


async def wants_ready_only(request: web.Request) -> bool:
    """Whether an index of the ready versions is asked for. Raises ``InvalidRequest``."""
    body = await http.read_body(request, _LONGEST_BODY, _UPLOAD_SECONDS)
    try:
        return msgspec.json.decode(body, type=_IndexRequest).ready if body else False
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The request is not one for a repository's index: {error}.") from error


async def refuse_loading(request: web.Request) -> web.Response:
    """Raises ``InvalidRequest``: nobody loads a model from here."""
    raise InvalidRequest("Models are not loaded or unloaded by request: publish them with 'shoal models'.")
