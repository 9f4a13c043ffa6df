"""What a gateway gives to a browser, and how it is kept from doing more; and which pages elsewhere may call us."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

import gateway.browser
from gateway.browser import Page
from shoal import cors, http
from shoal.errors import UnknownModel
from shoal.metrics import HttpMetrics
from shoal.settings import GatewaySettings, InvalidSettings, WorkerSettings

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FOLDER = Path(gateway.browser.__file__).with_name("page")
PAGE = {"Origin": "https://photos.example.org"}


def settings(*arguments: str) -> GatewaySettings:
    common = ("--discovery", "static://h:1", "--authentication", "off", "--ticket-key", "/nowhere")
    return GatewaySettings.load([*common, *arguments])


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    server = TestServer(app)
    await server.start_server()
    async with aiohttp.ClientSession(str(server.make_url(""))) as session:
        yield session
    await server.close()


@asynccontextmanager
async def page(*arguments: str) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    app.add_routes(Page(settings(*arguments), "Welcome to Shoal!\n").routes())
    async with serving(app) as session:
        yield session


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["*/*", "", "text/plain", "application/json", "text/plain, text/html;q=0.9"])
async def test_whoever_is_no_browser_gets_a_line_of_text(accept: str) -> None:
    async with page() as session, session.get("/", headers={"Accept": accept}) as response:
        assert (response.content_type, await response.text()) == ("text/plain", "Welcome to Shoal!\n")
        assert response.headers["Vary"] == "Accept"


async def test_a_browser_gets_the_page_and_a_strict_policy() -> None:
    async with page() as session, session.get("/", headers=HTML) as response:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert await response.read() == (FOLDER / "index.html").read_bytes()
        assert response.headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
            "form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
        )
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["Vary"] == "Accept"


async def test_the_page_may_upload_where_an_operator_says() -> None:
    async with page("--browser-uploads", "https://*.Example.org, http://127.0.0.1:*") as session:
        async with session.get("/", headers=HTML) as response:
            policy = response.headers["Content-Security-Policy"]
        assert "connect-src 'self' https://*.example.org http://127.0.0.1:*;" in policy
        async with session.get("/page/settings.json") as response:
            said = await response.json()
        assert said["uploads"] == ["https://*.example.org", "http://127.0.0.1:*"]
        assert said["authentication"] == "off"


TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir() if path.suffix in TYPES))
async def test_every_file_has_its_type_and_is_asked_for_once(name: str) -> None:
    async with page() as session:
        async with session.get(f"/page/{name}") as response:
            assert response.headers["Content-Type"] == TYPES[Path(name).suffix]
            assert await response.read() == (FOLDER / name).read_bytes()
            assert "Content-Security-Policy" in response.headers
            tag = response.headers["ETag"]
        for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            async with session.get(f"/page/{name}", headers={"If-None-Match": known}) as response:
                assert (response.status, await response.read()) == (304, b"")
                assert response.headers["ETag"] == tag
        async with session.get(f"/page/{name}", headers={"If-None-Match": '"other"'}) as response:
            assert response.status == 200


@pytest.mark.parametrize("path", ["/page/", "/page/index.html", "/page/../browser.py", "/page/%2e%2e/app.py"])
async def test_nothing_else_is_served(path: str) -> None:
    async with page() as session, session.get(path) as response:
        assert response.status == 404


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: str(path.name))
def test_the_files_keep_to_the_policy_and_to_themselves(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|localStorage|cookie", text)
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:", text)
    for address in re.findall(r"https?://[^\s\"'`)<>]+", text):
        assert re.match(r"https?://(\w+\.)*example\.org|http://www\.w3\.org/2000/svg", address)


# --- pages elsewhere -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def door(*origins: str) -> AsyncIterator[aiohttp.ClientSession]:
    async def answer(request: web.Request) -> web.Response:
        raise UnknownModel

    app = web.Application(middlewares=[http.middleware(HttpMetrics(CollectorRegistry()), lambda: False)])
    cors.allow(app, origins)
    app.router.add_post("/predict", answer)
    async with serving(app) as session:
        yield session


async def test_a_page_that_was_named_may_read_even_errors() -> None:
    async with door(PAGE["Origin"]) as session, session.post("/predict", headers=PAGE) as response:
        assert response.status == 404
        assert response.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
        assert {"Server-Timing", "X-Request-ID", "Shoal-Code"} <= set(
            response.headers["Access-Control-Expose-Headers"].split(", ")
        )
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in response.headers


async def test_its_browser_may_ask_first() -> None:
    asks = PAGE | {"Access-Control-Request-Method": "POST"}
    async with door(PAGE["Origin"]) as session, session.options("/predict", headers=asks) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == PAGE["Origin"]
        assert "Content-Type" in response.headers["Access-Control-Allow-Headers"]
    async with door(PAGE["Origin"]) as session, session.options("/predict", headers=PAGE) as response:
        assert response.status == 405


@pytest.mark.parametrize("origin", ["https://photos.example.org:8443", "http://photos.example.org", "null", ""])
async def test_any_other_page_is_told_nothing(origin: str) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with door(PAGE["Origin"]) as session, session.options("/predict", headers=asks) as response:
        assert response.status == 405
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize(
    ("origin", "origins", "is_among"),
    [
        ("http://127.0.0.1:8080", ["http://127.0.0.1:*"], True),
        ("http://127.0.0.1", ["http://127.0.0.1:*"], False),
        ("http://127.0.0.1.example.org:8080", ["http://127.0.0.1:*"], False),
        ("http://127.0.0.1:80a", ["http://127.0.0.1:*"], False),
        ("http://127.0.0.1:*", ["http://127.0.0.1:8080"], False),
        ("http://[::1]:8080", ["http://[::1]:*"], True),
        ("", [""], False),
    ],
)
def test_an_origin_may_have_any_port(origin: str, origins: list[str], is_among: bool) -> None:
    assert cors.is_among(origin, origins) is is_among


@pytest.mark.parametrize(
    "value", ["*", "example.org", "https://*.example.org", "https://a.org/path", "https://a b", "null"]
)
def test_what_is_no_origin_is_refused(value: str) -> None:
    with pytest.raises(InvalidSettings, match="cors_origins"):
        WorkerSettings.load(["--discovery", "static://h:1", "--cors-origins", value])


@pytest.mark.parametrize("value", ["*", "https:", "'unsafe-eval'", "https://a.org; script-src *", "https://*", "data:"])
def test_what_would_change_the_policy_is_refused(value: str) -> None:
    with pytest.raises(InvalidSettings, match="browser_uploads"):
        settings("--browser-uploads", value)
