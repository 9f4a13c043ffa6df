"""Webhooks: where they may go, how they are signed (Standard Webhooks 1.0), and one attempt to send one.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout

from shoal.errors import InvalidUrl, ShoalError, UrlDisabled, UrlNotAllowed
from worker.fetching import Addresses, Resolve, checked_url, guarded, resolve

_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)
_RESOLVE_SECONDS = 2.0  # the connection resolves again, and checks again


class InvalidSecret(ValueError):
    """The file of secrets has none, or a line that is none."""


def secrets_in(text: str) -> list[bytes]:
    """The secrets of a file, one a line. Raises ``InvalidSecret``."""
    secrets = []
    for number, line in enumerate(text.split(), start=1):
        try:
            secret = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            secret = b""
        if not line.startswith(_PREFIX) or len(secret) not in _SECRET_BYTES:
            raise InvalidSecret(f"secret {number} is not {_PREFIX} and 24 to 64 bytes as base64")
        secrets.append(secret)
    if not secrets:
        raise InvalidSecret("there is no secret")
    return secrets


def signature(secrets: Sequence[bytes], name: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature``: one signature for each secret, so that one can replace another."""
    signed = f"{name}.{timestamp}.".encode() + body
    macs = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs)


class Destinations:
    """Where webhooks may go: to ``hosts``, at public addresses or in ``networks``."""

    def __init__(self, hosts: Sequence[str], networks: Sequence[str], resolve: Resolve = resolve) -> None:
        self._hosts = hosts
        self.addresses = Addresses([ip_network(network) for network in networks], resolve)

    def __repr__(self) -> str:
        return f"<Destinations {', '.join(self._hosts) or 'none'}>"

    async def check(self, text: str) -> None:
        """Raises ``UrlDisabled``, ``InvalidUrl`` or ``UrlNotAllowed``. A host without an address may get one later."""
        if not self._hosts:
            raise UrlDisabled("No webhooks are sent from here: ask for the job's result.")
        try:
            url = checked_url(text, self._hosts)
        except InvalidUrl as error:
            raise InvalidUrl("Not a webhook's URL: http or https, with a host, and without a user's name.") from error
        except UrlNotAllowed as error:
            raise UrlNotAllowed("Webhooks are not sent to this host.") from error
        self.addresses.check_literal(url)
        try:
            async with asyncio.timeout(_RESOLVE_SECONDS):
                await self.addresses.resolve(url.raw_host or "")
        except OSError:
            return


class Sender:
    """Sends webhooks. Construct with ``Sender.open``."""

    def __init__(
        self, session: ClientSession, destinations: Destinations, hosts: Sequence[str], secret: Path, timeout: float
    ) -> None:
        self._session = session
        self._destinations = destinations
        self._hosts = hosts
        self._secret = secret
        self._timeout = ClientTimeout(total=timeout)

    def __repr__(self) -> str:
        return f"<Sender to {self._destinations}>"

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, hosts: Sequence[str], networks: Sequence[str], secret: Path, timeout: float, resolve: Resolve = resolve
    ) -> AsyncIterator[Sender]:
        """Each attempt has ``timeout`` seconds, and is signed with what the file ``secret`` holds by then."""
        destinations = Destinations(hosts, networks, resolve)
        async with guarded(destinations.addresses, {}) as session:
            yield cls(session, destinations, hosts, secret, timeout)

    async def send(self, text: str, name: str, body: bytes) -> str:
        """One attempt: the status that its host answered, or else a word for what went wrong."""
        timestamp = int(time.time())
        try:
            url = checked_url(text, self._hosts)
            self._destinations.addresses.check_literal(url)
            headers = {
                "Content-Type": "application/json",
                "webhook-id": name,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(secrets_in(self._secret.read_text()), name, timestamp, body),
            }
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False, timeout=self._timeout
            ) as response:
                return str(response.status)
        except InvalidSecret:
            return "no secret"
        except TimeoutError:
            return "timeout"
        except ShoalError as error:
            return error.code
        except (ClientError, OSError, ValueError):
            return "no answer"
