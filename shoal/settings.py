"""Every setting of every process, with its default, in one typed place.

Read once, in ``main()``: command line > environment (``SHOAL_GATEWAY_PORT``) > file (``--config``, TOML with a
table for each service) > the default here. All bad values are reported at once, unknown ones included.
"""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shoal import tls
from shoal.sockets import check_path

MIB = 1024 * 1024
TABLES = ("gateway", "nginx", "worker")
"""Of the file, each a service's."""

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0, le=86400)]
Count = Annotated[int, Field(ge=1)]
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_ORIGIN = re.compile(r"https?://([a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:]+\])(:([0-9]{1,5}|\*))?")
_ADMIN_URL = re.compile(r"https://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")

LogLevel = Literal["debug", "info", "warning", "error"]


def _split(value: object) -> object:
    return [part for part in (p.strip() for p in value.split(",")) if part] if isinstance(value, str) else value


def _absolute(value: Path) -> Path:
    return value.expanduser().absolute()


def _admin(value: str) -> str:
    if not value.startswith("https://"):
        return value and check_path(value)
    if not _ADMIN_URL.fullmatch(value):
        raise ValueError(f"{value} is not https://HOST:PORT")
    return value


def _host(value: str) -> str:
    name, colon, port = value.lower().partition(":")
    if not _HOST.fullmatch(name) or (colon and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535)):
        raise ValueError(f"{value} is not HOST, *.DOMAIN, HOST:PORT or *.DOMAIN:PORT")
    return value.lower()


def _origin(value: str) -> str:
    value = value.lower().rstrip("/")
    if not _ORIGIN.fullmatch(value):
        raise ValueError(f"{value} is not an origin: https://HOST, http://HOST:PORT or http://HOST:*")
    return value


def _source(value: str) -> str:
    value = value.lower().rstrip("/")
    if not _ORIGIN.fullmatch(value.replace("://*.", "://", 1)):
        raise ValueError(f"{value} is not https://HOST, https://*.DOMAIN, http://HOST:PORT or http://HOST:*")
    return value


def _network(value: str) -> str:
    return str(ip_network(value))


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Hosts = Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)]
Sources = Annotated[tuple[Annotated[str, AfterValidator(_source)], ...], NoDecode, BeforeValidator(_split)]
Devices = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|[0-9]+(,[0-9]+)*)$")]
File = Annotated[Path, AfterValidator(_absolute)]
Admin = Annotated[str, AfterValidator(_admin)]
TOGETHER = (("certificate", "certificate_key"), ("internal_certificate", "internal_key", "internal_ca"))
"""Files that are set together or not at all."""


class InvalidSettings(ValueError):
    """All that is wrong with the settings, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class Read(BaseSettings):
    """Settings that are read from everywhere. ``section`` is their table in the file, and a part of their names."""

    section: ClassVar[str]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @classmethod
    def load(cls, argv: Sequence[str]) -> Self:
        """The effective settings. Raises ``InvalidSettings`` with every problem at once."""
        environ = os.environ
        prefix = cls.model_config["env_prefix"]
        before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        before.add_argument("--config", default=environ.get("SHOAL_CONFIG"))
        known, rest = before.parse_known_args(list(argv))
        problems = [
            f"{key}: there is no such setting"
            for key in sorted(environ)
            if key.upper().startswith(prefix) and key.upper().removeprefix(prefix).lower() not in cls.model_fields
        ]
        try:
            table = _table(known.config, cls.section) if known.config else {}
        except (OSError, tomllib.TOMLDecodeError, ValueError) as error:
            problems.append(f"{known.config}: {error}")
            table = {}
        try:
            loaded = cls(_cli_parse_args=rest, _cli_prog_name=f"shoal {cls.section}", **table)  # type: ignore[call-arg]
        except ValidationError as error:
            problems += [f"{'.'.join(map(str, e['loc'])) or cls.section}: {e['msg']}" for e in error.errors()]
        if problems:
            raise InvalidSettings(problems)
        return loaded

    def effective(self) -> dict[str, Any]:
        """Every value as JSON-ready data, secrets hidden."""
        return self.model_dump(mode="json")


class Settings(Read):
    """What a gateway and a worker have in common."""

    name: str = Field("", max_length=100, description="stable name of this instance; empty: host name and port")
    zone: str = Field("", description="where it runs; travels with the member")
    host: str = Field("127.0.0.1", description="address of the public listener")
    internal_host: str = Field("127.0.0.1", description="address of the internal listener (checks, metrics, gateways)")
    internal_port: Port = Field(0, description="port of the internal listener; 0: a free one")
    public_url: str = Field("", description="the URL clients reach the public listener at; empty: host and port")
    discovery: str = Field(description="consul://HOST:PORT, file:///DIR or static://HOST:PORT,…; required")
    discovery_token: SecretStr = Field(SecretStr(""), description="access token for discovery (Consul ACL)")
    max_body_bytes: Count = Field(20 * MIB, description="largest request body, bytes")
    request_timeout: Seconds = Field(30.0, description="deadline of a request that names none, seconds")
    longest_timeout: Seconds = Field(300.0, description="latest deadline that a request may name, seconds")
    upload_timeout: Seconds = Field(30.0, description="longest wait for a body to arrive, seconds")
    grace: Seconds = Field(20.0, description="wait between leaving discovery and closing the listeners, seconds")
    drain_timeout: Seconds = Field(30.0, description="longest wait for requests to finish when stopping, seconds")
    cors_origins: Origins = Field((), description="web pages that may call this from a browser: https://HOST:PORT,…")
    certificate: File | None = Field(None, description="certificate of the public listener (PEM); none: plain HTTP")
    certificate_key: File | None = Field(None, description="its key (PEM)")
    internal_certificate: File | None = Field(
        None, description="of the internal listener, and for calls to those of others (PEM); none: plain HTTP"
    )
    internal_key: File | None = Field(None, description="its key (PEM)")
    internal_ca: File | None = Field(None, description="the CA of all internal certificates (PEM)")
    admin: Admin = Field(
        "", description="the admin listener: path of a unix socket, or https://HOST:PORT (mutual TLS); empty: none"
    )
    log_level: LogLevel = Field("info", description="debug, info, warning or error")
    trusted_proxies: Networks = Field((), description="networks of proxies whose X-Forwarded-For is believed")
    traces: str = Field("", description="OTLP/HTTP endpoint of a trace collector, http://HOST:4318; empty: none")
    lifeline: bool = Field(False, description="stop at once when standard input closes (set by a parent process)")

    @property
    def public_files(self) -> tls.Files | None:
        """The certificate of the public listener."""
        if self.certificate is None or self.certificate_key is None:
            return None
        return tls.Files(self.certificate, self.certificate_key)

    @property
    def internal_files(self) -> tls.Files | None:
        """The certificate among ourselves."""
        if self.internal_certificate is None or self.internal_key is None or self.internal_ca is None:
            return None
        return tls.Files(self.internal_certificate, self.internal_key, self.internal_ca)

    def _wrong_certificates(self) -> list[str]:
        problems = half_set(self)
        for files in (self.public_files, self.internal_files):
            try:
                if files is not None:
                    files.serving()
            except ValueError as error:
                problems.append(str(error))
        if self.admin.startswith("https://") and self.internal_files is None:
            problems.append("an admin listener on https:// needs internal_certificate, internal_key and internal_ca")
        return problems


class GatewaySettings(Settings):
    """A gateway's settings."""

    section: ClassVar[str] = "gateway"
    model_config = SettingsConfigDict(
        env_prefix="SHOAL_GATEWAY_", cli_kebab_case=True, cli_implicit_flags=True, extra="forbid", frozen=True
    )

    port: Port = Field(8080, description="port of the public listener; 0: a free one")
    authentication: Literal["required", "off"] = Field("required", description="off: only on a loopback address")
    api_keys: File | None = Field(None, description="file of hashed API keys (shoal keys add)")
    ticket_key: File | None = Field(None, description="private key that signs tickets (shoal keys tickets)")
    ticket_lifetime: Annotated[float, Field(ge=1, le=300)] = Field(15.0, description="of a ticket, seconds")
    balancer: Literal["least_expected_wait", "round_robin"] = Field("least_expected_wait", description="how to route")
    poll_interval: Annotated[float, Field(ge=0.05, le=1)] = Field(0.5, description="between load reports, seconds")
    whole_fleet: Count = Field(400, description="most workers that a gateway uses; of more it uses its part of them")
    gateways_per_worker: Count = Field(4, description="gateways that use each worker when none uses all")
    patience: Seconds = Field(2.0, description="longest wait for a worker to turn up before 503, seconds")
    replay_body_bytes: Count = Field(8 * MIB, description="largest body that can be sent again, bytes")
    replay_total_bytes: Count = Field(256 * MIB, description="all such bodies together, bytes")
    browser_uploads: Sources = Field(
        (), description="workers that the web page uploads to: https://*.DOMAIN,…; none: it sends through the gateway"
    )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        problems = self._wrong_certificates()
        exposed = [host for host in (self.host, self.internal_host) if not is_loopback(host)]
        if self.authentication == "off" and exposed:
            problems.append(
                f"authentication is off, so host {', '.join(exposed)} is refused: only a loopback address may"
            )
        if self.authentication == "required" and self.api_keys is None:
            problems.append("api_keys is missing: make one with 'shoal keys add', or set authentication to off")
        if self.ticket_key is None:
            problems.append("ticket_key is missing: make one with 'shoal keys tickets'")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class WorkerSettings(Settings):
    """A worker's settings: everything on one node."""

    section: ClassVar[str] = "worker"
    model_config = SettingsConfigDict(
        env_prefix="SHOAL_WORKER_", cli_kebab_case=True, cli_implicit_flags=True, extra="forbid", frozen=True
    )

    port: Port = Field(8601, description="port of the public upload listener; 0: a free one")
    public: bool = Field(True, description="off: clients never upload here directly, only gateways proxy to it")
    models: Names = Field(("lite0",), description="models to load, comma-separated: lite0,fake?seconds_per_image=0.01")
    fronts: Count = Field(1, description="front processes that share the listeners")
    ticket_keys: File | None = Field(None, description="public keys of the gateways (JWKS); none: only on loopback")
    redis: str = Field("", description="socket path of a Redis to use; empty: start one")
    redis_bytes: Count = Field(1024 * MIB, description="memory limit of the Redis that is started, bytes")
    capacity: Count = Field(512, description="most jobs that may wait or execute, of each model version")
    capacity_bytes: Count = Field(256 * MIB, description="most bytes of such jobs, of each model version")
    max_pixels: Count = Field(40_000_000, description="largest image, pixels (width x height) before decoding")
    decode_threads: Count = Field(2, description="images decoded at once by each front")
    hang_timeout: Annotated[float, Field(ge=2, le=3600)] = Field(
        5.0, description="a child that is silent or stuck for so long is replaced, seconds"
    )
    load_timeout: Annotated[float, Field(ge=1, le=86400)] = Field(
        300.0, description="a child that is not ready after so long is started again, seconds"
    )
    devices: Devices = Field("auto", description="where models execute: auto (all GPUs, or else the CPU), cpu, or 0,1")
    model_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="memory for published models, by their manifests, bytes; 0: that of a GPU, or no limit"
    )
    model_cache: str = Field("", description="folder for fetched models; empty: a temporary one")
    model_cache_bytes: Count = Field(20_480 * MIB, description="most bytes of models that are kept there")
    in_flight: Count = Field(1024, description="most requests that a front holds at once")
    in_flight_bytes: Count = Field(512 * MIB, description="most bytes of bodies that a front holds at once")
    images_per_request: Count = Field(16, description="most images in one request")
    cache_bytes: Annotated[int, Field(ge=0)] = Field(0, description="answers kept for equal images, bytes; 0: none")
    cache_lifetime: Annotated[float, Field(ge=0.001, le=86400)] = Field(
        300.0, description="how long an answer is kept, seconds"
    )
    url_hosts: Hosts = Field((), description="where pictures may be fetched: HOST or *.DOMAIN, each with :PORT or not")
    url_networks: Networks = Field((), description="networks that they may be in though not public: 10.1.0.0/16,…")
    url_timeout: Annotated[float, Field(ge=0.01, le=3600)] = Field(10.0, description="longest fetch, seconds")
    url_fetches: Count = Field(16, description="pictures fetched at once by each front")
    jobs_kept: Annotated[int, Field(ge=0)] = Field(
        10_000, description="most asynchronous jobs that are kept, unfinished or not yet forgotten; 0: none are taken"
    )
    job_bytes: Count = Field(64 * MIB, description="most bytes of their records when another one is accepted")
    job_timeout: Annotated[float, Field(ge=0.001, le=86400)] = Field(
        600.0, description="deadline of an asynchronous job that names none, seconds"
    )
    longest_job_timeout: Annotated[float, Field(ge=0.001, le=86400)] = Field(
        3600.0, description="latest deadline that an asynchronous job may name, seconds"
    )
    job_lifetime: Annotated[float, Field(ge=0.001, le=86400)] = Field(
        3600.0, description="how long an asynchronous job is kept after its end, seconds"
    )
    webhook_hosts: Hosts = Field((), description="where webhooks may go: HOST or *.DOMAIN, each with :PORT or not")
    webhook_networks: Networks = Field((), description="networks that they may be in though not public: 10.1.0.0/16,…")
    webhook_secret: File | None = Field(None, description="file of the secrets that sign webhooks, whsec_… a line")
    webhook_timeout: Annotated[float, Field(ge=0.01, le=300)] = Field(10.0, description="of one attempt, seconds")
    webhook_attempts: Annotated[int, Field(ge=1, le=100)] = Field(12, description="most attempts to send a webhook")
    webhook_pause: Annotated[float, Field(ge=0.001, le=3600)] = Field(
        1.0, description="pause after the first attempt, seconds; doubled after each, up to five minutes"
    )

    @model_validator(mode="after")
    def _safe(self) -> Self:
        problems = self._wrong_certificates()
        if not self.redis and self.cache_bytes > self.redis_bytes // 2:
            problems.append(f"cache_bytes {self.cache_bytes} is refused: at most half of redis_bytes may be")
        if self.webhook_hosts and self.webhook_secret is None:
            problems.append("webhook_secret is missing: webhooks are signed; make one with 'shoal keys webhook'")
        exposed = [h for h in (self.host, self.internal_host) if not is_loopback(h)]
        if self.ticket_keys is None and exposed:
            problems.append(f"without ticket_keys, {', '.join(exposed)} is refused: only a loopback address may")
        if problems:
            raise ValueError("; ".join(problems))
        return self


def half_set(settings: Read) -> list[str]:
    """What is wrong with files of which only some are set."""
    problems = []
    for together in TOGETHER:
        missing = [name for name in together if getattr(settings, name) is None]
        if 0 < len(missing) < len(together):
            problems.append(f"{', '.join(missing)} missing: {', '.join(together)} are set together or not at all")
    return problems


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address) can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _table(path: str, section: str) -> dict[str, Any]:
    document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    strangers = sorted(set(document) - set(TABLES))
    if strangers:
        raise ValueError(f"unknown table {', '.join(strangers)}; there are {', '.join(TABLES)}")
    table = document.get(section, {})
    if not isinstance(table, dict):
        raise ValueError(f"{section} is not a table")
    return table
