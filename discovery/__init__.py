"""Who is alive: gateways and workers find one another through ``connect``, whatever the backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from discovery.backend import (
    Discovery,
    DiscoveryRefused,
    DiscoveryUnavailable,
    Membership,
    Value,
    ValuesWatch,
    Watch,
)
from discovery.member import Directory, Member, Role

__all__ = [
    "Directory",
    "Discovery",
    "DiscoveryRefused",
    "DiscoveryUnavailable",
    "Member",
    "Membership",
    "Role",
    "Value",
    "ValuesWatch",
    "Watch",
    "connect",
    "srv_name",
]

CONSUL_OPTIONS = ("ca", "cert", "check_interval", "check_name", "dc", "key", "scheme", "service_prefix", "token")


def connect(
    url: str, *, token: str | None = None, snapshot_timeout: float | None = None
) -> AbstractAsyncContextManager[Discovery]:
    """The backend that ``url`` names, connected while the returned context is open.

    * ``file:///absolute/directory`` or ``file://DIRECTORY``
    * ``static://HOST:PORT,HOST:PORT`` (workers), or ``static+https://HOST:PORT,…``
    * ``consul://HOST:PORT``, ``consul+https://HOST:PORT``, with the options ``ca``, ``cert``, ``key`` (PEM files),
      ``check_interval`` (seconds, 1), ``check_name`` (that an agent expects in a certificate), ``dc``, ``scheme``,
      ``service_prefix`` (``shoal``) and ``token``

    ``token`` goes before the one in the URL. A watch waits ``snapshot_timeout`` seconds for its first snapshot,
    or for ever. Raises ``ValueError`` when the URL says what there is not; its message never shows a token.
    """
    scheme = url.partition("://")[0]
    if scheme not in _BACKENDS or "://" not in url:
        raise ValueError(f"a discovery URL starts with one of {', '.join(f'{known}://' for known in _BACKENDS)}")
    known, build = _BACKENDS[scheme]
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - set(known))
    if unknown or parts.fragment:
        there_are = f"there are {', '.join(known)}" if known else "there are none"
        raise ValueError(f"unknown options of {scheme}://: {', '.join(unknown) or '#'}; {there_are}")
    return build(parts, options, token, snapshot_timeout)


def _file(
    parts: SplitResult, options: dict[str, str], token: str | None, snapshot_timeout: float | None
) -> AbstractAsyncContextManager[Discovery]:
    from discovery.file import FileDiscovery

    directory = unquote(parts.netloc + parts.path)
    if not directory:
        raise ValueError("file:// needs a directory")
    return nullcontext(FileDiscovery(Path(directory), snapshot_timeout=snapshot_timeout))


def _static(
    parts: SplitResult, options: dict[str, str], token: str | None, snapshot_timeout: float | None
) -> AbstractAsyncContextManager[Discovery]:
    from discovery.static import StaticDiscovery

    scheme = "https" if parts.scheme == "static+https" else "http"
    return nullcontext(StaticDiscovery((parts.netloc + parts.path).split(","), scheme=scheme))


def _consul(
    parts: SplitResult, options: dict[str, str], token: str | None, snapshot_timeout: float | None
) -> AbstractAsyncContextManager[Discovery]:
    from discovery.consul import ConsulAgent, connect_consul  # py-consul imports a second HTTP library
    from discovery.registration import CheckTerms

    prefix = _service_prefix(options)
    scheme = "https" if parts.scheme == "consul+https" else options.get("scheme", "http")
    if scheme not in ("http", "https"):
        raise ValueError("the option scheme of consul:// is http or https")
    if parts.path not in ("", "/") or parts.username is not None:
        raise ValueError("consul:// takes a host and a port, and options; a token is one of them, or a parameter")
    try:
        check_interval = float(options.get("check_interval", "1"))
    except ValueError:
        check_interval = 0.0
    if not 0.1 <= check_interval <= 3600:
        raise ValueError("the option check_interval of consul:// is in seconds, from 0.1 to 3600")
    agent = ConsulAgent(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or (8501 if scheme == "https" else 8500),
        scheme=scheme,
        dc=_datacentre(options) or None,
        ca=options.get("ca"),
        cert=options.get("cert"),
        key=options.get("key"),
    )
    return connect_consul(
        agent,
        token=token or options.get("token"),
        service_prefix=prefix,
        check=CheckTerms(check_interval, options.get("check_name", "")),
        snapshot_timeout=snapshot_timeout,
    )


def _service_prefix(options: Mapping[str, str]) -> str:
    prefix = options.get("service_prefix", "shoal")
    if not prefix.replace("-", "").isalnum() or not prefix.isascii() or prefix != prefix.lower():
        raise ValueError("the option service_prefix of consul:// is made of a-z, 0-9 and -")
    return prefix


def _datacentre(options: Mapping[str, str]) -> str:
    name = options.get("dc", "")
    if not re.fullmatch(r"[A-Za-z0-9_-]*", name):
        raise ValueError("the option dc of consul:// is made of letters, digits, _ and -")
    return name


def srv_name(url: str, role: Role) -> tuple[str, str]:
    """The service and the domain of the SRV records (RFC 2782) by which Consul's DNS names a role's ready members.

    ``url`` is one of Consul's. Raises ``ValueError`` as ``connect`` does.
    """
    from discovery.registration import service_name

    options = dict(parse_qsl(urlsplit(url).query))
    datacentre = _datacentre(options)
    domain = f"service.{datacentre}.consul" if datacentre else "service.consul"
    return service_name(_service_prefix(options), role), domain


_Build = Callable[[SplitResult, dict[str, str], str | None, float | None], AbstractAsyncContextManager[Discovery]]

_BACKENDS: dict[str, tuple[tuple[str, ...], _Build]] = {
    "file": ((), _file),
    "static": ((), _static),
    "static+https": ((), _static),
    "consul": (CONSUL_OPTIONS, _consul),
    "consul+https": (CONSUL_OPTIONS, _consul),
}
