"""Consul as a role needs it: an agent that answers, a leader, and a token with just the rights that are used.

It is asked over plain HTTP: the point is to say what is wrong where our client would only say that something is.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import aiohttp

from shoal.doctor.finding import Finding, ok, problem, warning
from shoal.doctor.subject import Subject

_ANSWER_SECONDS = 8.0  # without a leader, Consul holds a request for 7 s
_START = "see that the agent runs on this machine ('systemctl status consul'), and what it listens on"


@dataclass(frozen=True)
class Right:
    """What a token may do, as Consul names it."""

    resource: str
    access: str
    segment: str = ""

    def document(self) -> dict[str, str]:
        return {"Resource": self.resource, "Access": self.access, "Segment": self.segment}


def needed(role: str, prefix: str) -> list[Right]:
    """What a service does at Consul: register itself, find the others, follow what is published."""
    return [
        Right("service", "write", f"{prefix}-{role}"),
        Right("service", "read", f"{prefix}-worker"),
        Right("node", "read", "any"),
        Right("key", "read", f"{prefix}/models/any"),
    ]


def unneeded(role: str, prefix: str) -> list[Right]:
    """What a stolen token of a service should not be able to do."""
    other = "gateway" if role == "worker" else "worker"
    return [
        Right("acl", "write"),
        Right("operator", "write"),
        Right("service", "write", f"{prefix}-{other}"),
        Right("key", "write", f"{prefix}/models/any"),
        Right("key", "write", "somebody/else"),
    ]


def policy(role: str, prefix: str) -> str:
    """The rules that give ``needed``, and nothing else."""
    return (
        f'service "{prefix}-{role}" {{ policy = "write" }} service_prefix "{prefix}-" {{ policy = "read" }} '
        f'node_prefix "" {{ policy = "read" }} key_prefix "{prefix}/" {{ policy = "read" }}'
    )


class Agent:
    """The agent of a discovery URL. Raises ``OSError`` or ``ValueError`` for certificates that do not load."""

    def __init__(self, parts: SplitResult, token: str) -> None:
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        scheme = "https" if parts.scheme == "consul+https" else options.get("scheme", "http")
        host = parts.hostname or "127.0.0.1"
        port = parts.port or (8501 if scheme == "https" else 8500)
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self.prefix = options.get("service_prefix", "shoal")
        self._headers = {"X-Consul-Token": token.strip()} if (token := token or options.get("token", "")) else {}
        self._ssl: ssl.SSLContext | bool = True
        if scheme == "https":
            self._ssl = ssl.create_default_context(cafile=options.get("ca"))
            if "cert" in options:
                self._ssl.load_cert_chain(options["cert"], options.get("key"), password="")

    def __repr__(self) -> str:
        return f"<Agent {self.url}>"

    @property
    def has_token(self) -> bool:
        return bool(self._headers)

    async def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any, str]:
        """The status, and the answer as JSON and as text. Raises ``aiohttp.ClientError`` or ``OSError``."""
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.request(
                method,
                self.url + path,
                json=document,
                ssl=self._ssl,
                timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS),
                allow_redirects=False,
            ) as response,
        ):
            text = await response.text(errors="replace")
            try:
                return response.status, await response.json(content_type=None), text
            except ValueError:
                return response.status, None, text


def is_used(subject: Subject) -> bool:
    return str(subject.setting("discovery")).startswith(("consul://", "consul+https://"))


def _agent(subject: Subject) -> Agent:
    return Agent(urlsplit(subject.setting("discovery")), subject.setting("discovery_token").get_secret_value())


async def consul(subject: Subject) -> list[Finding]:
    if not is_used(subject):
        return [ok("not used")]
    try:
        agent = _agent(subject)
        status, leader, text = await agent.ask("GET", "/v1/status/leader")
    except (ValueError, ssl.SSLError) as error:
        return [problem(f"the certificates for Consul do not load: {error}", "see ca, cert and key in discovery")]
    except (aiohttp.ClientError, OSError) as error:
        return [problem(f"no answer: {error or 'in time'}", _START)]
    return [judge_leader(agent.url, status, leader, text)]


def judge_leader(url: str, status: int, leader: Any, text: str) -> Finding:
    if status != 200:
        return problem(f"{url} answers HTTP {status}: {text[:100].strip()}", _START)
    if not leader:
        return problem(
            f"{url} knows no leader",
            "start a majority of the servers, and see 'consul members' and 'consul operator raft list-peers'",
        )
    return ok(f"{url} answers; the leader is {leader}")


async def consul_token(subject: Subject) -> list[Finding]:
    if not is_used(subject):
        return [ok("not used")]
    try:
        agent = _agent(subject)
        lists = needed(subject.role, agent.prefix), unneeded(subject.role, agent.prefix)
        rights = [right.document() for right in (*lists[0], *lists[1])]
        status, answer, text = await agent.ask("POST", "/v1/internal/acl/authorize", rights)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return [problem(f"could not be asked: {error or 'no answer in time'}", _START)]
    return [judge_token(subject.role, agent.prefix, has_token=agent.has_token, answer=(status, answer, text))]


def judge_token(role: str, prefix: str, *, has_token: bool, answer: tuple[int, Any, str]) -> Finding:
    status, allowed, text = answer
    give = f"give it a token with the policy: {policy(role, prefix)}"
    if "ACL support disabled" in text:
        return warning(
            "ACLs are off: everyone who reaches an agent may change everything", "turn ACLs on (default deny)"
        )
    if "ACL not found" in text:
        return problem("Consul does not know the token", give)
    if status != 200 or not isinstance(allowed, list):
        return warning(f"Consul does not say what the token may do: HTTP {status}", "see that its policy is right")
    granted = {(a["Resource"], a["Access"], a.get("Segment", "")) for a in allowed if a["Allow"]}
    lacking = _among(needed(role, prefix), granted, allowed=False)
    if lacking:
        whose = "the token" if has_token else "without a token, one"
        return problem(f"{whose} may not {', '.join(map(_verb, lacking))}", give)
    too_much = _among(unneeded(role, prefix), granted, allowed=True)
    if too_much:
        return warning(f"it may also {', '.join(map(_verb, too_much))}", give)
    return ok("the token may do what is needed, and no more")


def _among(rights: Iterable[Right], granted: set[tuple[str, str, str]], *, allowed: bool) -> Sequence[Right]:
    return [r for r in rights if ((r.resource, r.access, r.segment) in granted) is allowed]


def _verb(right: Right) -> str:
    return f"{right.access} {right.resource} {right.segment}".strip()
