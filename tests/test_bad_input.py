"""Every bad input has its own stable code and status, costs little, and harms nobody else."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import statistics
import struct
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from PIL import Image

from shoal.tickets import Signer, generate
from tests.clusters import Cluster, descendants_memory, up
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with up("--workers", "2", "--model", "fake") as running:
        yield running


def _png(width: int, height: int) -> bytes:
    """A valid head of a PNG that claims to be this large, and next to no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _progressive_jpeg(width: int, height: int) -> bytes:
    """A progressive JPEG whose frame header says that it is this large."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(stream, "JPEG", progressive=True)
    data = bytearray(stream.getvalue())
    frame = data.index(b"\xff\xc2")  # SOF2, ITU T.81 table B.2
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _form(name: str, data: bytes) -> tuple[bytes, str]:
    boundary = "shoal-boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


@dataclass(frozen=True)
class Case:
    """One bad request and the answer that it must get."""

    status: int
    code: str
    body: bytes = b""
    content_type: str = "application/octet-stream"
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


_WRONG_FIELD, _FORM_TYPE = _form("picture", photo(1))
_CUT_FORM = _form("image", photo(1))[0][:200]

BODIES = {
    "a text file": Case(415, "unsupported_image", b"This is not an image.\n" * 50),
    "an SVG": Case(415, "unsupported_image", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "an EPS": Case(415, "unsupported_image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "a truncated JPEG": Case(422, "invalid_image", photo(1)[: len(photo(1)) // 2]),
    "an empty body": Case(400, "empty_body", b""),
    "a PNG of 50,000 x 50,000": Case(422, "too_many_pixels", _png(50_000, 50_000)),
    "a progressive JPEG of 200 megapixels": Case(422, "too_many_pixels", _progressive_jpeg(20_000, 10_000)),
    "a wrong field name": Case(400, "missing_image", _WRONG_FIELD, _FORM_TYPE),
    "an empty field": Case(400, "empty_body", _form("image", b"")[0], _FORM_TYPE),
    "a form cut short": Case(422, "invalid_image", _CUT_FORM, _FORM_TYPE),
    "a form without a boundary": Case(400, "invalid_request", b"x", "multipart/form-data"),
    "an unknown model": Case(404, "unknown_model", photo(1), query={"model": "resnet-9000"}),
    "an unknown version": Case(404, "unknown_model", photo(1), query={"model": "fake", "version": "77"}),
    "a bad option": Case(400, "invalid_option", photo(1), query={"top_k": "many"}),
    "a bad timeout": Case(400, "invalid_option", photo(1), headers={"Shoal-Timeout-Ms": "-1"}),
}


async def _post(session: aiohttp.ClientSession, url: str, case: Case, headers: dict[str, str]) -> tuple[int, Any]:
    headers = {"Content-Type": case.content_type} | headers | case.headers
    async with session.post(url, data=case.body, params=case.query, headers=headers) as response:
        return response.status, await response.json()


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def _check(status: int, document: Any, case: Case) -> None:
    assert (status, document["error"]["code"]) == (case.status, case.code), document
    assert document["success"] is False
    assert document["error"]["message"]
    assert document["error"]["request_id"]
    assert isinstance(document["error"]["retryable"], bool)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened
    await asyncio.sleep(0.1)  # a body that was refused half-way is still being written, and closes its connection then


@pytest.mark.parametrize("case", BODIES.values(), ids=BODIES.keys())
async def test_by_proxy(cluster: Cluster, session: aiohttp.ClientSession, case: Case) -> None:
    _check(*await _post(session, f"{cluster.gateway}/predict", case, cluster.headers), case)


@pytest.mark.parametrize("name", [n for n in BODIES if n not in ("an unknown model", "an unknown version")])
async def test_by_direct_upload(cluster: Cluster, session: aiohttp.ClientSession, name: str) -> None:
    async with session.get(f"{cluster.gateway}/lookup", headers=cluster.headers) as response:
        grant = await response.json()
    headers = {"Authorization": f"Bearer {grant['ticket']}"}
    _check(*await _post(session, grant["url"], BODIES[name], headers), BODIES[name])


@pytest.mark.parametrize("path", ["/predict", "/"])
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_key"),
        ({"Authorization": "Bearer "}, 401, "missing_key"),
        ({"Authorization": "Basic abc"}, 401, "missing_key"),
        ({"Authorization": "Bearer shoal_wrong"}, 401, "invalid_key"),
        ({"X-API-Key": "shoal_wrong"}, 401, "invalid_key"),
    ],
)
async def test_keys(
    cluster: Cluster, session: aiohttp.ClientSession, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    case = Case(status, code, photo(1))
    _check(*await _post(session, cluster.gateway + path, case, headers), case)


async def test_tickets(cluster: Cluster, session: aiohttp.ClientSession, tmp_path: Path) -> None:
    grants = {}
    for _ in range(20):
        async with session.get(f"{cluster.gateway}/lookup", headers=cluster.headers) as response:
            grant = await response.json()
        grants[grant["worker"]] = grant
    mine, other = grants["worker1"], grants["worker2"]
    generate(tmp_path / "key", tmp_path / "public")
    strange = Signer.load(tmp_path / "key").sign(
        audience=mine["incarnation"], model="fake@1", subject="me", max_bytes=10**6, uses=1, lifetime=60
    )
    head, body, signature = mine["ticket"].split(".")
    altered = f"{head}.{body[:-2]}{'AA' if body[-2:] != 'AA' else 'BB'}.{signature}"
    for ticket, status, code in [
        (None, 401, "missing_ticket"),
        ("garbage", 401, "invalid_ticket"),
        (altered, 401, "invalid_ticket"),
        (strange, 401, "invalid_ticket"),
        (other["ticket"], 421, "wrong_worker"),
    ]:
        case = Case(status, code, photo(1))
        headers = {"Authorization": f"Bearer {ticket}"} if ticket else {}
        _check(*await _post(session, mine["url"], case, headers), case)
    case = Case(401, "invalid_ticket", photo(1), query={"model": "lite0"})
    _check(*await _post(session, mine["url"], case, {"Authorization": f"Bearer {mine['ticket']}"}), case)


async def test_an_expired_ticket(session: aiohttp.ClientSession) -> None:
    with up("--workers", "1", "--model", "fake", "--gateway-setting", "ticket_lifetime=1") as short:
        async with session.get(f"{short.gateway}/lookup", headers=short.headers) as response:
            grant = await response.json()
        case = Case(401, "expired_ticket", photo(1))
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            status, document = await _post(session, grant["url"], case, {"Authorization": f"Bearer {grant['ticket']}"})
            if status == 401 and document["error"]["code"] == "expired_ticket":
                break
            await asyncio.sleep(0.2)
        _check(status, document, case)


@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_a_body_of_100_megabytes(cluster: Cluster, session: aiohttp.ClientSession, chunked: bool) -> None:
    """It is refused by its head, or as soon as it is over the limit."""

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(1_000_000)

    headers = cluster.headers if chunked else cluster.headers | {"Content-Length": str(100_000_000)}
    parts = urlsplit(cluster.gateway)
    if chunked:
        async with session.post(f"{cluster.gateway}/predict", data=drip(), headers=headers) as response:
            _check(response.status, await response.json(), Case(413, "body_too_large"))
        return
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [f"POST /predict HTTP/1.1\r\nHost: {parts.netloc}\r\n", *(f"{k}: {v}\r\n" for k, v in headers.items())]
    writer.write("".join(lines).encode() + b"\r\n" + bytes(1000))
    await writer.drain()
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
    await _hang_up(writer)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


async def test_a_client_that_asks_first_is_refused_before_it_sends(cluster: Cluster) -> None:
    parts = urlsplit(cluster.gateway)
    for headers, expected in [
        ({"Content-Length": "100000000"}, b"HTTP/1.1 401 "),
        (cluster.headers | {"Content-Length": "100000000"}, b"HTTP/1.1 413 "),
        (cluster.headers | {"Content-Length": "10"}, b"HTTP/1.1 100 "),
    ]:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{text}\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(expected)
        await _hang_up(writer)


async def test_a_body_that_does_not_arrive(cluster: Cluster, session: aiohttp.ClientSession) -> None:
    """A sender that stops half-way is answered at its deadline, by the worker and by the gateway."""
    async with session.get(f"{cluster.gateway}/lookup", headers=cluster.headers) as response:
        grant = await response.json()
    for url, credential in [(grant["url"], grant["ticket"]), (f"{cluster.gateway}/predict", cluster.api_key)]:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {credential}\r\n"
            "Shoal-Timeout-Ms: 500\r\nContent-Length: 5000\r\n\r\nhalf".encode()
        )
        answer = await asyncio.wait_for(reader.readuntil(b"}}"), 5)
        await _hang_up(writer)
        assert b'"upload_timeout"' in answer


async def test_good_requests_beside_bad_ones(cluster: Cluster, session: aiohttp.ClientSession) -> None:
    async def bad(case: Case) -> None:
        _check(*await _post(session, f"{cluster.gateway}/predict", case, cluster.headers), case)

    async def good(seed: int) -> None:
        headers = cluster.headers
        async with session.post(f"{cluster.gateway}/predict", data=photo(seed), headers=headers) as response:
            assert (await response.json())["predictions"][0]["label"] == fake_label(photo(seed))

    await asyncio.gather(*(bad(case) for case in BODIES.values()), *(good(seed) for seed in range(40)))


async def test_a_thousand_bad_requests_leave_no_trace(cluster: Cluster, session: aiohttp.ClientSession) -> None:
    """The memory of the whole process tree (PSS) does not grow with bad requests, nor do its open files."""
    cases = BODIES.values()

    async def rounds(count: int) -> None:
        for _ in range(count):
            await asyncio.gather(
                *(_post(session, f"{cluster.gateway}/predict", case, cluster.headers) for case in cases)
            )

    def files() -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in cluster.all_pids())

    await rounds(25)
    before = descendants_memory(cluster.all_pids())
    samples, open_files = [], []
    for _ in range(8):
        await rounds(10)
        samples.append(descendants_memory(cluster.all_pids()))
        open_files.append(files())
    assert 8 * 10 * len(cases) >= 1000
    late, early = statistics.median(samples[-3:]), statistics.median(samples[:3])
    assert late - early < 4_000_000, samples
    assert late - before < 24_000_000, (before, samples)
    assert statistics.median(open_files[-3:]) - statistics.median(open_files[:3]) < 20, open_files
    async with session.post(f"{cluster.gateway}/predict", data=photo(7), headers=cluster.headers) as response:
        assert (await response.json())["predictions"][0]["label"] == fake_label(photo(7))


def test_garbage_that_is_not_http(cluster: Cluster) -> None:
    for url in (cluster.gateway, cluster.worker(0)["public_url"], cluster.worker(0)["internal_url"]):
        parts = urlsplit(url)
        for garbage in (b"\x00" * 500, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", os.urandom(2000) + b"\r\n\r\n"):
            with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(4096)
                assert answer == b"" or answer.startswith(b"HTTP/1.")
    with cluster.client() as client:
        assert client.predict(photo(2)).predictions[0].label == fake_label(photo(2))


async def test_a_compressed_body_is_refused_and_never_inflated(
    cluster: Cluster, session: aiohttp.ClientSession
) -> None:
    bomb = zlib.compress(bytes(19_000_000))
    case = Case(400, "invalid_request", bomb, headers={"Content-Encoding": "deflate"})
    _check(*await _post(session, f"{cluster.gateway}/predict", case, cluster.headers), case)
    async with session.get(f"{cluster.gateway}/lookup", headers=cluster.headers) as response:
        grant = await response.json()
    _check(*await _post(session, grant["url"], case, {"Authorization": f"Bearer {grant['ticket']}"}), case)


@pytest.mark.parametrize("number", ["9" * 5000, "-1", "0", "1.5", "\u0661"])
async def test_numbers_that_are_none(cluster: Cluster, session: aiohttp.ClientSession, number: str) -> None:
    async with session.get(f"{cluster.gateway}/lookup", params={"n": number}, headers=cluster.headers) as response:
        _check(response.status, await response.json(), Case(400, "invalid_option"))


async def test_what_a_caller_invents_is_no_metric_label(cluster: Cluster, session: aiohttp.ClientSession) -> None:
    for number in range(5):
        case = Case(404, "unknown_model", photo(1), query={"model": f"invented-{number}"})
        _check(*await _post(session, f"{cluster.gateway}/predict", case, cluster.headers), case)
        async with session.get(f"{cluster.gateway}/lookup", params=case.query, headers=cluster.headers) as response:
            assert response.status == 404
    for record in cluster.log(message="request"):
        assert "invented" not in record["model"]
