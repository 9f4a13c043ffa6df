"""The network around a role: its ports and name, the clocks of the others, and whether they answer."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from shoal.doctor.finding import Finding, ok, problem, warning
from shoal.doctor.subject import Member, Subject

_LISTENERS = (("host", "port"), ("internal_host", "internal_port"))
_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104
_LISTEN = "0A"  # a state in /proc/net/tcp
_ANSWER_SECONDS = 5.0
_MOST_ASKED = 5
_SKEW, _BAD_SKEW = 1.0, 5.0


# Ports


async def ports(subject: Subject) -> list[Finding]:
    """Each is free, or held by the service itself."""
    wanted = [(subject.setting(host), subject.setting(port), port) for host, port in _LISTENERS]
    if subject.role == "worker" and not subject.setting("public"):
        wanted = wanted[1:]
    fixed = [(host, port, name) for host, port, name in wanted if port]
    if not fixed:
        return [ok("every listener takes a free port")]
    return [await asyncio.to_thread(_judge_port, subject, *listener) for listener in fixed]


def _judge_port(subject: Subject, host: str, port: int, setting: str) -> Finding:
    from shoal.service import bind  # the client comes without what it loads

    where = f"{setting} {port} on {host}"
    try:
        bind(host, port).close()
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                return judge_holder(where, subject.role, holder(subject, port))
            case errno.EADDRNOTAVAIL:
                return problem(f"{where}: the machine has no such address", "set it to one that 'ip address' shows")
            case errno.EACCES:
                return problem(f"{where}: not permitted", "take a port of 1024 or above; nginx has the small ones")
        return problem(f"{where}: {error.strerror or error}", "set the host to an address or a name of this machine")
    return ok(f"{where} is free")


def judge_holder(where: str, role: str, command: str | None) -> Finding:
    """``command`` is that of the process that listens there, None when it cannot be seen."""
    if command is None:
        return warning(f"{where} is held by a process that only root can see", "run this as root")
    if re.search(rf"\b{role}\b", command):
        return ok(f"{where} is held by the {role} itself")
    return problem(f"{where} is held by another process: {command[:100]}", "stop that one, or choose another port")


def holder(subject: Subject, port: int) -> str | None:
    """The program and module that listen on a port. Arguments are left out: there may be secrets in them."""
    tables = (subject.host.text(f"/proc/net/{table}") for table in ("tcp", "tcp6"))
    sockets = {f"socket:[{inode}]" for table in tables for inode in _listening(table, port)}
    for descriptor in subject.host.path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) in sockets:
                return command_of(subject.host.text(f"/proc/{descriptor.parts[-3]}/cmdline") or "")
        except OSError:
            continue  # it was closed meanwhile, or is not ours to see
    return None


def command_of(cmdline: str) -> str:
    """``python -m gateway`` out of /proc/PID/cmdline: the program, and the words up to the first option of its own."""
    program, *rest = cmdline.split("\0")
    words = [program.rpartition("/")[2]]
    for before, word in zip(["", *rest], rest, strict=False):
        if word.startswith("-") and word != "-m" and before != "-m":
            break
        words.append(word.rpartition("/")[2])
    return " ".join(words[:4]).strip()


def _listening(table: str | None, port: int) -> Iterable[str]:
    for line in (table or "").splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


# Names


async def name(subject: Subject) -> list[Finding]:
    """A listener on every address is announced by the machine's name, so that must lead here from elsewhere."""
    wildcard = [setting for setting in ("host", "internal_host") if subject.setting(setting) in _WILDCARDS]
    if subject.setting("public_url"):
        wildcard = [setting for setting in wildcard if setting != "host"]
    if not wildcard:
        return [ok("the listeners are announced by the addresses that are set")]
    own = socket.getfqdn()
    try:
        found = await asyncio.get_running_loop().getaddrinfo(own, None, type=socket.SOCK_STREAM)
    except OSError:
        found = []
    return [judge_name(own, wildcard, [str(address[0]) for *_, address in found])]


def judge_name(own: str, settings: Iterable[str], addresses: Iterable[str]) -> Finding:
    which = " and ".join(settings)
    advice = f"set {which} to an address of this machine"
    if "host" in settings:
        advice += ", or public_url to what clients use"
    there = sorted(set(addresses))
    if not there:
        return problem(f"{which}: every address, announced as {own}, which has none", advice)
    if all(ip_address(address.partition("%")[0]).is_loopback for address in there):
        found = f"{which}: every address, announced as {own}, which is {', '.join(there)} here: nobody else gets there"
        return warning(found, advice)
    return ok(f"announced as {own}, which is {', '.join(there)}")


# Clocks


async def clock(subject: Subject) -> list[Finding]:
    return [judge_clock(subject.host.is_clock_synchronised())]


def judge_clock(is_synchronised: bool) -> Finding:
    if is_synchronised:
        return ok("the kernel says that the clock is synchronised")
    return warning(
        "nothing keeps the clock right, as far as the kernel knows", "install chrony: tickets live for 15 seconds"
    )


async def clock_skew(subject: Subject) -> list[Finding]:
    """The clocks of a few others, by the Date of their answers."""
    urls = await _others(subject)
    asked = [(who, await skew(subject, role, f"{url}/livez")) for who, role, url in urls]
    known = {who: seconds for who, seconds in asked if seconds is not None}
    return [judge_skew(known)]


async def _others(subject: Subject) -> list[tuple[str, str, str]]:
    if subject.role == "client":
        return [(url, "", url) for url in subject.gateways]
    found = await _other_members(subject)
    return [(member.name, member.role, member.internal_url) for member in found[:_MOST_ASKED]]


async def skew(subject: Subject, role: str, url: str) -> float | None:
    """How far another's clock is ahead of ours, seconds, nearer to 0 where the answer leaves room; None if unknown."""
    try:
        async with aiohttp.ClientSession() as session:
            before = time.time()
            async with session.get(url, timeout=_timeout(), allow_redirects=False, **subject.terms(role)) as response:
                date = response.headers.get("Date", "")
            after = time.time()
        said = parsedate_to_datetime(date).timestamp()
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
        return None
    return ahead(said, before, after)


def ahead(said: float, before: float, after: float) -> float:
    """``said`` is whole seconds, rounded down, at some moment between ``before`` and ``after``."""
    if said > after:
        return said - after
    if said + 1 < before:
        return said + 1 - before
    return 0.0


def judge_skew(seconds: Mapping[str, float]) -> Finding:
    """``seconds`` is how far each clock is ahead of ours."""
    if not seconds:
        return ok("there is nobody to compare the clock with")
    who, worst = max(seconds.items(), key=lambda item: abs(item[1]))
    if abs(worst) < _SKEW:
        return ok(f"within a second of {len(seconds)} other{'s' if len(seconds) > 1 else ''}")
    found = f"the clock of {who} is {abs(worst):.0f} s {'ahead of' if worst > 0 else 'behind'} ours"
    advice = "synchronise both (chrony): a ticket lives for 15 seconds"
    return problem(found, advice) if abs(worst) > _BAD_SKEW else warning(found, advice)


# Others


async def discovery(subject: Subject) -> list[Finding]:
    """What the service would see of it, through its own client."""
    found = await subject.members()
    scheme = str(subject.setting("discovery")).partition("://")[0]
    return [judge_discovery(scheme, found.problem, [member.role for member in found.members])]


def judge_discovery(scheme: str, failure: str, roles: Sequence[str]) -> Finding:
    if failure:
        return problem(f"{scheme}: {failure}", "see the setting discovery, and that what it names can be reached")
    return ok(f"{scheme}: {roles.count('gateway')} gateways and {roles.count('worker')} workers are ready")


async def members(subject: Subject) -> list[Finding]:
    """Those whom discovery names answer here."""
    found = await _other_members(subject)
    asked = found[:_MOST_ASKED]
    silent = [m for m in asked if await _fails(subject, m)]
    return [judge_members(len(found), len(asked), [f"{m.name} at {m.internal_url}" for m in silent])]


async def _other_members(subject: Subject) -> list[Member]:
    """Without this one, of which discovery may still say what was true before its host was destroyed."""
    return [member for member in (await subject.members()).members if not _is_this_one(subject, member)]


def _is_this_one(subject: Subject, member: Member) -> bool:
    place = urlsplit(member.internal_url)
    ours = subject.setting("internal_host").strip("[]"), subject.setting("internal_port")
    is_named = member.name == subject.setting("name") or (place.hostname, place.port) == ours
    return member.role == subject.role and is_named


async def _fails(subject: Subject, member: Member) -> bool:
    status, _ = await answer(f"{member.internal_url}/livez", subject.terms(member.role))
    return status != 200


def judge_members(count: int, asked: int, silent: Iterable[str]) -> Finding:
    silent = list(silent)
    if not count:
        return ok("discovery names nobody else")
    if silent:
        found = f"no answer from {', '.join(silent)}"
        return problem(found, "see that their internal listener is reachable from here, with a certificate that fits")
    return ok(f"{asked} of {count} members asked, all answer")


async def readiness(subject: Subject) -> list[Finding]:
    """What Consul asks of the service, asked here."""
    port = subject.setting("internal_port")
    if not port:
        return [ok("not asked: internal_port is a free one")]
    host = subject.setting("internal_host").strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    scheme = "https" if subject.terms(subject.role) else "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/readyz"
    status, document = await answer(url, subject.terms(subject.role))
    return [judge_readiness(subject.role, status, document)]


def judge_readiness(role: str, status: int | None, document: Any) -> Finding:
    if status is None:
        return warning(f"the {role} does not answer: {document}", "start it, if it is to run; its log says why not")
    if status != 200:
        return problem(f"the {role} runs and is not ready: HTTP {status}", "see its log")
    return ok(f"the {role} runs and is ready")


async def gateway(subject: Subject) -> list[Finding]:
    """Each gateway takes requests of this client, and knows workers."""
    return [await _judge_gateway(subject, url) for url in subject.gateways]


async def _judge_gateway(subject: Subject, url: str) -> Finding:
    headers = {"Authorization": f"Bearer {subject.api_key}"} if subject.api_key else {}
    status, document = await answer(f"{url}/status", {"headers": headers})
    return judge_gateway(url, status, document)


def judge_gateway(url: str, status: int | None, document: Any) -> Finding:
    """``status`` is None, and ``document`` a reason, when there was no answer."""
    if status is None:
        return problem(f"{url}: {document}", "see that the gateway runs, and that this machine gets there")
    if status in (401, 403):
        return problem(f"{url} does not take the API key", "'shoal keys add' at the gateway makes one")
    workers = document.get("workers") if isinstance(document, dict) else None
    if status != 200 or not isinstance(workers, list):
        return problem(f"{url} answers HTTP {status}, not as a gateway", "see that this is the URL of a gateway")
    ready = sum(worker.get("state") == "ready" for worker in workers)
    if not ready:
        return problem(f"{url} answers and has no worker", "'shoal doctor worker' on a worker says why")
    return ok(f"{url} answers: {ready} of {len(workers)} workers ready")


async def answer(url: str, terms: Mapping[str, Any]) -> tuple[int | None, Any]:
    """The status and the JSON of an answer; None and the reason when there is none."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, timeout=_timeout(), allow_redirects=False, **terms) as response,
        ):
            try:
                return response.status, await response.json(content_type=None)
            except ValueError:
                return response.status, None
    except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
        return None, str(error) or "no answer in time"


def _timeout() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
