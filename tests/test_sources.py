"""Sources of versions: every kind of place, hostile archives, and a cache that is never half full."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.processes import Child
from worker.models.digests import digest_of
from worker.repository import archives, sources
from worker.repository.archives import BadSource, Budget
from worker.repository.cache import Cache, using
from worker.repository.fetch import WrongDigest, fetch
from worker.repository.sources import Unreachable
from worker.repository.web import shown

MOST = 1 << 20
FILES = {"model.toml": b"artefact = 'net/model.onnx'\n", "net/model.onnx": bytes(range(256)) * 40}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return write(tmp_path / "digits" / "1", FILES)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tar(path: Path, files: dict[str, bytes], *, mode: str = "w:gz", top: str = "") -> Path:
    with tarfile.open(path, mode) as bundle:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(content)
            bundle.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, files: dict[str, bytes], *, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            bundle.writestr(top + name, content)
    return path


def read(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def web(handler: Callable[..., BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
            yield f"{scheme}://{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("top", ["", "./", "digits/1/"])
@pytest.mark.parametrize("mode", ["w", "w:gz", "zip"])
def test_archives_of_every_kind(tmp_path: Path, mode: str, top: str) -> None:
    if mode == "zip":
        path = zipped(tmp_path / "digits.zip", FILES, top=top)
    else:
        path = tar(tmp_path / ("digits.tar.gz" if mode == "w:gz" else "digits.tar"), FILES, mode=mode, top=top)
    obtained = sources.obtain(str(path), scratch(tmp_path), most_bytes=MOST)
    assert read(obtained.folder) == FILES
    assert obtained.archive == digest_of(path)


def test_an_archive_as_tar_itself_makes_it(tmp_path: Path, version: Path) -> None:
    path = tmp_path / "digits.tgz"
    subprocess.run(["tar", "czf", path, "-C", version.parent, "1"], check=True)
    assert read(sources.obtain(f"file://{path}", scratch(tmp_path), most_bytes=MOST).folder) == FILES


@pytest.mark.parametrize("written", [str, "file://{}".format, "local://{}".format])
def test_a_local_folder(tmp_path: Path, version: Path, written: Callable[[Path], str]) -> None:
    obtained = sources.obtain(written(version), scratch(tmp_path), most_bytes=MOST)
    assert read(obtained.folder) == FILES
    assert obtained.archive == ""


def test_an_object_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    for name, content in FILES.items():
        store.pipe(f"/bucket/digits/1/{name}", content)
    store.pipe("/bucket/digits.tar.gz", tar(tmp_path / "x.tar.gz", FILES).read_bytes())
    for number, url in enumerate(
        ("memory://bucket/digits/1", "memory://bucket/digits/1/", "memory://bucket/digits.tar.gz")
    ):
        (tmp_path / str(number)).mkdir()
        assert read(sources.obtain(url, tmp_path / str(number), most_bytes=MOST).folder) == FILES


def test_over_http_with_a_redirect(tmp_path: Path) -> None:
    zipped(tmp_path / "digits.zip", FILES)

    class Redirecting(Quiet):
        def do_GET(self) -> None:
            if self.path == "/digits.zip":
                super().do_GET()
                return
            self.send_response(302)
            self.send_header("Location", "/digits.zip" if self.path == "/once" else self.path + "x")
            self.end_headers()

    with web(partial(Redirecting, directory=tmp_path)) as url:
        obtained = sources.obtain(f"{url}/once", scratch(tmp_path), most_bytes=MOST)
        assert read(obtained.folder) == FILES
        (tmp_path / "again").mkdir()
        with pytest.raises(Unreachable, match="302"):
            sources.obtain(f"{url}/for-ever", tmp_path / "again", most_bytes=MOST)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_stays_on_the_web(tmp_path: Path, target: str) -> None:
    class Redirecting(Quiet):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.end_headers()

    with web(Redirecting) as url, pytest.raises(Unreachable):
        sources.obtain(f"{url}/x.zip", scratch(tmp_path), most_bytes=MOST)


def test_an_answer_that_is_cut_short(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "digits.zip", FILES).read_bytes()

    class Cutting(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:-10])

    with web(Cutting) as url, pytest.raises(Unreachable, match="does not answer"):
        sources.obtain(f"{url}/digits.zip", scratch(tmp_path), most_bytes=MOST)


def test_an_answer_without_end(tmp_path: Path) -> None:
    class Endless(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(65536))
            except ConnectionError:
                pass

    with web(Endless) as url, pytest.raises(BadSource, match=f"more than {MOST} bytes"):
        sources.obtain(f"{url}/digits.zip", scratch(tmp_path), most_bytes=MOST)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost that only those trust who are told to, and its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "certificate.pem"
    path.write_bytes(built.public_bytes(Encoding.PEM) + private)
    return path


def test_https_verifies_and_never_becomes_http(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(tmp_path / "digits.zip", FILES)

    class Redirecting(Quiet):
        def do_GET(self) -> None:
            if self.path == "/digits.zip":
                super().do_GET()
                return
            self.send_response(302)
            self.send_header("Location", f"http://{self.headers['Host']}/digits.zip")
            self.end_headers()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with web(partial(Redirecting, directory=tmp_path), context) as url:
        for name in ("untrusted", "trusted", "redirected"):
            (tmp_path / name).mkdir()
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            sources.obtain(f"{url}/digits.zip", tmp_path / "untrusted", most_bytes=MOST)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert read(sources.obtain(f"{url}/digits.zip", tmp_path / "trusted", most_bytes=MOST).folder) == FILES
        with pytest.raises(Unreachable, match="which is not https"):
            sources.obtain(f"{url}/elsewhere", tmp_path / "redirected", most_bytes=MOST)


def test_a_password_is_never_shown() -> None:
    assert shown("https://me:secret@host:1/a/b.zip?signature=secret") == "https://host:1/a/b.zip"


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def device(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    return member


def hostile_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as bundle:
        for member in members:
            bundle.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def zip_link(path: Path) -> Path:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(entry, "/etc/passwd")
    return path


def huge_header(path: Path) -> Path:
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 1 << 33
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    return path


HOSTILE: list[tuple[str, Callable[[Path], Path], str]] = [
    ("dots", lambda p: tar(p, {"../escaped": b"x"}), "not a path inside a folder"),
    ("inner dots", lambda p: tar(p, {"a/../../escaped": b"x"}), "not a path inside a folder"),
    ("absolute", lambda p: tar(p, {"/escaped": b"x"}), "not a path inside a folder"),
    ("backslashes", lambda p: tar(p, {"..\\escaped": b"x"}), "not a path inside a folder"),
    ("control characters", lambda p: tar(p, {"a\nb": b"x"}), "not a path inside a folder"),
    ("a long name", lambda p: tar(p, {"x/" * 600 + "x": b"x"}), "not a path inside a folder"),
    ("a symbolic link", lambda p: hostile_tar(p, link("model.toml", "/etc/passwd")), "link or a device"),
    ("a hard link", lambda p: hostile_tar(p, link("model.toml", "/etc/passwd", tarfile.LNKTYPE)), "link or a device"),
    ("a device", lambda p: hostile_tar(p, device("null", tarfile.CHRTYPE)), "link or a device"),
    ("a pipe", lambda p: hostile_tar(p, device("pipe", tarfile.FIFOTYPE)), "link or a device"),
    ("a bomb", lambda p: tar(p, {"zeros": bytes(20 * MOST)}), "more than 1048576 bytes"),
    ("many files", lambda p: tar(p, {str(n): b"" for n in range(10_001)}), "more than 10000 files"),
    ("the same twice", lambda p: hostile_tar(p, tarfile.TarInfo("a"), tarfile.TarInfo("a")), "two files are named a"),
    ("a file as folder", lambda p: tar(p, {"a": b"", "a/b": b""}), "two files are named"),
    ("a huge header", huge_header, "header of the archive is too large"),
    ("no manifest", lambda p: tar(p, {"model.onnx": b"x"}), "no model.toml"),
    ("nothing", lambda p: tar(p, {}), "no model.toml"),
    ("no archive", lambda p: (p.write_bytes(b"hello" * 1000) and p) or p, "damaged or of an unknown kind"),
    ("zip dots", lambda p: zipped(p, {"../escaped": b"x"}), "not a path inside a folder"),
    ("zip absolute", lambda p: zipped(p, {"/escaped": b"x"}), "not a path inside a folder"),
    ("zip link", zip_link, "link or a device"),
    ("zip bomb", lambda p: zipped(p, {"zeros": bytes(20 * MOST)}), "more than 1048576 bytes"),
]


@pytest.mark.parametrize(("make", "reason"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_hostile_archives(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    path = make(tmp_path / "archive.tar.gz")
    inside = scratch(tmp_path)
    with pytest.raises(BadSource, match=reason):
        sources.obtain(str(path), inside, most_bytes=MOST)
    assert {p.name for p in tmp_path.iterdir()} == {"archive.tar.gz", "scratch"}
    assert sum(p.stat().st_size for p in inside.rglob("*") if p.is_file()) <= MOST


@pytest.mark.parametrize("make", [tar, zipped])
def test_damaged_archives_raise_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Path]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = make(folder / "whole", FILES, **({"mode": "w"} if make is tar else {})).read_bytes()

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=8),
        st.integers(0, len(whole)),
    )
    def damage(changes: list[tuple[int, int]], end: int) -> None:
        data = bytearray(whole)
        for place, byte in changes:
            data[place] = byte
        path = folder / "damaged"
        path.write_bytes(data[: end if end % 2 else len(data)])
        into = folder / "into"
        into.mkdir()
        try:
            archives.unpack(path, into, Budget(MOST))
        except BadSource:
            pass
        finally:
            subprocess.run(["rm", "-r", into], check=True)

    damage()


def test_a_folder_with_a_link_is_refused(tmp_path: Path, version: Path) -> None:
    (version / "labels.txt").symlink_to("/etc/passwd")
    with pytest.raises(BadSource, match=r"labels.txt is a link"):
        sources.obtain(str(version), scratch(tmp_path), most_bytes=MOST)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/no/such/folder", "there is no /no/such/folder"),
        ("zip://x::http://127.0.0.1/", "one URL"),
        ("memory://bucket/nothing", "there is nothing at memory://bucket/nothing"),
        ("gopher://host/x", "gopher"),
        ("http://127.0.0.1:1/x.zip", "does not answer"),
    ],
)
def test_sources_that_are_none(tmp_path: Path, source: str, reason: str) -> None:
    with pytest.raises((BadSource, Unreachable), match=reason):
        sources.obtain(source, scratch(tmp_path), most_bytes=MOST)


def test_the_cache_answers_without_the_source(tmp_path: Path, version: Path) -> None:
    digest, cache = digest_of(version), Cache(tmp_path / "cache")
    first = fetch(str(version), digest, cache, most_bytes=MOST)
    assert (first.name, read(first)) == (digest, FILES)
    assert fetch("/no/such/source", digest, cache, most_bytes=MOST) == first
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [digest]


@pytest.mark.parametrize("digest", ["0" * 64, "..", "0" * 63, "A" * 64, ""])
def test_another_digest_is_not_fetched(tmp_path: Path, version: Path, digest: str) -> None:
    with pytest.raises(WrongDigest if len(digest) == 64 and digest != "A" * 64 else ValueError):
        fetch(str(version), digest, Cache(tmp_path / "cache"), most_bytes=MOST)
    assert not any((tmp_path / "cache").glob("*"))


def test_what_is_used_makes_no_room(tmp_path: Path, version: Path) -> None:
    cache, digest = Cache(tmp_path / "cache"), digest_of(version)
    folder = fetch(str(version), digest, cache, most_bytes=MOST)
    with using(folder), using(folder):
        cache.shrink(0, keep=())
        assert cache.find(digest) == folder
    cache.shrink(0, keep=())
    assert cache.find(digest) is None


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cache, digests = Cache(tmp_path / "cache"), []
    for number in range(4):
        made = write(tmp_path / str(number), FILES | {"net/model.onnx": bytes([number]) * 1000})
        digests.append(digest_of(made))
        fetch(str(made), digests[-1], cache, most_bytes=MOST)
        os.utime(tmp_path / "cache" / digests[-1], (number, number))
    cache.find(digests[1])
    cache.shrink(2100, keep={digests[2]})
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {digests[1], digests[2]}
    cache.shrink(0, keep={digests[2]})
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {digests[2]}


def test_what_a_killed_one_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    left, young = tmp_path / ".fetch-left", tmp_path / ".fetch-young"
    (left / "folder").mkdir(parents=True)
    with Cache(tmp_path).scratch() as living:
        for folder in (left, living):
            os.utime(folder, (1, 1))
        young.mkdir()
        with Cache(tmp_path).scratch() as other:
            assert set(tmp_path.iterdir()) == {living, young, other}


def test_two_threads_fetch_the_same(tmp_path: Path, version: Path) -> None:
    digest, together = digest_of(version), threading.Barrier(6)
    fetched: list[Path] = []

    def work() -> None:
        together.wait()
        fetched.append(fetch(str(version), digest, Cache(tmp_path / "cache"), most_bytes=MOST))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [tmp_path / "cache" / digest] * 6
    assert read(fetched[0]) == FILES
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [digest]


async def start(source: str, digest: str, cache: Path, *, timeout: float = 60.0) -> Child:
    orders = {"source": source, "digest": digest, "cache": str(cache), "most_bytes": MOST, "timeout": timeout}
    return await Child.start("fetch", [sys.executable, "-m", "worker.repository.fetch"], orders=orders)


async def events(child: Child) -> list[dict[str, Any]]:
    return [event async for event in child.events()]


async def test_as_a_child(tmp_path: Path, version: Path) -> None:
    (version / "model.toml").write_text("artefact = 'net/model.onnx'\ninput = {height = 8, width = 8}\n")
    digest = digest_of(version)
    children = [await start(str(version), digest, tmp_path / "cache") for _ in range(2)]
    said = await asyncio.gather(*(events(child) for child in children))
    assert said == [[{"event": "fetched", "folder": str(tmp_path / "cache" / digest)}]] * 2
    assert [await child.wait() for child in children] == [0, 0]


@pytest.mark.parametrize(
    "document",
    ["a=" + "[" * 20_000, "#" * (1 << 20) + "\n", "a=" + "9" * 10_000, "a." * 30_000 + "b=1", "\xff", ""],
    ids=["deep", "large", "number", "dotted", "no text", "empty"],
)
async def test_a_manifest_that_cannot_be_read_ends_only_a_child(tmp_path: Path, document: str) -> None:
    version = write(tmp_path / "3", {"model.toml": document.encode("latin-1")})
    child = await start(str(version), digest_of(version), tmp_path / "cache")
    (said,) = await events(child)
    assert (said["event"], await child.wait()) == ("refused", 1)
    assert any(words in said["reason"] for words in ("model.toml", "Field required", "has more than 1048576 bytes"))


async def test_a_child_says_why_not(tmp_path: Path, version: Path) -> None:
    child = await start(str(version), "0" * 64, tmp_path / "cache")
    (said,) = await events(child)
    assert said["event"] == "refused"
    assert "0" * 64 in said["reason"]
    assert await child.wait() == 1
    child = await start("/no/such/folder", "0" * 64, tmp_path / "cache")
    assert await events(child) == [{"event": "failed", "reason": "/no/such/folder: there is no /no/such/folder"}]
    assert await child.wait() == 1


@pytest.fixture
def dripping(tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """A server that sends the first bytes of an archive and then nothing; and an event: they are sent."""
    whole, begun, end = tar(tmp_path / "x.tar", FILES, mode="w").read_bytes(), threading.Event(), threading.Event()

    class Dripping(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[:-1])
            self.wfile.flush()
            begun.set()
            end.wait(60)

    with web(Dripping) as url:
        yield f"{url}/x.tar", begun
        end.set()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_child_that_is_stopped_half_way_leaves_nothing_to_take(
    tmp_path: Path, version: Path, dripping: tuple[str, threading.Event], number: signal.Signals
) -> None:
    (url, begun), digest, cache = dripping, digest_of(version), tmp_path / "cache"
    child = await start(url, digest, cache)
    await asyncio.to_thread(begun.wait, 30)
    child.signal(number)
    assert await child.wait() == (-9 if number == signal.SIGKILL else 143)
    left = [path.name for path in cache.iterdir()]
    assert all(name.startswith(".fetch-") for name in left)
    assert len(left) == (number == signal.SIGKILL)
    for name in left:
        os.utime(cache / name, (1, 1))
    assert read(fetch(str(version), digest, Cache(cache), most_bytes=MOST)) == FILES
    assert [path.name for path in cache.iterdir()] == [digest]


async def test_a_child_gives_up_in_time(tmp_path: Path, dripping: tuple[str, threading.Event]) -> None:
    child = await start(dripping[0], "0" * 64, tmp_path / "cache", timeout=0.5)
    (said,) = await events(child)
    assert said["event"] == "failed"
    assert said["reason"].endswith("not fetched within 0.5 seconds")
    assert await child.wait() == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == []


def test_a_child_ends_with_its_input(tmp_path: Path, dripping: tuple[str, threading.Event]) -> None:
    orders = {
        "source": dripping[0],
        "digest": "0" * 64,
        "cache": str(tmp_path / "c"),
        "most_bytes": MOST,
        "timeout": 60,
    }
    with subprocess.Popen([sys.executable, "-m", "worker.repository.fetch"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(orders).encode() + b"\n")
        process.stdin.flush()
        dripping[1].wait(30)
        began = time.monotonic()
        process.stdin.close()
        assert process.wait(10) == 1
        assert time.monotonic() - began < 5
