"""``shoal doctor`` finds what ails a host and says what to do: a table of sick hosts, and real servers that are ill."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shoal import cli, keys, tickets
from shoal.doctor import checks, command, consul, files, gpu, machine, network, redis
from shoal.doctor.checks import CHECKS, Check, Made, Report, make
from shoal.doctor.finding import Finding, Level, ok, size
from shoal.doctor.host import Host, Ran
from shoal.doctor.subject import ROLES, Member, Members, Role, Subject
from shoal.settings import GatewaySettings, WorkerSettings
from tests.clusters import eventually_async, is_running
from tests.consul_server import ConsulServer, find_consul, free_port
from tests.needs import need
from tests.pages import ROOT
from tests.redis_servers import RedisServer

MIB, GIB = 1 << 20, 1 << 30
DRIVER = gpu.Driver(("0, NVIDIA L4, 550.54.15, 23034 MiB",), "550.54.15", (12, 4))
TORCH = next(runtime for runtime in gpu.RUNTIMES if runtime.module == "torch")
FACTS = {
    "redis_version": "6.2.5",
    "maxmemory": "1000",
    "maxmemory-policy": "noeviction",
    "save": "",
    "appendonly": "no",
}
REQUIRED = [
    "aiohttp>=3.13",
    "pyjwt>=2.10; extra == 'service'",
    "shoal[service]; extra == 'gateway'",
    "flask-swagger-ui>=5.31; extra == 'gateway'",
]


def wants(role: Role, **versions: str) -> Finding:
    there = {"aiohttp": "3.14.1", "pyjwt": "2.10.1", "flask-swagger-ui": "5.32"} | versions
    return machine.judge_packages(role, REQUIRED, lambda name: there.get(name) or None)


def token(*allowed: consul.Right, role: str = "worker", status: int = 200, text: str = "") -> Finding:
    asked = [*consul.needed(role, "shoal"), *consul.unneeded(role, "shoal")]
    answer = [right.document() | {"Allow": right in allowed} for right in asked]
    return consul.judge_token(role, "shoal", has_token=True, answer=(status, answer, text))


def driver(found: gpu.Driver | None, *, has_gpu: bool = True, nouveau: bool = False, devices: str = "auto") -> Finding:
    return gpu.judge_driver(found, has_gpu=has_gpu, nouveau=nouveau, devices=devices)


def torch(report: gpu.Report | None, failure: str = "") -> Finding:
    return gpu.judge_runtime(TORCH, report, failure, DRIVER)


def redis_facts(mode: int = 0o700, **facts: str) -> Finding:
    return redis.judge_running(FACTS | {name.replace("_", "-"): value for name, value in facts.items()}, mode)


NEEDED = consul.needed("worker", "shoal")

SICK: list[tuple[Finding, str, str]] = [  # what was found, its level, and words of it
    (machine.judge_python((3, 11, 2), True), "ok", "Python 3.11.2"),
    (machine.judge_python((3, 9, 2), True), "problem", "Python 3.9.2"),
    (machine.judge_python((3, 12, 0), False), "problem", "32 bits"),
    (wants("gateway"), "ok", "3 packages"),
    (wants("client", pyjwt=""), "ok", "1 packages"),
    (wants("gateway", pyjwt=""), "problem", "pyjwt is not installed"),
    (wants("gateway", aiohttp="3.9.5"), "problem", "aiohttp is 3.9.5, older than 3.13"),
    (machine.judge_kernel("Linux", "6.1.0-18-amd64", "x86_64"), "ok", "6.1.0"),
    (machine.judge_kernel("Linux", "4.18.0", "x86_64"), "problem", "4.18"),
    (machine.judge_kernel("Darwin", "23.1.0", "arm64"), "problem", "Darwin"),
    (machine.judge_kernel("Linux", "6.6.1", "riscv64"), "warning", "riscv64"),
    (machine.judge_open_files(65536, "the service"), "ok", "65536"),
    (machine.judge_open_files(float("inf"), "the service"), "ok", "inf"),
    (machine.judge_open_files(4096, "this shell"), "warning", "4096"),
    (machine.judge_open_files(256, "the service"), "problem", "256"),
    (machine.judge_open_files(None, "the service"), "warning", "not known"),
    (machine.judge_locked_memory(65536, has_gpu=False), "ok", "no GPU"),
    (machine.judge_locked_memory(65536, has_gpu=True), "warning", "64 KiB"),
    (machine.judge_locked_memory(float("inf"), has_gpu=True), "ok", "unlimited"),
    (machine.judge_memory(8 * GIB, {"redis_bytes": GIB}), "ok", "8 GiB"),
    (machine.judge_memory(5 * GIB // 4, {"redis_bytes": GIB}), "warning", "little for models"),
    (machine.judge_memory(GIB, {"redis_bytes": GIB, "bodies": MIB}), "problem", "redis_bytes and bodies"),
    (machine.judge_memory(None, {"redis_bytes": GIB}), "warning", "not known"),
    (machine.judge_disk("", 10 * GIB, 0, 20 * GIB), "ok", "temporary folder"),
    (machine.judge_disk("/cache", 30 * GIB, 0, 20 * GIB), "ok", "30 GiB free"),
    (machine.judge_disk("/cache", 12 * GIB, 9 * GIB, 20 * GIB), "ok", "12 GiB free"),
    (machine.judge_disk("/cache", 12 * GIB, 2 * GIB, 20 * GIB), "warning", "permits 20 GiB"),
    (machine.judge_disk("/cache", GIB, 19 * GIB, 20 * GIB), "problem", "1 GiB free"),
    (machine.judge_shared_memory(64 * MIB), "warning", "64 MiB"),
    (machine.judge_shared_memory(GIB), "ok", "1 GiB"),
    (machine.judge_connection_backlog(4096), "ok", "4096"),
    (machine.judge_connection_backlog(128), "warning", "128"),
    (machine.judge_connection_backlog(None), "warning", "not known"),
    (machine.judge_overcommit(0), "ok", "0"),
    (machine.judge_overcommit(2), "warning", "2"),
    (machine.judge_port_range("32768\t60999", {"port": 8601, "internal_port": 0}), "ok", "32768 to 60999"),
    (machine.judge_port_range("1024\t65535", {"port": 8601, "internal_port": 0}), "warning", "take port 8601"),
    (machine.judge_port_range("60000\t60999", {"port": 8601}), "warning", "few"),
    (machine.judge_port_range("", {"port": 8601}), "warning", "not known"),
    (network.judge_holder("port 8601", "worker", "python -m worker.front_process"), "ok", "the worker itself"),
    (network.judge_holder("port 8601", "worker", "python -m gateway"), "problem", "python -m gateway"),
    (network.judge_holder("port 80", "gateway", "nginx"), "problem", "nginx"),
    (network.judge_holder("port 80", "gateway", None), "warning", "only root"),
    (network.judge_name("w1.example.org", ["internal_host"], ["10.0.0.7"]), "ok", "10.0.0.7"),
    (network.judge_name("w1", ["internal_host"], ["127.0.1.1"]), "warning", "127.0.1.1"),
    (network.judge_name("w1", ["host"], []), "problem", "w1"),
    (network.judge_clock(True), "ok", "synchronised"),
    (network.judge_clock(False), "warning", "nothing keeps"),
    (network.judge_skew({}), "ok", "nobody"),
    (network.judge_skew({"w1": 0.4, "w2": -0.9}), "ok", "2 others"),
    (network.judge_skew({"w1": 0.4, "w2": -3.2}), "warning", "w2 is 3 s behind"),
    (network.judge_skew({"w1": 90.0}), "problem", "w1 is 90 s ahead"),
    (network.judge_discovery("consul", "", ["worker", "worker", "gateway"]), "ok", "1 gateways and 2 workers"),
    (network.judge_discovery("consul", "refused", []), "problem", "refused"),
    (network.judge_members(0, 0, []), "ok", "nobody"),
    (network.judge_members(7, 5, []), "ok", "5 of 7"),
    (network.judge_members(2, 2, ["w1 at http://10.0.0.7:8602"]), "problem", "w1 at"),
    (network.judge_readiness("worker", 200, None), "ok", "is ready"),
    (network.judge_readiness("worker", 503, None), "problem", "HTTP 503"),
    (network.judge_readiness("worker", None, "refused"), "warning", "refused"),
    (network.judge_gateway("http://g", None, "refused"), "problem", "refused"),
    (network.judge_gateway("http://g", 401, {}), "problem", "API key"),
    (network.judge_gateway("http://g", 200, None), "problem", "not as a gateway"),
    (network.judge_gateway("http://g", 200, {"workers": [{"state": "silent"}]}), "problem", "no worker"),
    (network.judge_gateway("http://g", 200, {"workers": [{"state": "ready"}, {"state": "silent"}]}), "ok", "1 of 2"),
    (consul.judge_leader("http://c", 200, "10.0.0.1:8300", ""), "ok", "10.0.0.1"),
    (consul.judge_leader("http://c", 200, "", '""'), "problem", "no leader"),
    (consul.judge_leader("http://c", 500, None, "No cluster leader"), "problem", "HTTP 500"),
    (token(*NEEDED), "ok", "no more"),
    (token(*NEEDED[:2]), "problem", "read node any, read key shoal/models/any"),
    (token(*NEEDED, consul.Right("acl", "write")), "warning", "write acl"),
    (token(status=403, text="ACL not found"), "problem", "does not know"),
    (token(status=401, text="ACL support disabled"), "warning", "ACLs are off"),
    (token(status=404, text="404 page not found"), "warning", "HTTP 404"),
    (redis_facts(), "ok", "version 6.2"),
    (redis.judge_running(FACTS | {"redis_version": "7.0.15"}, 0o770), "ok", "7.0"),
    (redis.judge_running(FACTS | {"redis_version": "5.0.3"}, 0o700), "problem", "5.0.3"),
    (redis.judge_running({}, 0o700), "problem", "unknown"),
    (redis.judge_running({"redis_version": "7.2.4"}, 0o700), "warning", "does not tell"),
    (redis_facts(maxmemory_policy="allkeys-lru"), "problem", "allkeys-lru"),
    (redis_facts(maxmemory="0"), "problem", "no maxmemory"),
    (redis_facts(save="3600 1"), "warning", "writes to disk"),
    (redis_facts(appendonly="yes"), "warning", "writes to disk"),
    (redis_facts(0o777), "problem", "0777"),
    (redis.judge_program(None, has_embedded=True), "ok", "Valkey"),
    (redis.judge_program(None, has_embedded=False), "problem", "no redis-server"),
    (redis.judge_program("Redis server v=7.0.15 sha=0", has_embedded=False), "ok", "7.0"),
    (redis.judge_program("Redis server v=5.0.3 sha=0", has_embedded=False), "problem", "5.0"),
    (redis.judge_program("hello", has_embedded=False), "warning", "hello"),
    (driver(None, has_gpu=False), "ok", "no GPU"),
    (driver(None), "problem", "no driver"),
    (driver(None, has_gpu=False, devices="0"), "problem", "devices names GPU 0"),
    (driver(DRIVER), "ok", "1 GPU (NVIDIA L4), driver 550.54.15, CUDA up to 12.4"),
    (driver(DRIVER, devices="0,1"), "problem", "names GPU 1"),
    (driver(gpu.Driver()), "problem", "sees no GPU"),
    (driver(gpu.Driver(failure="Driver/library version mismatch")), "problem", "mismatch"),
    (torch(gpu.Report("2.6.0", "12.4", "9", 1)), "ok", "sees 1 of 1"),
    (torch(gpu.Report("2.9.0", "13.0", "9", 0)), "problem", "CUDA up to 12.4"),
    (torch(gpu.Report("2.6.0", "12.6", "9", 0)), "problem", "sees no GPU"),
    (torch(gpu.Report("2.6.0+cpu", None, None, 0)), "warning", "without CUDA"),
    (torch(gpu.Report("1.24", "12.4", "9", None, ["libcudnn.so.9"])), "problem", "libcudnn.so.9"),
    (torch(None, "ImportError: libcublas.so.12"), "problem", "libcublas"),
    (files.judge_settings("worker", ()), "ok", "valid"),
    (files.judge_settings("worker", ["port: too large", "colour: there is no such setting"]), "problem", "colour"),
]


@pytest.mark.parametrize(("finding", "level", "words"), SICK, ids=lambda value: getattr(value, "found", None))
def test_a_table_of_hosts(finding: Finding, level: str, words: str) -> None:
    assert (finding.level, words in finding.found) == (level, True), finding
    assert bool(finding.advice) == (level != "ok")


def test_a_driver_for_a_newer_cuda_is_named() -> None:
    assert "580" in torch(gpu.Report("2.9.0", "13.0", "9", 0)).advice
    assert "nouveau" in driver(None, nouveau=True).advice


@pytest.mark.parametrize(
    ("said", "before", "after", "seconds"),
    [(100, 100.2, 100.3, 0), (100, 100.9, 101.4, 0), (110, 100.2, 100.3, 9.7), (90, 100.2, 100.3, -9.2)],
)
def test_how_far_a_clock_is_ahead(said: float, before: float, after: float, seconds: float) -> None:
    assert network.ahead(said, before, after) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("cmdline", "shown"),
    [
        ("/opt/venv/bin/python3\0-m\0gateway\0--discovery\0consul://x?token=s3cret\0", "python3 -m gateway"),
        ("/usr/bin/python\0-m\0worker.front_process\0", "python -m worker.front_process"),
        ("/opt/bin/python\0/opt/bin/shoal\0worker\0--port\x008601\0", "python shoal worker"),
        ("nginx: master process /usr/sbin/nginx\0-c\0/etc/x\0", "nginx"),
    ],
)
def test_a_process_is_named_without_its_options(cmdline: str, shown: str) -> None:
    assert network.command_of(cmdline) == shown


def test_sizes() -> None:
    assert [size(n) for n in (0, 1536, 20 * MIB, 200 * GIB, 3 << 40)] == [
        "0 bytes",
        "1.5 KiB",
        "20 MiB",
        "200 GiB",
        "3 TiB",
    ]


# Hosts of our making


@pytest.fixture
def folder() -> Iterator[Path]:
    """pytest's own folders are too deep for sockets."""
    with tempfile.TemporaryDirectory(prefix="d-") as name:
        yield Path(name)


def of_gateway(folder: Path, **settings: Any) -> GatewaySettings:
    private = folder / "ticket.key"
    if not private.exists():
        tickets.generate(private, folder / "ticket-keys.json")
    given: dict[str, Any] = {
        "discovery": f"file://{folder / 'members'}",
        "ticket_key": private,
        "authentication": "off",
    } | settings
    return GatewaySettings(**given)


def of_worker(folder: Path, **settings: Any) -> WorkerSettings:
    return WorkerSettings(**{"discovery": f"file://{folder / 'members'}", "models": ("fake",)} | settings)


def worker(folder: Path, *, on: Host | None = None, **settings: Any) -> Subject:
    return Subject("worker", on or Host(), of_worker(folder, **settings))


def found(subject: Subject, look: checks.Look) -> Finding:
    async def once() -> list[Finding]:
        try:
            return await look(subject)
        finally:
            await subject.forget()

    (finding,) = asyncio.run(once())
    return finding


def fake_host(folder: Path, texts: Mapping[str, str] = {}, **programs: str) -> Host:
    """A root with these files, and a PATH with these programs before the machine's own."""
    for path, text in texts.items():
        (folder / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "root" / path).write_text(text)
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in programs.items():
        program = folder / "bin" / name.replace("_", "-")
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    return Host(folder / "root", {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)})


LIMITS = "Limit                     Soft Limit           Hard Limit           Units\n"
LIMITS += "Max open files            300                  524288               files\n"
LIMITS += "Max locked memory         8388608              8388608              bytes\n"
CARD = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x030200\n"}
SMI = """
if [[ $1 == --query* ]]; then echo "0, NVIDIA H200, 550.54.15, 143771 MiB"; else
echo "| NVIDIA-SMI 550.54.15   Driver Version: 550.54.15   CUDA Version: 12.4 |"; fi
"""


def test_limits_are_those_of_the_service(folder: Path) -> None:
    host = fake_host(folder, {"proc/4711/limits": LIMITS} | CARD, systemctl="echo 4711")
    assert found(worker(folder, on=host), machine.open_files).found.startswith("the service may have 300 files")
    assert found(worker(folder, on=host), machine.locked_memory).found == "8 MiB may be locked"
    host = fake_host(folder, {"proc/self/limits": LIMITS}, systemctl="echo 0")
    assert found(worker(folder, on=host), machine.open_files).found.startswith("this shell may have 300 files")


@pytest.mark.parametrize(
    "texts",
    [
        {"proc/self/cgroup": "0::/a.slice/b\n", "sys/fs/cgroup/a.slice/memory.max": f"{GIB}\n"},
        {"proc/self/cgroup": "4:memory:/docker/x\n", "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": f"{GIB}\n"},
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "proc/meminfo": f"MemTotal: {GIB >> 10} kB\n",
        },
    ],
    ids=["v2", "v1", "no limit"],
)
def test_memory_is_that_of_the_control_group(folder: Path, texts: dict[str, str]) -> None:
    host = fake_host(folder, {"proc/meminfo": "MemTotal:       65536000 kB\n"} | texts, systemctl="exit 1")
    finding = found(worker(folder, on=host), machine.memory)
    assert finding.level == "problem"
    assert finding.found.startswith("1 GiB of memory")


def test_a_disk_holds_what_is_cached(folder: Path) -> None:
    cache = folder / "cache"
    cache.mkdir()
    (cache / "model").write_bytes(b"x" * 1000)
    finding = found(worker(folder, model_cache=str(cache), model_cache_bytes=1 << 50), machine.disk)
    assert finding.level == "warning"
    assert "holds 1000 bytes" in finding.found


def test_a_card_without_a_driver(folder: Path) -> None:
    finding = found(worker(folder, on=fake_host(folder, CARD)), gpu.gpu_driver)
    assert (finding.level, finding.found) == ("problem", "there is a GPU of NVIDIA, and no driver for it")


def test_a_driver_that_was_updated(folder: Path) -> None:
    said = "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
    finding = found(worker(folder, on=fake_host(folder, CARD, nvidia_smi=said)), gpu.gpu_driver)
    assert finding.level == "problem"
    assert finding.advice.startswith("restart the machine")


FAKE_TORCH = """
import sys
from types import SimpleNamespace as Some
__version__ = "2.9.0"
print("a word of its own")
version = Some(cuda="{cuda}")
backends = Some(cudnn=Some(version=lambda: 91002))
cuda = Some(device_count=lambda: {gpus})
"""


@pytest.mark.parametrize(
    ("module", "level", "words"),
    [
        (FAKE_TORCH.format(cuda="12.8", gpus=1), "ok", "torch 2.9.0, for CUDA 12.8 and cuDNN 9, sees 1 of 1 GPUs"),
        (FAKE_TORCH.format(cuda="13.0", gpus=0), "problem", "the driver 550.54.15 runs CUDA up to 12.4"),
        ("raise ImportError('libcudart.so.12: cannot open shared object file')", "problem", "libcudart.so.12"),
        ("import os; os.abort()", "problem", "cannot be imported"),
    ],
    ids=["fits", "driver too old", "library missing", "crashes"],
)
def test_a_runtime_is_asked_in_a_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, level: str, words: str
) -> None:
    (folder / "modules").mkdir()
    (folder / "modules" / "torch.py").write_text(module)
    host = fake_host(folder, CARD, nvidia_smi=SMI)
    host = replace(host, environ={**host.environ, "PYTHONPATH": str(folder / "modules")})
    monkeypatch.setattr(gpu, "is_installed", lambda module: module == "torch")
    finding = found(worker(folder, on=host), gpu.runtimes)
    assert (finding.level, words in finding.found) == (level, True), finding


def test_every_question_is_understood_by_what_is_installed(folder: Path) -> None:
    """The real onnxruntime, as if there were a GPU: the build without CUDA is found out."""
    subject = worker(folder, on=fake_host(folder, CARD, nvidia_smi=SMI))
    (runtime,) = (r for r in gpu.RUNTIMES if r.module == "onnxruntime")
    finding = asyncio.run(gpu._ask(subject, runtime, DRIVER))
    assert finding.level == "warning"
    assert re.fullmatch(r"onnxruntime [\d.]+ is a build without CUDA: .*", finding.found)


# Ports


def test_a_port_that_is_held(folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as held:
        finding = found(worker(folder, port=held.getsockname()[1]), network.ports)
    assert finding.level == "problem"
    assert "held by another process: " in finding.found
    finding = found(worker(folder, port=free_port()), network.ports)
    assert finding.level == "ok"
    finding = found(worker(folder, port=free_port(), host="192.0.2.1", ticket_keys=Path("x")), network.ports)
    assert (finding.level, "no such address" in finding.found) == ("problem", True)


# Files


def certificate(
    folder: Path,
    name: str,
    *,
    role: str = "worker.shoal",
    days: float = 90,
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate and its key, in ``NAME.pem`` and ``NAME.key``, by its own hand or that of a CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer[0].subject if signer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(role)]), critical=False)
        .sign(signer[1] if signer else key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.pem").write_bytes(made.public_bytes(pem))
    (folder / f"{name}.key").write_bytes(private)
    return made, key


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, "ok", "valid until"),
        ({"days": 3}, "warning", "valid until"),
        ({"days": -1}, "problem", "has expired"),
        ({"role": "gateway.shoal"}, "problem", "does not name worker.shoal"),
        ({"signer": None}, "problem", "not signed by internal_ca"),
        ({"key": "ca.key"}, "problem", "not a certificate and its key"),
        ({"key": "missing.key"}, "problem", "not a certificate and its key"),
    ],
    ids=["well", "soon", "expired", "another role", "another CA", "another key", "no key"],
)
def test_certificates(tmp_path: Path, change: dict[str, Any], level: str, words: str) -> None:
    ca = certificate(tmp_path, "ca", role="ca.shoal")
    key = tmp_path / change.pop("key", "mine.key")
    certificate(tmp_path, "mine", **{"signer": ca} | change)
    finding = files.judge_certificate("internal", "worker", tmp_path / "mine.pem", key, tmp_path / "ca.pem")
    assert (finding.level, words in finding.found) == (level, True), finding
    assert bool(finding.advice) == (level != "ok")


def test_keys_that_others_may_read_or_change(folder: Path) -> None:
    key_file = folder / "api-keys"
    keys.add(key_file, "alice")
    subject = Subject("gateway", Host(), of_gateway(folder, api_keys=key_file))
    assert found(subject, files.keys).level == "ok"
    for mode, words in ((0o644, "everyone may read"), (0o660, "others may change")):
        key_file.chmod(mode)
        finding = found(subject, files.keys)
        assert (finding.level, words in finding.found) == ("problem", True)
    key_file.chmod(0o600)
    key_file.write_text("")
    assert "has no key" in found(subject, files.keys).found
    key_file.write_text("alice hunter2\n")
    assert "line 1" in found(subject, files.keys).found
    key_file.unlink()
    assert "is not there" in found(subject, files.keys).found


def test_settings_that_name_what_is_not_there(folder: Path) -> None:
    config = folder / "shoal.toml"
    config.write_text(f'[worker]\ndiscovery = "file://{folder}/members"\nmodels = ["no-such-format:x"]\n')
    arguments = ["--config", str(config)]
    finding = found(Subject("worker", Host(), WorkerSettings.load(arguments), arguments=arguments), files.settings)
    assert (finding.level, "models" in finding.found) == ("problem", True)


# Real servers


def test_a_redis_that_is_ill(folder: Path) -> None:
    server = RedisServer("redis", folder)
    subject = worker(folder, redis=str(server.socket))
    with server:
        assert found(subject, redis.redis).found == "version 6.2, noeviction, nothing on disk"
        for name, value, level in (
            ("save", "3600 1", "warning"),
            ("maxmemory", "0", "problem"),
            ("maxmemory-policy", "allkeys-lru", "problem"),
        ):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(server.socket))
                connection.sendall(f'CONFIG SET {name} "{value}"\r\n'.encode())
                assert connection.recv(64) == b"+OK\r\n"
            assert found(subject, redis.redis).level == level
    assert found(subject, redis.redis).found.startswith("no answer")


def test_what_is_no_redis(folder: Path) -> None:
    async def serve() -> Finding:
        async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_unix_server(hello, folder / "socket")
        async with server:
            (finding,) = await redis.redis(worker(folder, redis=str(folder / "socket")))
        return finding

    finding = asyncio.run(serve())
    assert (finding.level, "not the protocol of Redis" in finding.found) == ("problem", True)


@pytest.fixture(scope="module")
def acl_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    binary = find_consul()
    need(binary, "no consul")
    with ConsulServer(str(binary), tmp_path_factory.mktemp("consul"), management="root-token") as server:
        yield server


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_consul_and_what_a_token_may_do(role: Role, folder: Path, acl_consul: ConsulServer) -> None:
    def judged(secret: str, look: checks.Look = consul.consul_token) -> Finding:
        settings = {"discovery": acl_consul.url, "discovery_token": secret}
        loaded = of_gateway(folder, **settings) if role == "gateway" else of_worker(folder, **settings)
        return found(Subject(role, Host(), loaded), look)

    assert judged("", consul.consul).level == "ok"
    advised = acl_consul.token(consul.policy(role, "shoal"))
    assert judged(advised) == ok("the token may do what is needed, and no more")
    assert judged(advised, network.discovery) == ok("consul: 0 gateways and 0 workers are ready")
    weak = judged(acl_consul.token(f'service "shoal-{role}" {{ policy = "write" }}'))
    assert weak.level == "problem"
    assert "read key shoal/models/any" in weak.found
    assert judged("root-token").level == "warning"
    unknown = "7e0ee0ca-4e57-4e9a-9a6c-000000000000"
    assert judged(unknown).found == "Consul does not know the token"
    assert judged(unknown, network.discovery).level == "problem"
    assert judged("").found.startswith("without a token")


def test_a_consul_that_is_away_or_open(folder: Path, tmp_path: Path) -> None:
    binary = find_consul()
    need(binary, "no consul")
    with ConsulServer(str(binary), tmp_path) as server:
        subject = worker(folder, discovery=server.url)
        assert found(subject, consul.consul_token).found.startswith("ACLs are off")
    assert found(subject, consul.consul).level == "problem"
    assert found(subject, consul.consul_token).level == "problem"


async def test_a_clock_that_is_wrong_and_a_key_that_is_not_taken(folder: Path) -> None:
    async def old(request: web.Request) -> web.Response:
        date = format_datetime(datetime.now(UTC) - timedelta(seconds=40), usegmt=True)
        return web.json_response({"error": {}}, status=401, headers={"Date": date})

    app = web.Application()
    app.router.add_get("/{path}", old)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        client = Subject("client", Host(), gateways=[url], api_key="s3cret")
        report = await make(client)
    worst = {made.code: made.finding.found for made in report.made if made.finding.level == "problem"}
    assert worst.keys() == {"gateway", "gateway_clock"}
    assert "does not take the API key" in worst["gateway"]
    assert re.search(r"(3[5-9]|4[01]) s behind", worst["gateway_clock"])


async def test_members_that_do_not_answer(folder: Path) -> None:
    subject = worker(folder, name="w1")
    itself = Member("worker", "w1", f"http://10.0.0.1:{free_port()}")  # from before it was destroyed
    gone = Members([Member("gateway", "g1", f"http://127.0.0.1:{free_port()}"), itself])

    async def known() -> Members:
        return gone

    subject._members = asyncio.create_task(known())
    (finding,) = await network.members(subject)
    assert (finding.level, "g1 at http://127.0.0.1" in finding.found, "w1" in finding.found) == ("problem", True, False)
    (finding,) = await network.clock_skew(subject)
    assert finding.found == "there is nobody to compare the clock with"


# The whole


async def test_a_check_that_hangs_or_breaks_is_a_finding(folder: Path) -> None:
    async def hangs(subject: Subject) -> list[Finding]:
        await subject.host.run("sleep", "1000")
        return []

    async def breaks(subject: Subject) -> list[Finding]:
        raise KeyError("colour")

    async def well(subject: Subject) -> list[Finding]:
        return [ok("well")]

    slow = Check("slow", ROLES, hangs, "", asks=False, seconds=0.3)
    bad, fine = (Check(code, ROLES, look, "", asks=False) for code, look in (("bad", breaks), ("fine", well)))
    report = await make(Subject("client", Host()), (slow, bad, fine))
    assert [(made.code, made.finding.level) for made in report.made] == [
        ("slow", "problem"),
        ("bad", "problem"),
        ("fine", "ok"),
    ]
    assert "colour" in report.made[1].finding.found


def test_without_settings_the_rest_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "worker", "--config", "/nowhere/shoal.toml", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    levels = {check["code"]: check["level"] for check in report["checks"]}
    assert (report["outcome"], levels["settings"], levels["kernel"]) == ("problem", "problem", "ok")
    assert set(report["not_made"]) == {check.code for check in CHECKS if "worker" in check.roles and check.asks}


def test_asked_wrongly(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "launderette"])
    assert ended.value.code == 2
    assert cli.main(["doctor", "worker", "--env-file", "/nowhere"]) == 2
    assert cli.main(["doctor", "worker", "--only", "python", "--only", "weather"]) == 2
    capsys.readouterr()


def test_a_healthy_worker_and_what_strict_says(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "is_clock_synchronised", lambda self: False)
    config, variables = folder / "shoal.toml", folder / "worker.env"
    config.write_text(f'[worker]\nmodels = ["fake"]\nport = {free_port()}\nredis_bytes = 1000000\n')
    variables.write_text(f'# secrets\nSHOAL_WORKER_DISCOVERY="file://{folder}/members"\n')
    monkeypatch.setenv("SHOAL_WORKER_DISCOVERY", "nonsense")
    before = sorted(folder.rglob("*"))
    assert cli.main(["doctor", "worker", "--strict", "--config", str(config), "--env-file", str(variables)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("worker: 0 problems, ")
    assert {check.code for check in CHECKS if "worker" in check.roles} <= {
        word for line in lines for word in line.split()
    }
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("worst", "strict", "code"),
    [("ok", True, 0), ("warning", False, 0), ("warning", True, 1), ("problem", False, 1), ("problem", True, 1)],
)
def test_exit_codes(
    worst: Level, strict: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def made(subject: Subject, wanted: Sequence[Check]) -> Report:
        return Report("client", [Made("a", ok("well")), Made("b", Finding(worst, "b is so", "do this"))], [])

    monkeypatch.setattr(command, "make", made)
    assert cli.main(["doctor", "client", *(["--strict"] if strict else [])]) == code
    assert "-> do this" in capsys.readouterr().out


@pytest.mark.cluster
def test_beside_a_running_gateway_and_no_secret_is_told(folder: Path) -> None:
    key_file = folder / "api-keys"
    key = keys.add(key_file, "alice")
    tickets.generate(folder / "ticket.key", folder / "ticket-keys.json")
    port, internal = free_port(), free_port()
    config = folder / "shoal.toml"
    config.write_text(
        f'[gateway]\ndiscovery = "file://{folder}/members"\ndiscovery_token = "s3cret"\nport = {port}\n'
        f'internal_port = {internal}\nticket_key = "{folder}/ticket.key"\napi_keys = "{key_file}"\ngrace = 0\n'
        f'admin = "{folder}/g.sock"\n'
    )
    gateway = subprocess.Popen(
        [sys.executable, "-m", "gateway", "--config", str(config)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert gateway.stdout is not None
        assert json.loads(gateway.stdout.readline())["event"] == "ready"

        def doctor(*arguments: str) -> tuple[dict[str, list[Any]], int]:
            ran = subprocess.run(
                [sys.executable, "-m", "shoal.cli", "doctor", *arguments, "--json"], capture_output=True, text=True
            )
            assert "s3cret" not in ran.stdout + ran.stderr
            assert key not in ran.stdout + ran.stderr
            levels: dict[str, list[Any]] = {}
            for check in json.loads(ran.stdout)["checks"]:
                levels.setdefault(check["code"], []).append(check)
            return levels, ran.returncode

        checked, _ = doctor("gateway", "--config", str(config))
        assert [check["found"] for check in checked["ports"]] == [
            f"port {port} on 127.0.0.1 is held by the gateway itself",
            f"internal_port {internal} on 127.0.0.1 is held by the gateway itself",
        ]
        assert checked["discovery"][0]["found"] == "file: 1 gateways and 0 workers are ready"
        assert checked["members"][0]["found"] == "discovery names nobody else"
        assert checked["clock_skew"][0]["found"] == "there is nobody to compare the clock with"
        url = f"http://127.0.0.1:{port}"
        checked, code = doctor("gateway", "--config", str(config), "--only", "readiness", "--strict")
        assert (code, list(checked)) == (0, ["readiness"])
        checked, code = doctor("client", "--gateway", url, "--api-key", key)
        assert (code, checked["gateway"][0]["found"]) == (1, f"{url} answers and has no worker")
        checked, code = doctor("client", "--gateway", url, "--api-key", f"{key}x")
        assert (code, checked["gateway"][0]["found"]) == (1, f"{url} does not take the API key")
    finally:
        gateway.terminate()
        assert gateway.wait(30) == 0
        assert gateway.stdout is not None
        gateway.stdout.close()


def test_the_page_has_every_check() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    wanted = [f"| `{check.code}` | {', '.join(check.roles)} | {check.what} |" for check in CHECKS]
    assert [line for line in page.splitlines() if line.startswith("| `")] == wanted
    assert len({check.code for check in CHECKS}) == len(CHECKS)


async def test_the_children_of_a_program_that_is_given_up_end_with_it(folder: Path) -> None:
    pid_file = folder / "pid"
    script = f"read orders; sleep 300 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
    host = fake_host(folder, nvidia_smi=script)
    running = asyncio.create_task(host.run("nvidia-smi", orders="you\n"))

    async def has_children() -> bool:
        return pid_file.exists()

    async def has_none() -> bool:
        return not is_running(int(pid_file.read_text()))

    await eventually_async(has_children, within=30, what="the program runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually_async(has_none, within=30, what="the end of its child")


async def test_a_host_runs_programs(folder: Path) -> None:
    host = fake_host(folder, greet="read name; echo hello $name; echo oh >&2; exit 3")
    assert await host.run("greet", orders="you\n") == Ran(3, "hello you\n", "oh\n")
    assert await host.run("no-such-program") is None
    assert stat.S_ISREG((folder / "bin" / "greet").stat().st_mode)
    assert command.variables_in("A=1\n #x\n;B=2\n C = 'three' \nD\n") == {"A": "1", "C": "three"}
