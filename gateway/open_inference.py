"""What a client of the Open Inference Protocol asks before and after it infers, as a gateway answers it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web

from gateway.fleet import Fleet
from gateway.inquiries import Inquiries, version_states, wish_of
from shoal import http, open_inference
from shoal.errors import Draining, NotReady, NoWorker, UnknownModel

__all__ = ["OpenInference", "added"]

_LATEST = "last_inference"
_NAMES = ("name", "version", "batch_size")


class OpenInference:
    """The handlers. What the fleet knows is answered from it; a worker is asked for the rest."""

    def __init__(
        self,
        fleet: Fleet,
        inquiries: Inquiries,
        authenticate: Callable[[web.Request], str],
        is_draining: Callable[[], bool],
    ) -> None:
        self._fleet = fleet
        self._inquiries = inquiries
        self._authenticate = authenticate
        self._is_draining = is_draining

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
        self._authenticate(request)
        return http.json_response(open_inference.server())

    async def _live(self, request: web.Request) -> web.Response:
        return http.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        """200 while a model version is ready somewhere and the gateway is not draining."""
        if self._is_draining():
            raise Draining("This gateway is draining.")
        if not any(state.status == "ready" for state in version_states(self._fleet)):
            raise NoWorker
        return http.json_response({"ready": True})

    async def _models(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        names = dict.fromkeys(state.model for state in version_states(self._fleet))
        return http.json_response({"models": list(names)})

    async def _index(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        ready_only = await open_inference.wants_ready_only(request)
        states = version_states(self._fleet)
        entries = [open_inference.entry(state.key, state.status, state.reason) for state in states]
        return http.json_response([one for one in entries if not ready_only or one["state"] == "READY"])

    async def _load(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        return await open_inference.refuse_loading(request)

    async def _model_ready(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        wish = wish_of(request)
        self._fleet.serving(wish)
        states = version_states(self._fleet, wish.model)
        if not any(state.status == "ready" and wish.version in (None, state.version) for state in states):
            raise NotReady
        return http.json_response(open_inference.model_ready(wish.model))

    async def _metadata(self, request: web.Request) -> web.Response:
        """What a worker says of the version; the versions are those that are ready anywhere."""
        self._authenticate(request)
        wish = wish_of(request)
        path = f"/v2/models/{quote(wish.model, safe='')}/versions/{{version}}"
        document = await self._inquiries.ask_one(wish, path)
        states = version_states(self._fleet, wish.model)
        return http.json_response({**document, "versions": [s.version for s in states if s.status == "ready"]})

    async def _statistics(self, request: web.Request) -> web.Response:
        """Sums over all workers."""
        self._authenticate(request)
        if "model" not in request.match_info:
            return http.json_response({"model_stats": added(await self._inquiries.ask_all("/v2/models/stats"))})
        wish = wish_of(request)
        if not any(wish.version in (None, state.version) for state in version_states(self._fleet, wish.model)):
            raise UnknownModel(f"There is no model {wish.model!r} with such a version.")
        path = request.rel_url.raw_path
        return http.json_response({"model_stats": added(await self._inquiries.ask_all(path, wish.model, wish.version))})


def added(documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The statistics of several workers as one: counts and times are summed, and the latest instant counts."""
    entries: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for document in documents:
        for entry in document["model_stats"]:
            entries[entry["name"], entry["version"]].append(entry)
    return [_sum(parts) for _, parts in sorted(entries.items())]


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [part[name] for part in parts if name in part]
        if name in _NAMES:
            total[name] = values[0]
        elif name == _LATEST:
            total[name] = max(values)
        elif isinstance(values[0], list):
            total[name] = _by_size([one for value in values for one in value])
        else:
            total[name] = _sum(values) if isinstance(values[0], dict) else sum(values)
    return total


def _by_size(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sizes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for batch in batches:
        sizes[batch["batch_size"]].append(batch)
    return [_sum(parts) for _, parts in sorted(sizes.items())]
