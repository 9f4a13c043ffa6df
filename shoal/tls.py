"""Certificates in use: which files, which TLS contexts they make, and how a renewed one comes in without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

log = logging.getLogger(__name__)

ROLES = ("admin", "consul", "gateway", "nginx", "prometheus", "worker")
"""What the holder of an internal certificate may be. A certificate names it as ``ROLE.shoal``."""

_DOMAIN = ".shoal"
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good
_LOOK = 1.0
_SOON = 14 * 86400.0  # or a fifth of its lifetime, if that is less
_REMIND = 86400.0

_Signature = tuple[tuple[int, ...] | None, ...]


def name_of(role: str) -> str:
    """The DNS name by which a certificate says a role."""
    return f"{role}{_DOMAIN}"


def roles_in(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The roles that a verified certificate names, as ``ssl`` shows it."""
    said = [name.lower() for kind, name in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    return frozenset(name.removesuffix(_DOMAIN) for name in said if name.endswith(_DOMAIN))


@dataclass(frozen=True)
class Files:
    """PEM files: a certificate with those between it and its CA, its key, and, for mutual TLS, the CA of the others."""

    certificate: Path
    key: Path
    ca: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.certificate, self.key) if self.ca is None else (self.certificate, self.key, self.ca)

    def serving(self) -> ssl.SSLContext:
        """For a listener. With a CA, who connects must have a certificate of it. Raises ``ValueError``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            # Nobody comes back on the word of a CA that is trusted no more: nothing is resumed. That cannot be switched
            # off for TLS 1.2, whose sessions OpenSSL keeps for two hours.
            context.num_tickets = 0
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        return self._loaded(context)

    def calling(self) -> ssl.SSLContext:
        """For connections to those who have a certificate of the CA. Raises ``ValueError``."""
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def signature(self) -> _Signature:
        """Equal as long as the files are the same; a missing one has None."""
        return tuple(map(_signature, self.all))

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        for path in self.all:
            try:
                path.open("rb").close()
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}") from error
        try:
            context.load_cert_chain(self.certificate, self.key, password="")  # or it would ask a terminal
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"{self.certificate} and {self.key} are not a certificate and its key: {error}") from error
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError as error:
                raise ValueError(f"{self.ca} has no certificate of a CA: {error}") from error
        return context


class Certificate:
    """A certificate as its files are now. Construct with ``followed``.

    New files are loaded whole or not at all: a connection gets the newest ones that were good. Connections that there
    are stay as they are.
    """

    def __init__(self, files: Files, listener: str) -> None:
        self.listener = listener
        self._files = files
        self._signature = files.signature()
        self._load()
        self.serving = files.serving()
        self.serving.sni_callback = self._hand_over
        self._reminded = float("-inf")

    def __repr__(self) -> str:
        return f"<Certificate {self._files.certificate} until {time.strftime('%F %T', time.gmtime(self.expires))} UTC>"

    @property
    def calling(self) -> ssl.SSLContext:
        """For a connection that we open."""
        return self._calling

    def _load(self) -> None:
        begins, expires = _validity(self._files.certificate)
        newest, calling = self._files.serving(), self._files.calling()
        self._newest, self._calling, self._begins, self.expires = newest, calling, begins, expires

    def _hand_over(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest

    async def follow(self) -> None:
        """Look once a second; what has changed is loaded when it has been still for a second."""
        last = self._signature
        while True:
            self._remind()
            await asyncio.sleep(_LOOK)
            now = self._files.signature()
            if now == last and now != self._signature:
                self._signature = now
                self._reload()
            last = now

    def _reload(self) -> None:
        try:
            self._load()
        except (OSError, ValueError) as error:
            log.error("new certificate not usable, the old one stays", extra={"error": str(error), **self._shown()})
        else:
            self._reminded = float("-inf")
            log.info("new certificate", extra=self._shown())

    def is_ending(self, now: float) -> bool:
        """Whether it is time to renew it, in seconds since 1970."""
        return now > self.expires - min(_SOON, (self.expires - self._begins) / 5)

    def _remind(self) -> None:
        if self.is_ending(time.time()) and time.monotonic() > self._reminded + _REMIND:
            self._reminded = time.monotonic()
            log.warning("certificate expires soon, or has expired", extra=self._shown())

    def _shown(self) -> dict[str, str]:
        return {"listener": self.listener, "certificate": repr(self)}


@asynccontextmanager
async def followed(files: Files | None, listener: str) -> AsyncIterator[Certificate | None]:
    """The certificate of a listener, renewed when its files are; none without files. Raises ``ValueError``."""
    if files is None:
        yield None
        return
    certificate = Certificate(files, listener)
    following = asyncio.create_task(certificate.follow())
    try:
        yield certificate
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


class NotEncrypted(ConnectionError):
    """Who has a certificate speaks to nobody without one."""


class Terms(TypedDict, total=False):
    """What a request of aiohttp takes besides."""

    ssl: ssl.SSLContext
    server_hostname: str


class Calls:
    """How to call the internal listeners of one role: over mutual TLS, when we have a certificate."""

    def __init__(self, certificate: Certificate | None, role: str) -> None:
        self._certificate = certificate
        self._role = role

    def __repr__(self) -> str:
        return f"<Calls to {self._role}s, {self._certificate or 'plain HTTP'}>"

    def terms(self, url: str) -> Terms:
        """For a request to ``url``, whatever its host is called. Raises ``NotEncrypted``."""
        if self._certificate is None:
            return Terms()
        if not url.startswith("https://"):
            raise NotEncrypted(f"{url} is not https, and we have an internal certificate")
        return Terms(ssl=self._certificate.calling, server_hostname=name_of(self._role))


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_mtime_ns, now.st_size, now.st_ino, now.st_dev


def _validity(path: Path) -> tuple[float, float]:
    """From when until when, in seconds since 1970. Raises ``OSError`` or ``ValueError``."""
    from cryptography import x509  # the client comes without it

    first = x509.load_pem_x509_certificate(path.read_bytes())
    return first.not_valid_before_utc.timestamp(), first.not_valid_after_utc.timestamp()
