"""What the supervisor tells a front when it starts it."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """What a front accepts."""

    max_body_bytes: int
    max_pixels: int
    request_timeout: float
    longest_timeout: float
    upload_timeout: float
    drain_timeout: float
    decode_threads: int
    in_flight: int
    in_flight_bytes: int
    capacity: int
    capacity_bytes: int
    images_per_request: int = 16
    cache_bytes: int = 0
    cache_lifetime: float = 300.0
    trusted_proxies: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()
    url_networks: tuple[str, ...] = ()
    url_timeout: float = 10.0
    url_fetches: int = 16
    cors_origins: tuple[str, ...] = ()
    jobs_kept: int = 10_000
    job_bytes: int = 64 << 20
    job_timeout: float = 600.0
    longest_job_timeout: float = 3600.0
    job_lifetime: float = 3600.0
    webhook_hosts: tuple[str, ...] = ()
    webhook_networks: tuple[str, ...] = ()


class Orders(msgspec.Struct, frozen=True):
    """The first line on standard input. The sockets are inherited file descriptors."""

    front: str
    worker: str
    incarnation: str
    public_url: str | None
    redis: str
    public_sockets: list[int]
    internal_sockets: list[int]
    ticket_keys: str
    limits: Limits
    log_level: str
    public_certificate: tuple[str, ...] = ()  # files: certificate, key
    internal_certificate: tuple[str, ...] = ()  # and the CA
