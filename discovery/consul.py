"""``consul://``: discovery by Consul, through py-consul, which only this file imports.

A member registers on the local agent, which checks its readiness; watches are blocking queries for the
passing ones. Consul's absence costs nothing but news: watches keep their last snapshot, memberships register
again when it is back, even when it is back empty.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
import consul
import consul.base

from discovery.backend import DiscoveryRefused, DiscoveryUnavailable
from discovery.background import Reachability, background, repeat
from discovery.blocking_query import PAUSE, WAIT, advance, rest
from discovery.consul_values import ConsulValues
from discovery.latest import Latest
from discovery.member import Member, Role
from discovery.registration import CheckTerms, check_id, definition, holds, member_from, service_id, service_name

REQUEST_TIMEOUT = 10.0  # without a leader, Consul holds a request for 7 s before it says so
LEAVE_TIMEOUT = 2.0
RECONCILE = 2.0

log = logging.getLogger(__name__)

_EMPTY_HINT = (
    "no %s passes in Consul: right if none is ready, but it is also what a token without service:read and "
    "node:read sees"
)


@dataclass(frozen=True)
class ConsulAgent:
    """Where the local agent is and how to speak to it. ``ca``, ``cert`` and ``key`` are files (PEM)."""

    host: str = "127.0.0.1"
    port: int = 8500
    scheme: str = "http"
    dc: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __repr__(self) -> str:
        return f"<ConsulAgent {self.url}>"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | bool:
        if self.scheme != "https":
            return True
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert:
            context.load_cert_chain(self.cert, self.key)
        return context


class _HTTP(consul.base.HTTPClient):  # type: ignore[misc]
    """py-consul's transport over our session: its own cannot be made without a DeprecationWarning."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self.base_uri = session, url

    async def _request(self, method: str, callback: Any, path: str, params: Any, data: str | bytes = "") -> Any:
        blocks = any(name == "index" for name, _ in params or ())
        total = REQUEST_TIMEOUT + (WAIT * 17 / 16 if blocks else 0)
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=5)
        async with self._session.request(
            method, self.uri(path, params), data=data or None, timeout=timeout, allow_redirects=False
        ) as response:
            body = await response.text(encoding="utf-8", errors="replace")
            return callback(consul.base.Response(response.status, response.headers, body))

    def get(self, callback: Any, path: str, params: Any = None, **_: Any) -> Awaitable[Any]:
        return self._request("GET", callback, path, params)

    def put(self, callback: Any, path: str, params: Any = None, data: str | bytes = "", **_: Any) -> Awaitable[Any]:
        return self._request("PUT", callback, path, params, data)

    def post(self, callback: Any, path: str, params: Any = None, data: str | bytes = "", **_: Any) -> Awaitable[Any]:
        return self._request("POST", callback, path, params, data)

    def delete(self, callback: Any, path: str, params: Any = None, data: str | bytes = "", **_: Any) -> Awaitable[Any]:
        return self._request("DELETE", callback, path, params, data)

    def close(self) -> None:
        """The session belongs to ``connect_consul``."""


class _Client(consul.base.Consul):  # type: ignore[misc]
    """py-consul's methods. The token is the session's: some of them send none, or the environment's."""

    def __init__(self, session: aiohttp.ClientSession, agent: ConsulAgent) -> None:
        self._http = _HTTP(session, agent.url)
        super().__init__(agent.host, agent.port, scheme=agent.scheme, dc=agent.dc, verify=True)
        self.token = None

    def http_connect(self, *_: Any, **__: Any) -> _HTTP:
        return self._http


@asynccontextmanager
async def connect_consul(
    agent: ConsulAgent,
    *,
    token: str | None = None,
    service_prefix: str = "shoal",
    check: CheckTerms = CheckTerms(),  # noqa: B008 - frozen
    snapshot_timeout: float | None = None,
) -> AsyncIterator[ConsulDiscovery]:
    connector = aiohttp.TCPConnector(limit=0, ssl=agent.ssl_context())
    headers = {"X-Consul-Token": token.strip()} if token else {}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        client = _Client(session, agent)
        yield ConsulDiscovery(client, agent.url, service_prefix, check, snapshot_timeout)


class ConsulDiscovery(ConsulValues):
    """Membership, watches and values at one agent, as long as the context of ``connect_consul`` is open."""

    def __init__(self, client: Any, url: str, prefix: str, check: CheckTerms, snapshot_timeout: float | None) -> None:
        super().__init__(client, partial(_translated, url), prefix)
        self._client, self._url, self._prefix = client, url, prefix
        self._check, self._snapshot_timeout = check, snapshot_timeout

    def __repr__(self) -> str:
        return f"<ConsulDiscovery {self._prefix} at {self._url}>"

    @asynccontextmanager
    async def membership(self, member: Member) -> AsyncIterator[ConsulMembership]:
        membership = ConsulMembership(self._client, self._url, self._prefix, self._check, member)
        reachability = Reachability(f"registering {member.name}", log)
        loop = repeat(membership.reconcile, every=RECONCILE, reachability=reachability, wake=membership.stale)
        async with background(loop, f"membership {member.name}"):
            try:
                yield membership
            finally:
                await membership.leave()

    @asynccontextmanager
    async def watch(self, role: Role) -> AsyncIterator[Latest]:
        latest = Latest(role)
        query = _Query(self._client, self._url, service_name(self._prefix, role))
        reachability = Reachability(f"watching the {role}s", log)

        async def follow() -> None:
            latest.publish(await query.next())
            await query.hint_if_empty(len(latest.directory))
            await asyncio.sleep(rest(len(latest.directory)))

        loop = repeat(follow, every=PAUSE, reachability=reachability)
        async with background(loop, f"watch {role}"):
            await latest.first(self._snapshot_timeout, reachability)
            yield latest


class ConsulMembership:
    """One service at the local agent, put back by the reconcile loop whenever it is missing or differs."""

    def __init__(self, client: Any, url: str, prefix: str, check: CheckTerms, member: Member) -> None:
        self._client, self._url, self._prefix, self._check = client, url, prefix, check
        self._member, self._left = member, False
        self._registered: dict[str, Any] | None = None
        self._one_at_a_time = asyncio.Lock()
        self.stale = asyncio.Event()

    def __repr__(self) -> str:
        return f"<ConsulMembership {service_id(self._prefix, self._member)} at {self._url}>"

    async def update(self, member: Member) -> None:
        self._member = member
        self.stale.set()

    async def reconcile(self) -> None:
        async with self._one_at_a_time:
            if self._left:
                return
            wanted = definition(self._prefix, self._member, self._check)
            with _translated(self._url):
                if await self._is_held(wanted):
                    self._registered = wanted
                    return
                if wanted == self._registered:
                    log.warning("%r is missing or changed by others: registered again", self)
                await self._client.agent.service.register(**wanted, replace_existing_checks=True)
            self._registered = wanted

    async def _is_held(self, wanted: Mapping[str, Any]) -> bool:
        """Without its check a service would pass for ever, so that is looked for too."""
        if not holds(await self._service(), wanted):
            return False
        own = check_id(self._prefix, self._member)
        checks = await self._client.agent.checks(filter_expr=f'CheckID == "{own}"')
        return own in (checks or {})

    async def _service(self) -> Mapping[str, Any] | None:
        own = service_id(self._prefix, self._member)
        services = await self._client.agent.services(filter_expr=f'ID == "{own}"')
        service: Mapping[str, Any] | None = (services or {}).get(own)
        return service

    async def leave(self) -> None:
        """Deregister, unless a successor of the same name is registered by now. Consul away is no reason to stay."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT), self._one_at_a_time:
                self._left = True
                with _translated(self._url):
                    service = await self._service()
                    if service and (service.get("Meta") or {}).get("incarnation") == self._member.incarnation:
                        await self._client.agent.service.deregister(service_id(self._prefix, self._member))
        except (DiscoveryUnavailable, TimeoutError) as error:
            log.warning("%r not deregistered, its check will tell: %s", self, error or "no answer")


class _Query:
    """The blocking query for the passing instances of one service."""

    def __init__(self, client: Any, url: str, service: str) -> None:
        self._client, self._url, self._service = client, url, service
        self._index, self._hinted = 0, False
        self._strange: set[str] = set()
        self._known: dict[str, tuple[Any, Member]] = {}  # of each service the Meta that its member was made of

    def __repr__(self) -> str:
        return f"<_Query {self._service}, index {self._index}>"

    async def next(self) -> list[Member]:
        """The members now, or as soon as something changes. After an error the next answer is immediate."""
        last, self._index = self._index, 0
        with _translated(self._url):
            index, entries = await self._client.health.service(self._service, index=last, wait=f"{WAIT}s", passing=True)
        self._index = advance(last, index)
        return self._members(entries or [])

    def _members(self, entries: list[Mapping[str, Any]]) -> list[Member]:
        """Those of services that are as before are not made again: each change comes with the whole list."""
        known, strange = {}, set()
        for service in (entry["Service"] for entry in entries):
            id, meta = service["ID"], service.get("Meta")
            before = self._known.get(id)
            try:
                known[id] = before if before and before[0] == meta else (meta, member_from(service))
            except ValueError as error:
                strange.add(service["ID"])
                if service["ID"] not in self._strange:
                    log.warning("ignored %r among Consul's %s: %s", service["ID"], self._service, error)
        self._strange, self._known = strange, known
        return [member for _, member in known.values()]

    async def hint_if_empty(self, count: int) -> None:
        """With ACLs, a token that may not read sees an empty fleet and no error."""
        self._hinted = self._hinted or count > 0  # who has seen one may read
        if self._hinted:
            return
        self._hinted = True
        try:
            with _translated(self._url):
                await self._client.acl.token.read("self")
        except DiscoveryRefused as error:
            if not isinstance(error.__cause__, consul.ACLDisabled):
                log.warning(_EMPTY_HINT, self._service)
        except DiscoveryUnavailable:
            self._hinted = False
        else:
            log.warning(_EMPTY_HINT, self._service)


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """The door: no error of py-consul or aiohttp leaves this file."""
    try:
        yield
    except (consul.ACLPermissionDenied, consul.ACLDisabled) as error:
        raise DiscoveryRefused(f"Consul at {url} refuses: {error}; check the token and its policies") from error
    except (consul.ConsulException, aiohttp.ClientError, OSError, ValueError) as error:
        raise DiscoveryUnavailable(f"Consul at {url}: {error or type(error).__name__}") from error
