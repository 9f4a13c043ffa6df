"""The report of a run: docs/reliability.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from chaos.outcome import Outcome

_HEAD = """# What was broken, and what was lost

`make chaos` writes this page. It builds a cluster in network namespaces on one machine: two gateways, three workers
(one of them without a public address) and three Consul servers, each in a host of its own; the client reaches the
public addresses only. The model is
`{model}`. The load is open loop,
{rate} distinct images a second, half uploaded directly and half through the proxy, with a deadline of 30 s; the workers
that survive are at no more than {share} of their capacity.

A round of SIGKILL counts only if the victim held at least one unanswered request or job at its death, by its own
log, and it is followed until every node is ready again and every request that began before is answered. An execution
counts for a request if a model process logged it, whether its answer was used or not. Recovery is from the kill until
the new process has answered and every gateway sees every worker ready; it includes the pause that a process which dies
again within ten seconds has to wait, and for a gateway the five seconds for which clients avoid it.

Each scenario is the latest run of it: `make chaos` runs all, and `--only` some of them again.

Run on {when}, {machine}.
"""


class Results:
    """The latest outcome of every scenario, kept in a file so that one may be run again alone."""

    def __init__(self, kept: dict[str, Kept]) -> None:
        self._kept = kept

    def __repr__(self) -> str:
        return f"<Results of {', '.join(self._kept)}>"

    @classmethod
    def load(cls, path: Path | None) -> Results:
        if path is None or not path.exists():
            return cls({})
        return cls(msgspec.json.decode(path.read_bytes(), type=dict[str, Kept], dec_hook=_counted))

    def add(self, name: str, outcome: Outcome, *, facts: Mapping[str, str]) -> None:
        self._kept[name] = Kept(dict(facts), outcome)

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self._kept), indent=1) + b"\n")

    def page(self, order: Sequence[str]) -> str:
        """The report, its scenarios in this order."""
        kept = [self._kept[name] for name in order if name in self._kept]
        outcomes = [each.outcome for each in kept]
        facts = dict(kept[-1].facts) | {"when": _days(each.facts["when"] for each in kept)}
        return "\n".join([_HEAD.format(**facts), _table(outcomes), *map(_section, outcomes)])


class Kept(msgspec.Struct):
    facts: dict[str, str]
    outcome: Outcome


def _counted(kind: Any, value: object) -> Any:
    """A ``Counter`` of what JSON has as an object."""
    return kind(value)


def _days(days: Iterable[str]) -> str:
    return " and ".join(sorted(set(days)))


def _table(outcomes: Sequence[Outcome]) -> str:
    rows = [
        "| fault | rounds counted / tried | requests | failed | wrong answers | most executions | recovery s, "
        "median / worst | holds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for outcome in outcomes:
        tally = outcome.tally
        cells = (
            outcome.name,
            f"{outcome.counted} / {outcome.tried}",
            f"{tally.requests.total():,}",
            tally.failures.total(),
            tally.wrong,
            outcome.most_executions or "-",
            outcome.recovery(),
            "yes" if outcome.holds else "**no**",
        )
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows) + "\n"


def _section(outcome: Outcome) -> str:
    lines = [f"## {outcome.name}", "", f"{outcome.what[0].upper()}{outcome.what[1:]}.", ""]
    requests = ", ".join(f"{count:,} {mode}" for mode, count in sorted(outcome.tally.requests.items()))
    if requests:
        lines += [f"- requests: {requests}"]
    lines += [f"- {claim}: {found}{'' if holds else ' **does not hold**'}" for claim, found, holds in outcome.checks]
    if outcome.tally.failures and not outcome.holds:
        lines += [f"- example: `{example}`" for example in outcome.tally.examples]
    return "\n".join(lines) + "\n"
