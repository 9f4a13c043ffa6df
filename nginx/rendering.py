"""The configuration of nginx as one text, out of what is known: pure, so that equal knowledge is an equal file."""

from __future__ import annotations

import discovery
from nginx import errors, locations
from nginx.edge import Edge
from nginx.text import Lines, block
from shoal.nginx_settings import NginxSettings

__all__ = ["TEMPORARY", "render"]

_HTTP2_DIRECTIVE = (1, 25, 1)  # the first version with `http2 on`
_PATIENT_RELOAD = (1, 27, 4)
_RESOLVED_SECONDS = 1
_BACKLOG = 4096
_KEPT = 64  # idle connections of each of nginx's processes to the gateways
_KEPT_AT_A_WORKER = 16
_KEPT_SECONDS = 30  # less than gateways and workers keep theirs, so that none is closed as a request is sent
TEMPORARY = ("body", "proxy", "fastcgi", "uwsgi", "scgi")
"""What nginx makes in the folder of bodies."""
_LOG = {
    "time": "$time_iso8601",
    "request_id": "$shoal_request_id",
    "remote": "$remote_addr",
    "method": "$request_method",
    "path": "$shoal_logged_path",
    "protocol": "$server_protocol",
    "status": "$status",
    "seconds": "$request_time",
    "bytes": "$request_length",
    "sent": "$bytes_sent",
    "way": "$shoal_way",
    "upstream": "$upstream_addr",
    "upstream_status": "$upstream_status",
    "upstream_seconds": "$upstream_response_time",
}


def render(edge: Edge) -> str:
    """A complete ``nginx.conf`` for nginx 1.18 or later, without ``daemon``: how nginx runs is whose who starts it."""
    return "\n".join(_main(edge)) + "\n"


def _main(edge: Edge) -> Lines:
    settings = edge.settings
    yield "# `shoal nginx` writes this file: what is changed here is lost."
    if settings.user:
        yield f"user {settings.user};"
    yield f"worker_processes {settings.processes or 'auto'};"
    yield f"worker_shutdown_timeout {settings.longest_timeout + 20:g}s;"
    yield f"pid {settings.pid_file};"
    yield f"error_log {settings.error_log} error;"
    yield from block("events", [f"worker_connections {settings.connections};"])
    yield from block("http", _http(edge))


def _http(edge: Edge) -> Lines:
    settings = edge.settings
    yield "server_tokens off;"
    yield "default_type application/octet-stream;"
    yield "tcp_nodelay on;"
    yield "variables_hash_max_size 2048;"
    yield from _log(settings)
    yield from _bodies(settings)
    yield from _slow_clients(settings)
    if edge.version >= _PATIENT_RELOAD:
        yield "keepalive_min_timeout 10s;  # a reload leaves idle connections open so long"
    yield from _limits(settings)
    yield from errors.maps()
    yield from locations.maps(edge)
    yield from _gateways(edge)
    for worker in edge.workers:
        yield from block(f"upstream {worker.name}", [f"server {worker.server} max_fails=0;", *_kept(_KEPT_AT_A_WORKER)])
    if settings.redirect_port:
        yield from block("server", _redirection(settings))
    yield from block("server", _server(edge))


def _log(settings: NginxSettings) -> Lines:
    """Never a key, nor a query, which may have a ticket, nor a job's id, which opens its result."""
    yield "map $request_uri $shoal_logged_path {"
    yield '    "~*^/+(?:stream/+)?jobs/+[^/?]+(?<shoal_rest>/result)?" "/jobs/{id}$shoal_rest";'
    yield '    "~^(?<shoal_bare_path>[^?]*)" $shoal_bare_path;'
    yield "}"
    fields = ",".join(f'"{name}":"{value}"' for name, value in _LOG.items())
    yield f"log_format shoal escape=json '{{{fields}}}';"
    yield "access_log off;" if settings.access_log == "off" else f"access_log {settings.access_log} shoal;"


def _bodies(settings: NginxSettings) -> Lines:
    """Whole bodies in memory, so that each can be sent to a second worker; the folder is to be memory too."""
    yield f"client_max_body_size {settings.max_body_bytes};"
    yield f"client_body_buffer_size {settings.body_buffer_bytes};"
    for name in TEMPORARY:
        yield f"{'client_body' if name == 'body' else name}_temp_path {settings.folder}/{name};"
    yield "proxy_http_version 1.1;"
    yield "proxy_redirect off;"
    yield "proxy_buffer_size 32k;"
    yield "proxy_buffers 8 32k;"
    yield "proxy_busy_buffers_size 64k;"


def _slow_clients(settings: NginxSettings) -> Lines:
    seconds = f"{settings.slowest_pause:g}s"
    yield f"client_header_timeout {seconds};"
    yield f"client_body_timeout {seconds};"
    yield f"send_timeout {seconds};"
    yield "reset_timedout_connection on;"
    yield "keepalive_timeout 75s;"
    yield "keepalive_requests 10000;"
    yield "client_header_buffer_size 4k;"
    yield "large_client_header_buffers 4 16k;"


def _limits(settings: NginxSettings) -> Lines:
    """A key is counted beside the address that it comes from: keys can be made up."""
    yield "limit_req_status 429;"
    yield "limit_conn_status 429;"
    yield "limit_req_log_level warn;"  # less than the error log takes: each would be a line with a whole path
    yield "limit_conn_log_level warn;"
    if settings.address_rate:
        yield f"limit_req_zone $binary_remote_addr zone=shoal_address:10m rate={settings.address_rate}r/s;"
        yield f"limit_req zone=shoal_address burst={settings.address_burst} nodelay;"
    if settings.key_rate:
        yield from _key()
        yield f"limit_req_zone $shoal_key zone=shoal_key:10m rate={settings.key_rate}r/s;"
        yield f"limit_req zone=shoal_key burst={settings.key_burst} nodelay;"
    if settings.address_connections:
        yield "limit_conn_zone $binary_remote_addr zone=shoal_connections:10m;"
        yield f"limit_conn shoal_connections {settings.address_connections};"
    if settings.trusted_proxies:
        yield from (f"set_real_ip_from {network};" for network in settings.trusted_proxies)
        yield "real_ip_header X-Forwarded-For;"
        yield "real_ip_recursive on;"


def _key() -> Lines:
    """The one that a gateway goes by (``http.bearer``), so that nothing beside it makes another one of it."""
    yield 'map $http_x_api_key $shoal_api_key { default ""; "~^[\\x09 ]*(?<shoal_first>[^,\\x09 ]+)" $shoal_first; }'
    yield "map $http_authorization $shoal_key {"
    yield "    default $shoal_api_key;"
    yield '    "~*^[\\x09 ]*bearer [^!-~]*(?<shoal_bearer>[!-~]+)" $shoal_bearer;'
    yield "}"


def _gateways(edge: Edge) -> Lines:
    """With Consul's DNS all of nginx's processes share what one of them is told there."""
    settings, options = edge.settings, "max_fails=3 fail_timeout=5s"
    lines = [f"server {gateway.server} {options};" for gateway in edge.gateways]
    if settings.consul_dns:
        service, domain = discovery.srv_name(settings.discovery, "gateway")
        lines = [
            "zone shoal_gateways 512k;",
            f"resolver {settings.consul_dns} valid={_RESOLVED_SECONDS}s ipv6=off;",
            f"server {domain} service={service} resolve {options};",
        ]
    yield from block("upstream shoal_gateways", [*lines, *_kept(_KEPT)])


def _kept(connections: int) -> Lines:
    yield f"keepalive {connections};"
    yield f"keepalive_timeout {_KEPT_SECONDS}s;"
    yield "keepalive_requests 100000;"


def _listen(settings: NginxSettings, port: int, *options: str) -> str:
    host = f"[{settings.host.strip('[]')}]" if ":" in settings.host else settings.host
    return f"listen {' '.join((f'{host}:{port}', *options, f'backlog={_BACKLOG}'))};"


def _redirection(settings: NginxSettings) -> Lines:
    """One that keeps the method: a body that was sent in the clear is the client's to send again."""
    yield _listen(settings, settings.redirect_port)
    yield f"server_name {settings.server_name};"
    port = "" if settings.port == 443 else f":{settings.port}"
    yield f"return 308 https://$host{port}$request_uri;"


def _server(edge: Edge) -> Lines:
    settings = edge.settings
    if settings.certificate is None:
        yield _listen(settings, settings.port)
    else:
        is_new = edge.version >= _HTTP2_DIRECTIVE
        yield _listen(settings, settings.port, *(("ssl",) if is_new else ("ssl", "http2")))
        if is_new:
            yield "http2 on;"
        yield f"ssl_certificate {settings.certificate};"
        yield f"ssl_certificate_key {settings.certificate_key};"
        yield "ssl_protocols TLSv1.2 TLSv1.3;"
        yield "ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;"
        yield "ssl_session_cache shared:shoal_tls:10m;"
        yield "ssl_session_tickets off;"
    yield f"server_name {settings.server_name};"
    yield "recursive_error_pages on;"
    yield "set $shoal_way proxied;"
    yield from errors.PAGES
    yield from locations.locations(edge)
