"""What an operator may do at a gateway with an admin key: have a worker drained."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus

from aiohttp import web

from gateway.fleet import Fleet
from gateway.proxy import Broken, NotSent, Proxy
from shoal import http, logs
from shoal.documents import Drained
from shoal.errors import BadGateway, NotAllowed, ShoalError, UnknownWorker
from shoal.keys import Holder
from shoal.tickets import Signer

log = logging.getLogger(__name__)

_ORDER_SECONDS = 15.0
_ANSWER_SECONDS = 5.0


async def drain(request: web.Request, holder: Holder, *, fleet: Fleet, proxy: Proxy, signer: Signer) -> web.Response:
    """Tell a worker to drain, as SIGTERM does. Raises ``NotAllowed``, ``UnknownWorker``, or what the worker says."""
    if not holder.is_admin:
        raise NotAllowed
    worker = fleet.named(request.match_info["incarnation"])
    if worker is None:
        raise UnknownWorker
    order = signer.sign_order("drain", audience=worker.incarnation, subject=holder.name, lifetime=_ORDER_SECONDS)
    headers = {"Authorization": f"Bearer {order}", http.REQUEST_ID: logs.request_id.get()}
    url = f"{worker.member.internal_url}/drain"
    try:
        answer = await proxy.send(url, b"", headers, deadline=time.monotonic() + _ANSWER_SECONDS)
    except (NotSent, Broken, TimeoutError) as error:
        raise BadGateway("The worker was not reached.") from error
    if answer.status != HTTPStatus.ACCEPTED:
        raise _refusal(answer.status, answer.headers.get("Shoal-Code", ""))
    log.warning("drain", extra={"worker": worker.member.name, "subject": holder.name})
    return http.json_response(Drained(worker.member.name, True), status=HTTPStatus.ACCEPTED)


def _refusal(status: int, code: str) -> ShoalError:
    return BadGateway(f"The worker refused to drain: HTTP {status} {code}.")
