"""The checks of ``shoal doctor``: what each is called, for whom it is, and how to make them all.

A code never changes its meaning: playbooks and monitoring read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shoal.doctor import consul, files, gpu, machine, network, redis
from shoal.doctor.finding import Finding, Level, problem
from shoal.doctor.subject import ROLES, SERVICES, Role, Subject

_WORKER: tuple[Role, ...] = ("worker",)
_CLIENT: tuple[Role, ...] = ("client",)

Look = Callable[[Subject], Awaitable[list[Finding]]]


@dataclass(frozen=True)
class Check:
    """``what`` it looks at, in words; one that ``asks`` for settings is not made without them."""

    code: str
    roles: Sequence[Role]
    look: Look
    what: str
    asks: bool = True
    seconds: float = 20.0


CHECKS = (
    Check("python", ROLES, machine.python, "Python is 3.11 or later", asks=False),
    Check("packages", ROLES, machine.packages, "what the role requires is installed, recent enough", asks=False),
    Check("kernel", SERVICES, machine.kernel, "Linux 5.3 or later, on a processor that is known to work", asks=False),
    Check("settings", SERVICES, files.settings, "every setting is valid, and what they name exists", asks=False),
    Check("keys", SERVICES, files.keys, "the files of keys are right, and their modes keep secrets"),
    Check(
        "certificates",
        SERVICES,
        files.certificates,
        "certificates fit their keys, are valid for two more weeks, name the role, and are signed by the CA",
    ),
    Check("ports", SERVICES, network.ports, "the listeners' ports are free, or held by the service itself"),
    Check("name", SERVICES, network.name, "what the service is announced as leads to this machine from others"),
    Check("port_range", SERVICES, machine.port_range, "no listener's port is among those of outgoing connections"),
    Check("connection_backlog", SERVICES, machine.connection_backlog, "`net.core.somaxconn` bears a burst"),
    Check(
        "open_files",
        SERVICES,
        machine.open_files,
        "the limit of open files, of the running service if it runs",
        asks=False,
    ),
    Check("locked_memory", _WORKER, machine.locked_memory, "with a GPU, the limit of locked memory", asks=False),
    Check("memory", SERVICES, machine.memory, "what the settings permit fits into the memory of machine and cgroup"),
    Check("disk", _WORKER, machine.disk, "the model cache has room"),
    Check("shared_memory", SERVICES, machine.shared_memory, "`/dev/shm` has 128 MiB or more", asks=False),
    Check("overcommit", _WORKER, machine.overcommit, "`vm.overcommit_memory` refuses nobody memory", asks=False),
    Check("clock", SERVICES, network.clock, "something keeps the clock right", asks=False),
    Check("clock_skew", SERVICES, network.clock_skew, "the clocks of other members agree with this one"),
    Check("discovery", SERVICES, network.discovery, "discovery can be read, through the service's own client"),
    Check("members", SERVICES, network.members, "the internal listeners of other members answer"),
    Check("readiness", SERVICES, network.readiness, "the service runs, and says of itself that it is ready"),
    Check("consul", SERVICES, consul.consul, "Consul's agent answers, and there is a leader"),
    Check("consul_token", SERVICES, consul.consul_token, "the token may do what the role needs, and no more"),
    Check("redis", _WORKER, redis.redis, "Redis is 6.2 or later, evicts nothing, has a limit, and keeps off the disk"),
    Check("gpu_driver", _WORKER, gpu.gpu_driver, "NVIDIA's driver sees the GPUs that `devices` names", seconds=30.0),
    Check(
        "runtimes",
        _WORKER,
        gpu.runtimes,
        "each installed framework gets to the GPUs: its CUDA and cuDNN fit the driver and can be loaded",
        seconds=180.0,
    ),
    Check("gateway", _CLIENT, network.gateway, "the gateway answers, takes the API key, and has workers", asks=False),
    Check("gateway_clock", _CLIENT, network.clock_skew, "the gateway's clock agrees with this one", asks=False),
)


@dataclass(frozen=True)
class Made:
    """A check that was made, with one of its findings."""

    code: str
    finding: Finding

    def document(self) -> dict[str, str]:
        return {"code": self.code, **asdict(self.finding)}


@dataclass(frozen=True)
class Report:
    """Everything that was found. ``not_made`` are the checks that need settings, where there are none."""

    role: Role
    made: Sequence[Made]
    not_made: Sequence[str]

    @property
    def outcome(self) -> Level:
        levels = {made.finding.level for made in self.made}
        return "problem" if "problem" in levels else "warning" if "warning" in levels else "ok"

    def count(self, level: Level) -> int:
        return sum(made.finding.level == level for made in self.made)

    def document(self) -> Mapping[str, Any]:
        return {
            "role": self.role,
            "outcome": self.outcome,
            "checks": [made.document() for made in self.made],
            "not_made": list(self.not_made),
        }


async def make(subject: Subject, checks: Sequence[Check] = CHECKS) -> Report:
    """Make every check of the role, all at once, each within its time."""
    of_role = [check for check in checks if subject.role in check.roles]
    possible = [check for check in of_role if subject.settings is not None or not check.asks]
    try:
        found = await asyncio.gather(*(_look(check, subject) for check in possible))
    finally:
        await subject.forget()
    made = [Made(check.code, f) for check, findings in zip(possible, found, strict=True) for f in findings]
    return Report(subject.role, made, [check.code for check in of_role if check not in possible])


async def _look(check: Check, subject: Subject) -> list[Finding]:
    try:
        async with asyncio.timeout(check.seconds):
            return await check.look(subject)
    except TimeoutError:
        return [
            problem(f"no end after {check.seconds:g} s", "something hangs: see the other checks, and try it by hand")
        ]
    except Exception as error:  # a check that fails is a finding: the others are worth making
        return [problem(f"the check itself failed: {type(error).__name__}: {error}", "please report this")]
