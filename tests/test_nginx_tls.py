"""nginx with TLS to clients, and mutual TLS to gateways and workers: the fast path as without."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shoal import AsyncClient, launcher
from shoal.launcher import Node, Plan, Running
from tests.authority import Authority
from tests.clusters import eventually_async
from tests.consul_server import free_port
from tests.nginx_server import Nginx, following
from tests.photos import fake_label, photo

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

WANTED = (
    "worker1:worker,127.0.0.1",
    "gateway1:gateway,127.0.0.1",
    "edge:nginx",
    "stranger:prometheus",
    "web,127.0.0.1",
)


@dataclass(frozen=True)
class House:
    running: Running
    authority: Authority
    nginx: Nginx
    redirecting: int


def certificates(authority: Authority, internal: str) -> list[str]:
    own = authority.settings(internal=internal, public="web")
    return [part for name, value in own.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def curl(house: House, nginx: Nginx, *arguments: str) -> str:
    credentials = ("--cacert", str(house.authority.ca), "-H", f"Authorization: Bearer {house.running.api_key}")
    command = ["curl", "-s", *credentials, *arguments, f"{nginx.url}/predict"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    authority = Authority(tmp_path_factory.mktemp("tls") / "certificates")
    authority.issue(*WANTED)
    nodes = (
        Node("worker", "worker1", authority.settings(internal="worker1", public="web")),
        Node("gateway", "gateway1", authority.settings(internal="gateway1", public="web")),
    )
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(launcher.cluster(Plan(nodes=nodes, models=("fake",))))
        redirecting = free_port()
        flags = [
            "--discovery",
            running.discovery,
            *certificates(authority, "edge"),
            "--redirect-port",
            str(redirecting),
        ]
        nginx = stack.enter_context(following(*flags, scheme="https"))
        yield House(running, authority, nginx, redirecting)


async def test_an_upload_goes_by_the_fast_path(house: House) -> None:
    async with AsyncClient(
        house.nginx.url, api_key=house.running.api_key, mode="proxy", timeout=30, ca=house.authority.ca
    ) as client:
        answer = await client.predict(photo(1))
    assert answer.predictions[0].label == fake_label(photo(1))

    async def uploads() -> list[dict[str, Any]]:
        return [line for line in house.nginx.accesses() if line["path"] == "/predict"]

    await eventually_async(uploads, within=30, what="a line of the log")
    (line,) = await uploads()
    assert line["way"] == "forwarded"
    assert line["upstream_status"].startswith("204 : ")
    assert line["upstream_status"].endswith("200")


async def test_http_2_is_spoken(house: House, tmp_path: Path) -> None:
    image = tmp_path / "image.jpg"
    image.write_bytes(photo(2))
    said = curl(house, house.nginx, "--http2", "--data-binary", f"@{image}", "-w", "\n%{http_version}")
    body, _, version = said.rpartition("\n")
    assert (version, json.loads(body)["predictions"][0]["label"]) == ("2", fake_label(photo(2)))


async def test_plain_http_is_told_where_to_go(house: House) -> None:
    request = b"POST /predict?a=b HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
    lines, _, body = house.nginx.send(request).partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 400 ")
    assert "HTTPS" in json.loads(body)["error"]["message"]
    elsewhere = Nginx(house.nginx.process, house.nginx.folder, house.redirecting)
    redirected = elsewhere.send(request)
    assert redirected.startswith(b"HTTP/1.1 308 ")
    assert f"Location: https://127.0.0.1:{house.nginx.port}/predict?a=b".encode() in redirected


async def test_a_certificate_of_another_role_gets_nowhere(house: House) -> None:
    flags = ["--discovery", house.running.discovery, *certificates(house.authority, "stranger")]
    with following(*flags, scheme="https") as strange:
        said = curl(house, strange, "--data-binary", "x")
    assert json.loads(said)["error"]["code"] == "not_allowed"
