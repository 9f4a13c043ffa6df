"""Asynchronous jobs at a gateway: who asks about one is carried to the worker that its id names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from aiohttp import web
from multidict import CIMultiDict

from gateway.fleet import Fleet
from gateway.known_worker import Worker
from gateway.proxy import Answer, Broken, NotSent, Proxy, unless_silent
from shoal import http, logs
from shoal.errors import BadGateway, DeadlineExceeded, UnknownJob
from shoal.paths import JOB_ID

log = logging.getLogger(__name__)

_SECONDS = 10.0
_PASSED_ON = ("Content-Type", "Retry-After", "Shoal-Code", "Location")


class Jobs:
    """The handlers. ``authenticate`` checks the API key of a request."""

    def __init__(self, fleet: Fleet, proxy: Proxy, authenticate: Callable[[web.Request], str]) -> None:
        self._fleet = fleet
        self._proxy = proxy
        self._authenticate = authenticate

    def __repr__(self) -> str:
        return f"<Jobs of {self._fleet!r}>"

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/jobs/{id}", self._carry)
        app.router.add_get("/jobs/{id}/result", self._carry)
        app.router.add_delete("/jobs/{id}", self._carry)

    async def _carry(self, request: web.Request) -> web.Response:
        """Raises ``UnknownJob`` when the worker has gone, and its jobs with it; ``BadGateway`` when it is away now."""
        self._authenticate(request)
        id = JOB_ID.fullmatch(request.match_info["id"])  # nothing else may become a part of a worker's URL
        worker = self._fleet.named(id["incarnation"]) if id else None
        if worker is None:
            raise UnknownJob
        try:
            answer = await self._ask(request, worker)
        except TimeoutError:
            raise DeadlineExceeded("The worker that has the job did not answer in time.") from None
        except (NotSent, Broken) as error:
            log.warning("job not asked about", extra={"worker": worker.member.name, "error": str(error)})
            raise BadGateway("The worker that has the job does not answer now.") from error
        headers = CIMultiDict((name, answer.headers[name]) for name in _PASSED_ON if name in answer.headers)
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _ask(self, request: web.Request, worker: Worker) -> Answer:
        seconds = http.timeout_of(request, default=_SECONDS, most=_SECONDS)
        url = f"{worker.member.internal_url}{request.rel_url.raw_path}"
        headers = {http.REQUEST_ID: logs.request_id.get()}
        with worker.sending() as scope:
            async with unless_silent(scope):
                deadline = time.monotonic() + seconds
                return await self._proxy.ask(url, headers, deadline=deadline, method=request.method)
