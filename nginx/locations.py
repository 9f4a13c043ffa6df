"""What nginx does with each path: the fast path for uploads, gateways for the rest of what is public, 404 for all else.

``gateway/forwarding.py`` tells how the locations of the fast path work together. Each of nginx's locations inherits all
headers and error pages of the server, or none of them as soon as it has one of its own, so these say all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nginx import errors
from nginx.edge import Edge
from nginx.text import Lines, block
from shoal import forwarding, http, paths, tls

__all__ = ["FAST", "ORDINARY", "locations", "maps"]


def _matching(path: str) -> str:
    return f'~ "^{re.sub("{[a-z]+:([^}]+)}", lambda found: found.group(1), path)}$"' if "{" in path else f"= {path}"


FAST = tuple(map(_matching, paths.PREDICTIONS))
"""Where uploads come. Other methods there go to a gateway, and so does what asks for a redirection."""

ORDINARY = (
    *(f"= {path}" for path in ("/lookup", "/status", "/livez", "/readyz", "/openapi.json", "/docs", "/v2")),
    *("/docs/", "/page/", "/jobs/", "/workers/", "/v1/", "/v2/"),
)
"""The other public paths of a gateway: what is not here is not reachable, as are metrics and all that is internal."""

_QUESTION = "shoal_gateways"
_FAILURES = (421, 429, 502, 503, 504)
_QUESTION_SECONDS = 5  # more than a gateway's patience
_NEXT_QUESTION_SECONDS = 15  # a gateway waits up to ten for another worker
_GATEWAY_SECONDS = 1
_WORKER_SECONDS = 2
_CONNECTION = {"Connection": '""'}
_ABOUT_THE_CLIENT = {
    **_CONNECTION,
    "Host": "$host",
    http.REQUEST_ID: "$shoal_request_id",
    "X-Forwarded-For": "$remote_addr",
    "X-Forwarded-Proto": "$scheme",
}
_NOBODYS = dict.fromkeys((forwarding.STATE, forwarding.OUTCOME, forwarding.LENGTH, forwarding.ELAPSED), '""')
_OUTCOME = (
    *("$upstream_status", "$upstream_connect_time", "$upstream_header_time"),
    *("$shoal_refusal_code", "$shoal_refusal_retry_after"),
)
_HIDDEN = (
    *(http.LOAD, forwarding.WORKER, forwarding.PATH, forwarding.STATE, *map(forwarding.header, forwarding.PASSED)),
    *(f"X-Accel-{name}" for name in ("Redirect", "Expires", "Limit-Rate", "Buffering", "Charset")),
)
_STREAM = "/stream"  # of the paths whose bodies are not buffered; a path of uploads follows
_IGNORED = "X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset Expires Cache-Control"


def maps(edge: Edge) -> Lines:
    """Variables that are made out of others."""
    given = '"~^[A-Za-z0-9._:-]{1,128}$" $http_x_request_id;'
    yield f"map $http_x_request_id $shoal_request_id {{ default $request_id; {given} }}"
    yield 'map "$request_method:$arg_redirect" $shoal_ordinary { default 1; "POST:" ""; "POST:0" ""; }'
    yield 'map $http_shoal_uploads $shoal_spent { default 1; "" ""; 0 ""; }'
    if not edge.settings.fast_path:
        return
    yield "# Connections to the workers that are known are kept; others are reached by their addresses."
    yield "map $shoal_worker $shoal_upstream {"
    yield "    volatile;"
    yield "    default $shoal_worker;"
    yield from (f'    "{worker.url}" "{worker.scheme}://{worker.name}";' for worker in edge.workers)
    yield "}"


def locations(edge: Edge) -> Lines:
    for matching in FAST:
        yield from block(f"location {matching}", _upload(edge))
    for matching in ORDINARY:
        yield from block(f"location {matching}", _through_a_gateway(edge))
    yield from block("location = /events", [*_through_a_gateway(edge, seconds=3600), "proxy_buffering off;"])
    if edge.settings.streaming:
        for path in paths.PREDICTIONS:
            yield from block(f"location {_matching(_STREAM + path)}", _streamed(edge))
    yield from block("location /", ["return 404;"])
    yield from block("location @proxied", _proxied(edge))
    yield from block("location @proxied_again", _proxied_again(edge))
    if edge.settings.fast_path:
        yield from block("location @again", _asking_again(edge))
        for seconds in forwarding.PATIENCE:
            yield from block(f"location @worker_{seconds}", _at_a_worker(edge, seconds))
    yield from errors.LOCATIONS


def _headers(headers: Mapping[str, str]) -> Lines:
    yield from (f"proxy_set_header {name} {value};" for name, value in headers.items())


def _upload(edge: Edge) -> Lines:
    yield from errors.PAGES
    yield "error_page 418 = @proxied;"
    if not edge.settings.fast_path:
        yield "return 418;"
        return
    yield "if ($shoal_ordinary) { return 418; }"
    yield from _asking(edge, {forwarding.STATE: '""', forwarding.OUTCOME: '""'}, _QUESTION_SECONDS)


# The fast path


def _asking(edge: Edge, state: Mapping[str, str], seconds: int) -> Lines:
    """The question where to. Asking executes nothing, so any gateway may be asked after one that did not answer.

    nginx goes by the client's method, a POST, and would not ask again without ``non_idempotent``.
    """
    yield "set $shoal_way forwarded;"
    yield "proxy_method GET;"
    yield "proxy_pass_request_body off;"
    about = {forwarding.LENGTH: "$content_length", forwarding.ELAPSED: "$request_time", "Content-Length": '""'}
    yield from _headers({**_ABOUT_THE_CLIENT, **about, **state})
    yield "proxy_next_upstream error timeout non_idempotent;"
    yield f"proxy_next_upstream_timeout {seconds * 2}s;"
    yield f"proxy_read_timeout {seconds}s;"
    yield from _to_gateways(edge)
    yield f"proxy_pass {edge.scheme}://{_QUESTION}{forwarding.PREFIX}$request_uri;"


def _asking_again(edge: Edge) -> Lines:
    """With the worker's code and ``Retry-After``, which nginx forgets as soon as it turns to the next upstream."""
    yield f"set $shoal_refusal_code {_said('Shoal-Code')};"
    yield f"set $shoal_refusal_retry_after {_said('Retry-After')};"
    known = {forwarding.STATE: "$shoal_state", forwarding.OUTCOME: f'"{";".join(_OUTCOME)}"'}
    yield from _asking(edge, known, _NEXT_QUESTION_SECONDS)
    yield from errors.PAGES


def _at_a_worker(edge: Edge, seconds: int) -> Lines:
    """Head and body to the worker that a gateway has named: what it has said, and nothing else of the client's."""
    yield f"set $shoal_worker {_said(forwarding.WORKER)};"
    yield f"set $shoal_path {_said(forwarding.PATH)};"
    yield f"set $shoal_state {_said(forwarding.STATE)};"
    for name in forwarding.PASSED:
        yield f"set {_variable(name)} {_said(forwarding.header(name))};"
    yield "proxy_pass_request_headers off;"
    yield from _headers({**_CONNECTION, "Host": "$host", **{name: _variable(name) for name in forwarding.PASSED}})
    yield from _careful()
    yield from _certificates(edge, "worker")
    yield "proxy_next_upstream off;"
    yield f"proxy_connect_timeout {_WORKER_SECONDS}s;"
    yield f"proxy_read_timeout {seconds}s;"
    yield "proxy_intercept_errors on;"
    yield f"error_page {' '.join(map(str, _FAILURES))} = @again;"
    yield "proxy_pass $shoal_upstream$shoal_path;"


def _said(header: str) -> str:
    return f"$upstream_http_{header.lower().replace('-', '_')}"


def _variable(header: str) -> str:
    return f"$shoal_to_{header.lower().replace('-', '_')}"


# Through a gateway


def _as_from_the_client(edge: Edge) -> Lines:
    """A client's own request to a gateway."""
    yield from _headers({**_ABOUT_THE_CLIENT, **_NOBODYS})
    yield from _to_gateways(edge)
    yield from _careful()


def _through_a_gateway(edge: Edge, *, seconds: float | None = None) -> Lines:
    yield from _as_from_the_client(edge)
    yield "proxy_next_upstream error timeout;"
    yield f"proxy_read_timeout {(seconds or edge.settings.longest_timeout) + 10:g}s;"
    yield f"proxy_pass {edge.scheme}://{_QUESTION};"


def _proxied(edge: Edge) -> Lines:
    """An upload. A gateway that dies with it may have had it executed, so another one is told so."""
    yield from _through_a_gateway(edge)
    yield from errors.PAGES_BUT_LOST
    yield "error_page 502 504 = @proxied_again;"


def _proxied_again(edge: Edge) -> Lines:
    yield from errors.PAGES
    yield "if ($shoal_spent) { return 502; }"
    yield from _through_a_gateway(edge)
    yield f"proxy_set_header {http.UPLOADS} 1;"


def _streamed(edge: Edge) -> Lines:
    yield from _as_from_the_client(edge)
    yield "proxy_request_buffering off;"
    yield "proxy_next_upstream off;"
    yield f"proxy_read_timeout {edge.settings.longest_timeout + 10:g}s;"
    yield f"rewrite ^{_STREAM}(/.*)$ $1 break;"
    yield f"proxy_pass {edge.scheme}://{_QUESTION};"


def _to_gateways(edge: Edge) -> Lines:
    yield f"proxy_connect_timeout {_GATEWAY_SECONDS}s;"
    yield from _certificates(edge, "gateway")


def _careful() -> Lines:
    """No answer may send nginx elsewhere, and what is between us is not for clients."""
    yield f"proxy_ignore_headers {_IGNORED};"
    yield from (f"proxy_hide_header {name};" for name in _HIDDEN)


def _certificates(edge: Edge, role: str) -> Lines:
    settings = edge.settings
    if settings.internal_certificate is None:
        return
    yield f"proxy_ssl_certificate {settings.internal_certificate};"
    yield f"proxy_ssl_certificate_key {settings.internal_key};"
    yield f"proxy_ssl_trusted_certificate {settings.internal_ca};"
    yield "proxy_ssl_verify on;"
    yield "proxy_ssl_verify_depth 3;"
    yield "proxy_ssl_server_name on;"
    yield f"proxy_ssl_name {tls.name_of(role)};"
    yield "proxy_ssl_protocols TLSv1.2 TLSv1.3;"
