"""The report of a run: docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence

from chaos.outcome import Outcome

_HEAD = """# What was broken, and what was lost

`make chaos` writes this page. It builds a cluster in network namespaces on one machine: two gateways, three workers
(one of them without a public address) and three Consul servers, each in a host of its own; the client reaches the
public addresses only. The model is `{model}`. The load is open loop, {rate:g} distinct images a second, half
uploaded directly and half through the proxy, with a deadline of 30 s; the workers that survive are at no more than
{share:.0%} of their capacity.

A round of SIGKILL counts only if the victim held at least one unanswered request or job at its death, by its own
log, and it is followed until every node is ready again and every request that began before is answered. An execution
counts for a request if a model process logged it, whether its answer was used or not.

Run on {when}, {machine}.
"""


def render(outcomes: Sequence[Outcome], **facts: object) -> str:
    """The page."""
    parts = [_HEAD.format(**facts), _table(outcomes), *map(_section, outcomes)]
    return "\n".join(parts)


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
    lines += [f"- requests: {requests or 'none'}"]
    lines += [f"- {claim}: {found}{'' if holds else ' **does not hold**'}" for claim, found, holds in outcome.checks]
    if outcome.tally.failures and not outcome.holds:
        lines += [f"- example: `{example}`" for example in outcome.tally.examples]
    return "\n".join(lines) + "\n"
