"""What a configuration of nginx is made of: the settings, the version, and who is there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from shoal.nginx_settings import NginxSettings

__all__ = ["Address", "Edge", "UnusableUrl"]

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]+")
_PORTS = {"http": 80, "https": 443}

Version = tuple[int, int, int]


class UnusableUrl(ValueError):
    """A URL of a member that cannot be in nginx's configuration: it is foreign text."""


@dataclass(frozen=True, order=True)
class Address:
    """An internal listener."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ``UnusableUrl``."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise UnusableUrl(f"{url!r} is no URL") from error
        if (
            parts.scheme not in _PORTS
            or not _HOST.fullmatch(host)
            or parts.path not in ("", "/")
            or "@" in parts.netloc
        ):
            raise UnusableUrl(f"{url!r} is not http://HOST:PORT or https://HOST:PORT")
        return cls(parts.scheme, host, port)

    @property
    def server(self) -> str:
        """As an upstream names it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.server}"

    @property
    def name(self) -> str:
        """Of an upstream of its own. No two addresses have the same: hosts have no underscore."""
        return f"worker_{self.scheme}_{self.host.replace(':', '__')}_{self.port}"


@dataclass(frozen=True)
class Edge:
    """Everything that is known; equal ones have equal configurations. There is at least one gateway.

    Where nginx finds the gateways by itself, ``gateways`` is empty: who they are changes nothing.
    """

    settings: NginxSettings
    version: Version
    gateways: tuple[Address, ...]
    workers: tuple[Address, ...] = ()

    def __repr__(self) -> str:
        return f"<Edge to {len(self.gateways)} gateways and {len(self.workers)} workers>"

    @property
    def scheme(self) -> str:
        """Of the gateways' internal listeners, which are all alike: they have certificates, or none has."""
        return "https" if self.settings.internal_certificate else "http"

    @classmethod
    def of(
        cls, settings: NginxSettings, version: Version, gateways: Iterable[Address], workers: Iterable[Address] = ()
    ) -> Edge:
        """Raises ``ValueError`` when there is no gateway: an empty upstream is never written."""
        known = tuple(sorted(set(gateways)))
        if not known:
            raise ValueError("no gateway is known")
        return cls(settings, version, () if settings.consul_dns else known, tuple(sorted(set(workers))))
