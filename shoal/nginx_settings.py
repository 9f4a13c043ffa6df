"""The settings of ``shoal nginx``: what the public endpoint takes, and where its configuration goes."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from shoal.settings import MIB, TOGETHER, Count, File, LogLevel, Names, Networks, Port, Read, Seconds, half_set

__all__ = ["NginxSettings"]

_BARE = re.compile(r"[A-Za-z0-9_.,:/@%+=~ \[\]-]*")


def _bare(value: str) -> str:
    if not _BARE.fullmatch(value):
        raise ValueError(f"{value!r} has characters that mean something to nginx")
    return value


Text = Annotated[str, AfterValidator(_bare)]
Rate = Annotated[int, Field(ge=0, le=1_000_000)]


class NginxSettings(Read):
    """What ``shoal nginx`` writes, and for whom."""

    section: ClassVar[str] = "nginx"
    model_config = SettingsConfigDict(
        env_prefix="SHOAL_NGINX_", cli_kebab_case=True, cli_implicit_flags=True, extra="forbid", frozen=True
    )

    discovery: str = Field("", description="consul://HOST:PORT or file:///DIR, whose gateways and workers are followed")
    discovery_token: SecretStr = Field(SecretStr(""), description="access token for discovery (Consul ACL)")
    gateways: Names = Field((), description="internal listeners of gateways, http://HOST:PORT,…, instead of discovery")
    consul_dns: Text = Field(
        "", description="HOST:PORT of Consul's DNS, where nginx (1.27.3 or later) follows the gateways without reloads"
    )
    file: File = Field(File("/etc/shoal/nginx.conf"), description="where the configuration is written")
    nginx: Text = Field("nginx", description="the program")
    start: bool = Field(False, description="start nginx too, and end it at our end; off: it is somebody else's")
    reload: str = Field("", description="command that reloads nginx; empty: a signal to the process of the pid_file")
    pid_file: File = Field(File("/run/nginx.pid"), description="nginx's own")
    settle: Seconds = Field(0.2, description="how long even an urgent one waits, seconds")
    pause: Seconds = Field(30.0, description="how long a change waits for others, if it is not urgent, seconds")
    drain_timeout: Seconds = Field(30.0, description="longest wait for requests to finish when we end it, seconds")
    host: Text = Field("127.0.0.1", description="address of the listener")
    port: Port = Field(8000, description="port of the listener")
    redirect_port: Port = Field(0, description="port that sends plain HTTP to https; 0: none")
    server_name: Text = Field("_", description="names that clients use, with spaces between them")
    certificate: File | None = Field(None, description="of the public name (PEM); none: plain HTTP")
    certificate_key: File | None = Field(None, description="its key (PEM)")
    internal_certificate: File | None = Field(
        None, description="what nginx shows to gateways and workers (PEM); none: plain HTTP"
    )
    internal_key: File | None = Field(None, description="its key (PEM)")
    internal_ca: File | None = Field(None, description="the CA of all internal certificates (PEM)")
    fast_path: bool = Field(True, description="nginx carries uploads to the workers itself; off: through the gateways")
    streaming: bool = Field(False, description="paths of uploads under /stream too, where bodies are not buffered")
    max_body_bytes: Count = Field(20 * MIB, description="largest request body, bytes; as the gateways'")
    body_buffer_bytes: Count = Field(1 * MIB, description="of a body in nginx's own memory, bytes; more is in folder")
    folder: File = Field(File("/dev/shm/shoal-nginx"), description="for bodies, in memory-backed space; ours")  # noqa: S108
    longest_timeout: Seconds = Field(300.0, description="latest deadline of a request, seconds; as the gateways'")
    slowest_pause: Seconds = Field(15.0, description="of a client within a head or a body, seconds")
    address_rate: Rate = Field(500, description="requests a second of one address; 0: any number")
    address_burst: Rate = Field(1000, description="requests of one address beyond its rate")
    address_connections: Rate = Field(500, description="requests under way of one address; 0: any number")
    key_rate: Rate = Field(0, description="requests a second of one API key; 0: any number")
    key_burst: Rate = Field(1000, description="requests of one API key beyond its rate")
    trusted_proxies: Networks = Field((), description="networks of load balancers whose X-Forwarded-For is believed")
    processes: Annotated[int, Field(ge=0)] = Field(0, description="nginx's worker processes; 0: one for each core")
    connections: Count = Field(4096, description="most connections of each, those to gateways and workers included")
    user: Text = Field("", description="whom nginx's worker processes run as; empty: as nginx was built")
    access_log: Text = Field("off", description="file of the access log, /dev/stdout, or off")
    error_log: Text = Field("stderr", description="file of nginx's error log, or stderr")
    log_level: LogLevel = Field("info", description="of the follower: debug, info, warning or error")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problems = half_set(self)
        if bool(self.discovery) == bool(self.gateways):
            problems.append("discovery or gateways is needed, and not both")
        if self.consul_dns and not self.discovery.startswith(("consul://", "consul+https://")):
            problems.append("consul_dns needs discovery by Consul")
        if self.redirect_port and self.certificate is None:
            problems.append("redirect_port needs a certificate")
        problems += [
            f"{path} has characters that mean something to nginx"
            for name, path in self
            if name in _FILES and path is not None and not _BARE.fullmatch(str(path))
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


_FILES = ("pid_file", "folder", *(name for together in TOGETHER for name in together))
