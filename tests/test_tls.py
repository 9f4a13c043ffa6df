"""TLS: who may connect, who may call what, and how a renewed certificate comes into use."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from yarl import URL

from shoal import admin, callers, certificates, cli, http, metrics, service, tls
from shoal.certificates import Wanted
from shoal.settings import GatewaySettings, InvalidSettings, WorkerSettings
from tests.authority import Authority, shown_serial
from tests.clusters import eventually_async

Call = Callable[[str], Awaitable[tuple[int, str]]]

LEAVES = ("worker1:worker,127.0.0.1", "gateway1:gateway", "nginx:nginx", "prometheus:prometheus", "admin:admin", "web")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Our CA, and another one with the same names."""
    ours, theirs = (Authority(tmp_path_factory.mktemp(name)) for name in ("ours", "theirs"))
    ours.issue(*LEAVES)
    ours.issue("late:gateway", days=-0.01)
    theirs.issue("gateway1:gateway")
    return ours, theirs


@pytest.fixture
def ours(made: tuple[Authority, Authority], tmp_path: Path) -> Authority:
    """A copy that a test may change."""
    return Authority(Path(shutil.copytree(made[0].folder, tmp_path / "ours")))


@pytest.fixture
def theirs(made: tuple[Authority, Authority]) -> Authority:
    return made[1]


@asynccontextmanager
async def listener(files: tls.Files, table: callers.Table | None = None) -> AsyncIterator[str]:
    """A listener whose every path says hello to who may call it; gives its URL."""

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    around = http.middleware(metrics.HttpMetrics(CollectorRegistry()), lambda: False)
    app = web.Application(middlewares=[around, *([callers.only(table)] if table else [])])
    app.router.add_route("*", "/{path:.*}", hello)
    with service.bind("127.0.0.1", 0) as sock:
        async with (
            tls.followed(files, "internal") as certificate,
            service.listening(app, [sock], drain_timeout=1, certificate=certificate),
        ):
            yield service.url_of("127.0.0.1", sock, encrypted=True)


@asynccontextmanager
async def calls(files: tls.Files | None, role: str = "worker") -> AsyncIterator[Call]:
    """Calls with a certificate as our processes make them; each on a new connection. They give status and text."""

    async def call(url: str) -> tuple[int, str]:
        terms = tls.Calls(certificate, role).terms(url)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url, **terms) as response:
            return response.status, await response.text()

    async with tls.followed(files, "internal") as certificate:
        yield call


async def status(url: str, files: tls.Files | None, role: str = "worker") -> int:
    async with calls(files, role) as call:
        return (await call(url))[0]


# Who may connect, and call what


async def test_only_certificates_of_the_ca_connect(ours: Authority, theirs: Authority) -> None:
    async with listener(ours.internal("worker1")) as url:
        assert await status(url, ours.internal("gateway1")) == 200
        forged = tls.Files(theirs.internal("gateway1").certificate, theirs.internal("gateway1").key, ours.ca)
        for stranger in (forged, ours.internal("late")):
            with pytest.raises(aiohttp.ClientError):
                await status(url, stranger)
        nobody = aiohttp.TCPConnector(ssl=aiohttp.Fingerprint(b"x" * 32), force_close=True)
        async with aiohttp.ClientSession(connector=nobody) as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(url)
        assert await status(url, ours.internal("gateway1")) == 200


async def test_nobody_comes_back_without_being_verified_again(ours: Authority) -> None:
    """A session that could be resumed would outlive the CA, and the end of a certificate."""

    def connect(context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with (
            socket.create_connection((host, port), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="worker.shoal", session=session) as spoken,
        ):
            spoken.sendall(b"GET / HTTP/1.1\r\nHost: worker.shoal\r\nConnection: close\r\n\r\n")
            assert spoken.recv(100).startswith(b"HTTP/1.1 200")
            assert not spoken.session_reused
            return spoken.session

    async with listener(ours.internal("worker1")) as url:
        host, port = str(URL(url).host), URL(url).port
        context = ours.internal("gateway1").calling()
        session = await asyncio.to_thread(connect, context, None)
        await asyncio.to_thread(connect, context, session)
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions a server cannot forget
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(connect, context, None)


async def test_a_caller_expects_a_role(ours: Authority, theirs: Authority) -> None:
    """Whatever the address is called: the certificate says worker, or it is not spoken to."""
    async with listener(ours.internal("worker1")) as url:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match=r"gateway\.shoal"):
            await status(url, ours.internal("nginx"), role="gateway")
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="CERTIFICATE_VERIFY_FAILED"):
            await status(url, theirs.internal("gateway1"))
    async with listener(ours.internal("late")) as url:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"):
            await status(url, ours.internal("nginx"), role="gateway")
    with pytest.raises(tls.NotEncrypted, match=r"http://127\.0\.0\.1:1 is not https"):
        await status("http://127.0.0.1:1", ours.internal("gateway1"))


EVERYBODY = {"gateway1", "nginx", "prometheus", "admin", "worker1", "web"}
WHO_MAY = [
    (callers.WORKER, "/livez", EVERYBODY),
    (callers.WORKER, "/readyz", EVERYBODY),
    (callers.WORKER, "/metrics", {"prometheus", "admin"}),
    (callers.WORKER, "/load", {"gateway1", "nginx", "admin"}),
    (callers.WORKER, "/predict", {"gateway1", "nginx", "admin"}),
    (callers.WORKER, "/drain", {"gateway1", "nginx", "admin"}),
    (callers.GATEWAY, "/readyz", EVERYBODY),
    (callers.GATEWAY, "/metrics", {"prometheus", "admin"}),
    (callers.GATEWAY, "/targets", {"prometheus", "admin"}),
    (callers.GATEWAY, "/nowhere", {"nginx", "admin"}),
    (callers.ADMIN, "/livez", {"admin"}),
    (callers.ADMIN, "/drain", {"admin"}),
]


async def test_who_may_call_what(ours: Authority) -> None:
    for table in (callers.WORKER, callers.GATEWAY, callers.ADMIN):
        async with listener(ours.internal("worker1"), table) as url:
            for path, may in [(path, may) for of, path, may in WHO_MAY if of is table]:
                answered = {who: await status(f"{url}{path}", ours.internal(who)) for who in EVERYBODY}
                assert answered == {who: 200 if who in may else 403 for who in EVERYBODY}, path


async def test_a_refusal_says_why(ours: Authority) -> None:
    async with listener(ours.internal("worker1"), callers.WORKER) as url, calls(ours.internal("prometheus")) as call:
        _, text = await call(f"{url}/load")
        assert '"code":"not_allowed"' in text
        assert "Your certificate names prometheus; this is for admin, gateway, nginx." in text


async def test_plain_http_at_a_tls_port_and_the_other_way(ours: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with listener(ours.internal("worker1")) as url, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(url.replace("https", "http"))
        assert await status(url, ours.internal("gateway1")) == 200
    app = web.Application()
    with service.bind("127.0.0.1", 0) as sock:
        async with service.listening(app, [sock], drain_timeout=1):
            with pytest.raises(aiohttp.ClientError):
                await status(service.url_of("127.0.0.1", sock, encrypted=True), ours.internal("gateway1"))
            async with aiohttp.ClientSession() as session, session.get(service.url_of("127.0.0.1", sock)) as response:
                assert response.status == 404
    assert [record for record in caplog.records if record.exc_info and record.name.startswith("shoal")] == []


async def test_the_admin_listener_is_for_admins(ours: Authority) -> None:
    with service.bind("127.0.0.1", 0) as sock:
        place = service.url_of("127.0.0.1", sock, encrypted=True)
    stop = service.Stop()
    async with (
        tls.followed(ours.internal("worker1"), "internal") as certificate,
        admin.listening(place, admin.calls(dict, stop), certificate),
    ):
        for who in ("gateway1", "worker1", "web"):
            assert await status(f"{place}/state", ours.internal(who)) == 403
        assert not stop.is_requested
        assert await status(f"{place}/state", ours.internal("admin")) == 200


# A certificate that is renewed


async def test_a_renewed_certificate_is_in_use_without_a_failure(ours: Authority) -> None:
    """Given requests all the time, on new connections and on old ones, when certificate and CA change."""
    answered, stop = [0, 0], asyncio.Event()
    async with listener(ours.internal("worker1")) as url, calls(ours.internal("gateway1")) as anew:
        kept = ours.internal("gateway1").calling()
        kept.check_hostname = False

        async def keep_calling(session: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                answered[0] += (await anew(url))[0] == 200
                async with session.get(url) as response:
                    answered[1] += response.status == 200

        async def has_more_than(before: list[int]) -> bool:
            return all(now > then + 1 for now, then in zip(answered, before, strict=True))

        async def is_shown(serial: int) -> bool:
            return await shown_serial(url, ours.internal("nginx").calling()) == serial

        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=kept))
        async with session, asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(keep_calling(session))
            first = ours.serial("worker1")
            assert await is_shown(first)
            await eventually_async(lambda: has_more_than([0, 0]), within=60, what="there are answers")
            ours.issue("worker1:worker,127.0.0.1", "gateway1:gateway")
            assert ours.serial("worker1") != first
            await eventually_async(lambda: is_shown(ours.serial("worker1")), within=60, what="the new certificate")
            since = list(answered)
            await eventually_async(lambda: has_more_than(since), within=60, what="there are still answers")
            stop.set()


async def test_who_has_a_certificate_of_the_last_ca_is_refused(ours: Authority) -> None:
    """A CA is replaced by way of a file with both."""
    new = Authority(ours.folder.parent / "new")
    new.issue(*LEAVES)
    last = ours.ca.read_text()
    former = tls.Files(ours.folder / "nginx.pem", ours.folder / "nginx.key", ours.ca)

    async def answers(files: tls.Files) -> bool:
        try:
            return await status(url, files) == 200
        except aiohttp.ClientError:
            return False

    async with listener(ours.internal("worker1")) as url:
        assert await answers(former)
        assert not await answers(new.internal("nginx"))
        ours.ca.write_text(last + new.ca.read_text())
        both = tls.Files(new.folder / "nginx.pem", new.folder / "nginx.key", ours.ca)
        await eventually_async(lambda: answers(both), within=60, what="the new CA is trusted")
        assert await answers(former)
        for name in ("worker1.key", "worker1.pem"):
            shutil.copy(new.folder / name, ours.folder / name)
        await eventually_async(lambda: answers(new.internal("nginx")), within=60, what="the new certificate")
        ours.ca.write_text(new.ca.read_text())

        async def is_refused() -> bool:
            return not await answers(tls.Files(former.certificate, former.key, new.ca))

        await eventually_async(is_refused, within=60, what="the last CA is trusted no more")


@pytest.mark.parametrize("spoilt", ["worker1.pem", "worker1.key", "ca.pem"])
async def test_a_broken_file_keeps_the_certificate(
    ours: Authority, spoilt: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    refused = "new certificate not usable, the old one stays"

    async def said(message: str) -> bool:
        return message in caplog.messages

    good = (ours.folder / spoilt).read_text()
    async with listener(ours.internal("worker1")) as url:
        # In the same second as before, and just as long
        (ours.folder / spoilt).write_text(good.replace("M", "!"))
        await eventually_async(lambda: said(refused), within=60, what="an error is logged")
        expected = Authority(ours.folder)
        assert await status(url, _with_good_ca(expected, good if spoilt == "ca.pem" else None)) == 200
        (ours.folder / spoilt).write_text(good)
        await eventually_async(lambda: said("new certificate"), within=60, what="the good one is used again")
        assert await status(url, ours.internal("gateway1")) == 200
    assert caplog.messages.count(refused) == 1


def _with_good_ca(authority: Authority, ca: str | None) -> tls.Files:
    files = authority.internal("gateway1")
    if ca is None:
        return files
    (authority.folder / "good.pem").write_text(ca)
    return tls.Files(files.certificate, files.key, authority.folder / "good.pem")


@pytest.mark.parametrize(
    ("days", "left", "ending"), [(10, 2.1, False), (10, 1.9, True), (365, 15, False), (365, 13, True)]
)
def test_when_an_end_is_near(ours: Authority, days: float, left: float, ending: bool) -> None:
    """A fortnight before, or in the last fifth of a short life."""
    ours.issue("worker1:worker", days=days)
    certificate = tls.Certificate(ours.internal("worker1"), "internal")
    assert certificate.is_ending(certificate.expires - left * 86400) is ending


@pytest.mark.parametrize(("who", "reminded"), [("late", True), ("worker1", False)])
async def test_an_end_is_said(ours: Authority, who: str, reminded: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with tls.followed(ours.internal(who), "internal") as certificate:
        await asyncio.sleep(0)
        assert ("expires soon" in caplog.text) is reminded
        assert certificate is not None
        (shown,) = metrics.CertificateExpiry([certificate]).collect()
        assert [(sample.labels, sample.value) for sample in shown.samples] == [
            ({"listener": "internal"}, certificate.expires)
        ]


# Issuing


WANTED = [
    ("worker1:worker", ["worker.shoal", "worker1"]),
    ("web,192.0.2.1,api.example.com", ["web", "192.0.2.1", "api.example.com"]),
    ("h:gateway+nginx,::1,h", ["gateway.shoal", "nginx.shoal", "h", "::1"]),
]


@pytest.mark.parametrize(("text", "names"), WANTED)
def test_what_a_certificate_names(text: str, names: list[str]) -> None:
    assert [str(name.value) for name in Wanted.parse(text).names()] == names


@pytest.mark.parametrize("text", ["", ":worker", "a:", "a:boss", "ca", "a/b:worker", "a,", "a,WORKER.Shoal", "x.shoal"])
def test_what_is_not_issued(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME:ROLE|there is no role"):
        Wanted.parse(text)


def test_the_command_issues_and_renews(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made" / "tls"
    command = ["keys", "certificates", "--folder", str(folder), "--days", "2"]
    assert cli.main([*command, "worker1:worker,127.0.0.1", "web"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    authority = Authority(folder)
    first, ca = authority.serial("web"), authority.ca.read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.key")} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cli.main([*command, "web"]) == 0
    assert authority.ca.read_text() == ca
    assert authority.serial("web") != first
    for files in (authority.internal("worker1"), authority.internal("web")):
        files.serving(), files.calling()
    shutil.copy(folder / "web.key", folder / "ca.key")
    assert cli.main([*command, "web"]) == 1
    assert "ca.key is not the key of" in capsys.readouterr().err


def test_nothing_outlives_its_ca(tmp_path: Path) -> None:
    expires = certificates.issue(tmp_path, Wanted.parse("web"), days=100_000)
    assert expires == certificates.issue(tmp_path, Wanted.parse("web"), days=200_000)


# Settings


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        ((), []),
        (("certificate",), ["certificate missing: certificate, certificate_key are set together"]),
        (("internal-ca", "internal-key"), ["internal_key, internal_ca missing"]),
        (("internal-certificate", "internal-key", "internal-ca"), ["an admin listener on https:// needs"]),
    ],
)
def test_which_certificates_are_set_together(
    ours: Authority, left_out: tuple[str, ...], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_WORKER_DISCOVERY", "static://127.0.0.1:1")
    given = {"admin": "https://127.0.0.1:8700", **ours.settings(internal="worker1", public="web")}
    argv = [f"--{name}={value}" for name, value in given.items() if name not in left_out]
    if not words:
        assert WorkerSettings.load(argv).internal_files == ours.internal("worker1")
        return
    with pytest.raises(InvalidSettings) as caught:
        WorkerSettings.load(argv)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"certificate": "/nowhere.pem"}, "/nowhere.pem: No such file"),
        ({"certificate-key": "gateway1.key"}, "are not a certificate and its key"),
        ({"internal-ca": "web.key"}, "has no certificate of a CA"),
        ({"internal-key": "encrypted"}, "are not a certificate and its key"),
        ({"admin": "https://127.0.0.1"}, "is not https://HOST:PORT"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_refused(
    ours: Authority, changed: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_GATEWAY_DISCOVERY", "static://127.0.0.1:1")
    encrypt = ["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", "worker1.key", "-out", "encrypted"]
    subprocess.run(encrypt, cwd=ours.folder, check=True)
    given = {"authentication": "off", "ticket-key": "t", **ours.settings(internal="worker1", public="web")}
    given |= {n: str(ours.folder / v) if (ours.folder / v).exists() else v for n, v in changed.items()}
    with pytest.raises(InvalidSettings, match=words):
        GatewaySettings.load([f"--{name}={value}" for name, value in given.items()])
