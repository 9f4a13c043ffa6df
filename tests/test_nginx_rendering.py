"""nginx's configuration is a pure function of what is known, says all that is promised, and nginx understands it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.app import Gateway
from nginx.edge import Address, Edge, UnusableUrl, Version
from nginx.errors import STATUSES
from nginx.following import addresses
from nginx.locations import FAST, ORDINARY
from nginx.program import Program
from nginx.rendering import render
from shoal import forwarding
from shoal.nginx_settings import NginxSettings
from shoal.settings import InvalidSettings
from tests.nginx_server import current_nginx, nginx_binary, own_user
from tests.test_openapi import _made

GATEWAYS = ("http://10.0.0.1:8081", "http://10.0.0.2:8081")
WORKERS = ("http://10.0.0.9:8602", "http://[fd00::9]:8602")
TLS = ("--certificate", "/etc/c.pem", "--certificate-key", "/etc/k.pem")
MUTUAL = ("--internal-certificate", "/etc/i.pem", "--internal-key", "/etc/ik.pem", "--internal-ca", "/etc/ca.pem")


def edge(*flags: str, version: Version = (1, 22, 1), gateways: tuple[str, ...] = GATEWAYS, **known: Any) -> Edge:
    settings = NginxSettings.load(["--gateways", "x", *flags])
    return Edge.of(settings, version, map(Address.of, gateways), map(Address.of, known.get("workers", WORKERS)))


@pytest.mark.parametrize(
    ("flags", "version", "lines"),
    [
        ((), (1, 22, 1), ["listen 127.0.0.1:8000 backlog=4096;", "server 10.0.0.1:8081 max_fails=3 fail_timeout=5s;"]),
        ((), (1, 22, 1), ['"http://10.0.0.9:8602" "http://worker_http_10.0.0.9_8602";', "server [fd00::9]:8602"]),
        ((), (1, 22, 1), ["client_body_temp_path /dev/shm/shoal-nginx/body;", "reset_timedout_connection on;"]),
        (("--host", "::", "--port", "80"), (1, 18, 0), ["listen [::]:80 backlog"]),
        (TLS, (1, 18, 0), ["listen 127.0.0.1:8000 ssl http2 backlog=4096;", "ssl_certificate /etc/c.pem;"]),
        (TLS, (1, 25, 1), ["listen 127.0.0.1:8000 ssl backlog=4096;", "http2 on;"]),
        ((), (1, 27, 4), ["keepalive_min_timeout 10s;"]),
        ((*TLS, "--redirect-port", "80"), (1, 22, 1), ["return 308 https://$host:8000$request_uri;"]),
        ((*TLS, "--port", "443", "--redirect-port", "80"), (1, 22, 1), ["return 308 https://$host$request_uri;"]),
        (MUTUAL, (1, 22, 1), ["proxy_pass https://shoal_gateways;", "proxy_ssl_name worker.shoal;"]),
        (MUTUAL, (1, 22, 1), ["proxy_ssl_verify on;", "proxy_ssl_name gateway.shoal;"]),
        (("--key-rate", "9", "--key-burst", "3"), (1, 22, 1), ["limit_req zone=shoal_key burst=3 nodelay;"]),
        ((), (1, 22, 1), ["limit_req_log_level warn;", "limit_conn_log_level warn;", "error_log stderr error;"]),
        (("--trusted-proxies", "10.0.0.0/8"), (1, 22, 1), ["set_real_ip_from 10.0.0.0/8;"]),
        (("--user", "shoal"), (1, 22, 1), ["user shoal;"]),
        (("--streaming",), (1, 22, 1), ["location = /stream/predict {", "proxy_request_buffering off;"]),
    ],
)
def test_what_is_in_it(flags: tuple[str, ...], version: Version, lines: list[str]) -> None:
    text = render(edge(*flags, version=version))
    assert [line for line in lines if line not in text] == []


@pytest.mark.parametrize(
    ("flags", "absent"),
    [
        ((), ["ssl", "http2", "user ", "/stream/", "set_real_ip_from", "proxy_request_buffering off"]),
        (("--no-fast-path",), ["@worker_", "@again", "/forward"]),
        (("--address-rate", "0", "--address-connections", "0"), ["limit_req ", "limit_conn "]),
    ],
)
def test_what_is_not(flags: tuple[str, ...], absent: list[str]) -> None:
    text = render(edge(*flags))
    assert [word for word in absent if word in text] == []


def test_equal_knowledge_is_an_equal_text() -> None:
    assert render(edge()) == render(edge(gateways=GATEWAYS[::-1] + GATEWAYS, workers=WORKERS[::-1]))
    assert render(edge()) != render(edge(workers=()))


def test_an_empty_upstream_is_never_written() -> None:
    with pytest.raises(ValueError, match="no gateway"):
        edge(gateways=())


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1; } evil {",
        "http://h:1/path",
        "http://a b:1",
        "http://user@h:1",
        "ftp://h:1",
        "http://$h:1",
        "http://h:99999",
        "h:1",
        "",
        "http://h:1\nserver x;",
        "http://h_1:1",
    ],
)
def test_foreign_text_does_not_get_into_it(url: str) -> None:
    with pytest.raises(UnusableUrl):
        Address.of(url)
    assert addresses([url, "http://h:1"]) == (Address("http", "h", 1),)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "discovery or gateways"),
        (("--gateways", "http://h:1", "--discovery", "file:///d"), "and not both"),
        (("--gateways", "http://h:1", "--certificate", "/c"), "certificate_key missing"),
        (("--gateways", "http://h:1", "--internal-ca", "/c"), "internal_certificate, internal_key missing"),
        (("--gateways", "http://h:1", "--redirect-port", "80"), "redirect_port needs a certificate"),
        (("--gateways", "http://h:1", "--consul-dns", "127.0.0.1:8600"), "consul_dns needs discovery by Consul"),
        (("--discovery", "file:///x", "--consul-dns", "127.0.0.1:8600"), "consul_dns needs discovery by Consul"),
        (("--discovery", "consul://h", "--consul-dns", "h; }"), "characters that mean something to nginx"),
        (("--gateways", "http://h:1", "--server-name", "a; b"), "mean something to nginx"),
        (("--gateways", "http://h:1", "--folder", "/a;b"), "mean something to nginx"),
        (("--gateways", "http://h:1", "--user", "$x"), "mean something to nginx"),
    ],
)
def test_settings_that_are_refused(flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        NginxSettings.load(flags)


def routes(app: web.Application) -> set[tuple[str, str]]:
    return {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}


def passes(path: str) -> bool:
    """Whether nginx takes the path to a gateway or a worker, by its locations."""
    for matching in (*FAST, *ORDINARY, "= /events"):
        kind, _, pattern = matching.rpartition(" ")
        if kind == "=" and path == pattern:
            return True
        if kind == "~" and re.match(pattern.strip('"'), path):
            return True
        if not kind and path.startswith(pattern):
            return True
    return False


def test_all_that_is_public_is_reachable_and_nothing_else() -> None:
    gateway = _made(Gateway)
    public = {path for _, path in routes(gateway.public_app())}
    internal = {path for _, path in routes(gateway.internal_app())} - public
    assert [path for path in sorted(public) if not passes(re.sub(r"{\w+}", "x", path))] == []
    assert {path for path in internal if passes(re.sub(r"{\w+}", "x", path))} == set()
    assert {"/metrics", "/targets", "/forward/predict"} <= internal


def test_its_own_errors_are_ours() -> None:
    text = render(edge())
    for status, error in STATUSES.items():
        bodies = re.search(rf"\$shoal_error_{status} {{ default '(.*)'; plain '(.*)'; }}", text)
        assert bodies is not None
        native, plain = (json.loads(body.replace("\\'", "'")) for body in bodies.groups())
        assert native == error.body("$shoal_request_id")
        assert plain == {"error": error.message}
        assert f"return {error.status} $shoal_error_{status};" in text


def test_a_worker_is_sent_what_a_gateway_says_and_nothing_of_a_client() -> None:
    text = render(edge())
    for seconds in forwarding.PATIENCE:
        block = re.search(rf"location @worker_{seconds} {{(.*?)\n    }}", text, re.DOTALL)
        assert block is not None
        assert "proxy_pass_request_headers off;" in block[1]
        assert "$http_" not in block[1]
        assert f"proxy_read_timeout {seconds}s;" in block[1]
        assert "proxy_hide_header Shoal-Load;" in block[1]
        assert "proxy_ignore_headers X-Accel-Redirect" in block[1]


def _certificate(folder: Path) -> tuple[str, str]:
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    return str(certificate), str(key)


@pytest.mark.parametrize("kind", ["plain", "tls", "everything", "no fast path"])
@pytest.mark.parametrize("which", [nginx_binary, current_nginx])
def test_nginx_understands_it(tmp_path: Path, kind: str, which: Callable[[], str]) -> None:
    binary = which()
    certificate, key = _certificate(tmp_path)
    tls = ("--certificate", certificate, "--certificate-key", key, "--redirect-port", "18080")
    mutual = ("--internal-certificate", certificate, "--internal-key", key, "--internal-ca", certificate)
    more = ("--streaming", "--key-rate", "5", "--trusted-proxies", "10.0.0.0/8", "--access-log", f"{tmp_path}/log")
    flags = {"plain": (), "tls": tls, "everything": (*tls, *mutual, *more), "no fast path": ("--no-fast-path",)}[kind]
    place = ("--folder", str(tmp_path), "--pid-file", str(tmp_path / "pid"), "--port", "18443", *own_user())
    path = tmp_path / "nginx.conf"
    program = asyncio.run(Program.of(NginxSettings.load(["--gateways", "x", "--nginx", binary])))
    path.write_text(render(edge(*flags, *place, version=program.version)), encoding="utf-8")
    tested = subprocess.run([binary, "-e", "stderr", "-t", "-c", path], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr, tested.stderr
