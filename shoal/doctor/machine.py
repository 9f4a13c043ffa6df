"""The machine itself: Python and its packages, the kernel, limits, memory, disks, sysctls."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from shoal.doctor.finding import Finding, ok, problem, size, warning
from shoal.doctor.subject import Role, Subject

_MIB, _GIB = 1 << 20, 1 << 30
_PYTHON = (3, 11)
_KERNEL = (5, 3)  # pidfd_open
_MACHINES = ("x86_64", "aarch64")
_FEWEST_FILES, _ENOUGH_FILES = 1024, 8192
_BACKLOG = 1024  # shoal.service listens with it
_FEWEST_PORTS = 16384
_SMALL_SHARED = 128 * _MIB
_LITTLE_DISK = 2 * _GIB
_SHARED = "/dev/shm"  # noqa: S108
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,-]*)\])?\s*((>=|==)\s*(?P<version>[\d.]+))?[^;]*(;(?P<marker>.*))?"
)

Installed = Callable[[str], str | None]


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


async def python(subject: Subject) -> list[Finding]:
    return [judge_python(sys.version_info[:3], sys.maxsize > 1 << 32)]


def judge_python(version: tuple[int, int, int], is_64_bit: bool) -> Finding:
    found = f"Python {'.'.join(map(str, version))}"
    if version[:2] < _PYTHON or not is_64_bit:
        return problem(f"{found}{'' if is_64_bit else ', 32 bits'}", "install a 64-bit Python 3.11 or later")
    return ok(found)


async def packages(subject: Subject) -> list[Finding]:
    return [judge_packages(subject.role, metadata.requires("shoal") or (), installed)]


def judge_packages(role: Role, requirements: Iterable[str], installed: Installed) -> Finding:
    """Whether what ``shoal[ROLE]`` requires is there, each recent enough."""
    missing = []
    wanted = [*_required("", requirements), *(_required(role, requirements) if role != "client" else ())]
    for name, least in dict(wanted).items():
        version = installed(name)
        if version is None:
            missing.append(f"{name} is not installed")
        elif _numbers(version) < _numbers(least):
            missing.append(f"{name} is {version}, older than {least}")
    if missing:
        extra = "" if role == "client" else f"[{role}]"
        return problem("; ".join(missing), f"pip install --upgrade 'shoal{extra}'")
    return ok(f"{len(dict(wanted))} packages, all recent enough")


def _required(extra: str, requirements: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in requirements:
        match = _REQUIREMENT.match(text)
        if match is None or f'extra == "{extra}"' != (match["marker"] or 'extra == ""').strip().replace("'", '"'):
            continue
        if match["name"] == "shoal":
            for further in (match["extras"] or "").split(","):
                yield from _required(further, requirements)
        else:
            yield match["name"], match["version"] or "0"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


async def kernel(subject: Subject) -> list[Finding]:
    return [judge_kernel(platform.system(), platform.release(), platform.machine())]


def judge_kernel(system: str, release: str, machine: str) -> Finding:
    found = f"{system} {release} on {machine}"
    if system != "Linux" or _numbers(release) < _KERNEL:
        return problem(found, "run it on Linux 5.3 or later: a supervisor watches its children through pidfd_open(2)")
    if machine not in _MACHINES:
        return warning(found, f"nobody has tried this; {' and '.join(_MACHINES)} are known to work")
    return ok(found)


# Limits


async def open_files(subject: Subject) -> list[Finding]:
    pid = await subject.pid()
    limit = limit_of(subject.host.text(f"/proc/{pid or 'self'}/limits") or "", "Max open files")
    return [judge_open_files(limit, "the service" if pid else "this shell")]


def limit_of(text: str, name: str) -> float | None:
    """A soft limit out of /proc/PID/limits; None when it is not there."""
    match = re.search(rf"^{name}\s+(\d+|unlimited)", text, re.MULTILINE)
    if match is None:
        return None
    return float("inf") if match[1] == "unlimited" else int(match[1])


def judge_open_files(limit: float | None, whose: str) -> Finding:
    advice = "LimitNOFILE=65536 in the unit, or 'ulimit -n 65536'"
    if limit is None:
        return warning("the limit of open files is not known", advice)
    found = f"{whose} may have {limit:g} files open"
    if limit < _FEWEST_FILES:
        return problem(f"{found}; each connection is one", advice)
    if limit < _ENOUGH_FILES:
        return warning(f"{found}; each connection is one", advice)
    return ok(found)


async def locked_memory(subject: Subject) -> list[Finding]:
    pid = await subject.pid()
    limit = limit_of(subject.host.text(f"/proc/{pid or 'self'}/limits") or "", "Max locked memory")
    return [judge_locked_memory(limit, has_gpu=subject.has_gpu)]


def judge_locked_memory(limit: float | None, *, has_gpu: bool) -> Finding:
    if not has_gpu:
        return ok("no GPU, so nothing needs locked memory")
    if limit is None or limit < 64 * _MIB:
        found = "the limit of locked memory is not known" if limit is None else f"{size(limit)} may be locked"
        return warning(found, "LimitMEMLOCK=infinity in the unit: drivers pin the memory that they copy from")
    return ok("unlimited" if limit == float("inf") else f"{size(limit)} may be locked")


# Memory and disks


async def memory(subject: Subject) -> list[Finding]:
    pid = await subject.pid()
    total = re.search(r"^MemTotal:\s+(\d+) kB", subject.host.text("/proc/meminfo") or "", re.MULTILINE)
    limits = [int(total[1]) * 1024] if total else []
    limits += cgroup_limits(subject, pid)
    return [judge_memory(min(limits, default=None), needs(subject))]


def cgroup_limits(subject: Subject, pid: int | None) -> list[int]:
    """The memory limits of the control groups that the process is in, of either version."""
    host, found = subject.host, []
    for line in (host.text(f"/proc/{pid or 'self'}/cgroup") or "").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, name = (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else ("/sys/fs/cgroup", "memory.max")
        )
        for folder in (Path(group), *Path(group).parents):
            limit = host.number(f"{base}{str(folder).rstrip('/')}/{name}")
            if limit is not None:
                found.append(limit)
    return found


def needs(subject: Subject) -> dict[str, int]:
    """The memory that the settings permit, by the setting."""
    if subject.role == "gateway":
        return {"replay_total_bytes": subject.setting("replay_total_bytes")}
    bodies = subject.setting("fronts") * subject.setting("in_flight_bytes")
    redis = 0 if subject.setting("redis") else subject.setting("redis_bytes")
    return {"redis_bytes": redis, "fronts x in_flight_bytes": bodies}


def judge_memory(limit: int | None, needs: dict[str, int]) -> Finding:
    permitted = sum(needs.values())
    names = " and ".join(needs)
    if limit is None:
        return warning("how much memory there is is not known", f"see that it is well over {size(permitted)}")
    found = f"{size(limit)} of memory, of which {names} may take {size(permitted)}"
    advice = f"lower {names}, or give it more memory"
    if permitted > limit:
        return problem(f"{found}: the kernel ends processes before those limits are reached", advice)
    if permitted > limit * 3 // 4:
        return warning(f"{found}, which leaves little for models", advice)
    return ok(found)


async def disk(subject: Subject) -> list[Finding]:
    cache = subject.setting("model_cache")
    folder = Path(cache or tempfile.gettempdir())
    there = next(path for path in (folder, *folder.parents) if path.exists())
    held = await asyncio.to_thread(_held, folder) if cache else 0
    info = os.statvfs(there)
    return [judge_disk(cache, info.f_bavail * info.f_frsize, held, subject.setting("model_cache_bytes"))]


def _held(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def judge_disk(cache: str, free: int, held: int, wanted: int) -> Finding:
    where = cache or "the temporary folder, since model_cache is empty,"
    found = f"{where} has {size(free)} free"
    if free < _LITTLE_DISK:
        return problem(found, "make room, or set model_cache to a folder on another disk")
    if cache and free + held < wanted:
        return warning(
            f"{found} and holds {size(held)}; model_cache_bytes permits {size(wanted)}",
            "lower model_cache_bytes, or make room: a fetch that finds the disk full fails",
        )
    return ok(found)


async def shared_memory(subject: Subject) -> list[Finding]:
    try:
        info = os.statvfs(subject.host.path(_SHARED))
    except OSError:
        return [warning(f"there is no {_SHARED}", "mount a tmpfs there")]
    return [judge_shared_memory(info.f_blocks * info.f_frsize)]


def judge_shared_memory(total: int) -> Finding:
    found = f"{_SHARED} has {size(total)}"
    if total < _SMALL_SHARED:
        return warning(found, "give it more ('--shm-size=1g' for a container): frameworks, and nginx's buffers, use it")
    return ok(found)


# sysctls


async def connection_backlog(subject: Subject) -> list[Finding]:
    return [judge_connection_backlog(subject.host.number("/proc/sys/net/core/somaxconn"))]


def judge_connection_backlog(somaxconn: int | None) -> Finding:
    if somaxconn is None:
        return warning("net.core.somaxconn is not known", f"see that it is at least {_BACKLOG}")
    found = f"net.core.somaxconn is {somaxconn}"
    if somaxconn < _BACKLOG:
        return warning(f"{found}: a burst of connections is refused", f"sysctl -w net.core.somaxconn={4 * _BACKLOG}")
    return ok(found)


async def overcommit(subject: Subject) -> list[Finding]:
    return [judge_overcommit(subject.host.number("/proc/sys/vm/overcommit_memory"))]


def judge_overcommit(mode: int | None) -> Finding:
    found = f"vm.overcommit_memory is {mode}"
    if mode == 2:
        return warning(
            f"{found}: a model or Redis may be refused memory that is there", "sysctl -w vm.overcommit_memory=1"
        )
    return ok(found if mode is not None else "vm.overcommit_memory is not known")


async def port_range(subject: Subject) -> list[Finding]:
    text = subject.host.text("/proc/sys/net/ipv4/ip_local_port_range") or ""
    ports = {name: subject.setting(name) for name in ("port", "internal_port")}
    return [judge_port_range(text, ports)]


def judge_port_range(text: str, ports: dict[str, int]) -> Finding:
    """``text`` is net.ipv4.ip_local_port_range: from where outgoing connections take their ports."""
    numbers = [int(part) for part in text.split() if part.isdecimal()]
    if len(numbers) != 2:
        return warning("net.ipv4.ip_local_port_range is not known", "see that it has thousands of ports")
    low, high = numbers
    found = f"outgoing connections use the ports {low} to {high}"
    taken = [f"{name} {port}" for name, port in ports.items() if low <= port <= high]
    if taken:
        return warning(
            f"{found}: one may take {' and '.join(taken)} before the service starts",
            "choose a port outside, or add it to net.ipv4.ip_local_reserved_ports",
        )
    if high - low < _FEWEST_PORTS:
        return warning(f"{found}, which is few", "sysctl -w net.ipv4.ip_local_port_range='32768 60999'")
    return ok(found)
