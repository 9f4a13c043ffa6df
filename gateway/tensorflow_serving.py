"""What a client of TensorFlow Serving asks beside predictions, as a gateway answers it."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from aiohttp import web

from gateway.fleet import Fleet
from gateway.inquiries import Inquiries, version_states, wish_of
from shoal import http, tensorflow_serving
from shoal.errors import NoWorker, UnknownModel

__all__ = ["TensorFlowServing"]


class TensorFlowServing:
    """The handlers. What the fleet knows is answered from it; a worker is asked for the rest."""

    def __init__(self, fleet: Fleet, inquiries: Inquiries, authenticate: Callable[[web.Request], str]) -> None:
        self._fleet = fleet
        self._inquiries = inquiries
        self._authenticate = authenticate

    def add_to(self, app: web.Application) -> None:
        tensorflow_serving.add_routes(
            app, models=self._models, status=self._status, metadata=self._metadata, refuse=self._refuse
        )

    async def _models(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        return http.json_response(tensorflow_serving.models(state.model for state in version_states(self._fleet)))

    async def _status(self, request: web.Request) -> web.Response:
        """Of each version the best that a worker says of it.

        Raises ``UnknownModel``, ``UnknownLabel``, or ``NoWorker`` while no model is known at all.
        """
        self._authenticate(request)
        wish = self._fleet.labelled(wish_of(request))
        known = version_states(self._fleet)
        wanted = [state for state in known if state.model == wish.model and wish.version in (None, state.version)]
        if not known:
            raise NoWorker
        if not wanted:
            raise UnknownModel(f"There is no model {wish.model!r}, or not in this version.")
        versions = [(state.version, state.status, state.reason) for state in wanted]
        return http.json_response(tensorflow_serving.model_status(wish.model, versions))

    async def _metadata(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        wish = wish_of(request)
        path = f"/v1/models/{quote(wish.model, safe='')}/versions/{{version}}/metadata"
        return http.json_response(await self._inquiries.ask_one(wish, path))

    async def _refuse(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        return await tensorflow_serving.refuse(request)
