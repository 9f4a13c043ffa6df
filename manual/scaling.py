"""The arithmetic of docs/scaling.md: how gateways, Consul and the network in the middle grow with the workers.

``python -m manual.scaling`` prints the tables; a test holds the page equal to them. The unit costs are measured
(``python -m bench.fleet``; the page says on what), and everything else follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from manual import bandwidth

__all__ = ["Costs", "Plan", "growth", "limits", "plan", "units"]

_NODES = (2, 20, 200, 2_000, 10_000)
_IMAGES_PER_WORKER = 20.0  # a second: EfficientNet-Lite0 on a CPU core
_IMAGE = 100e3
_UPDATE_SECONDS = 3600.0  # in which a rolling update has every worker leave and come back
_BUSY = 0.6  # of its core that a gateway is to be at most
_CELL = 2_000
_GIGABIT = 1e9 / 8 * 0.94


@dataclass(frozen=True)
class Costs:
    """CPU seconds, unless it says bytes. ``poll`` is at the gateway, ``polled`` at the worker; ``member`` is one member
    in a directory that a gateway takes, of which each change brings all."""

    lookup: float = 0.70e-3
    image: float = 1.9e-3
    poll: float = 0.12e-3
    polled: float = 0.8e-3
    member: float = 25e-6
    member_bytes: float = 1540


# How gateways behave: shoal/settings.py, gateway/roster.py and discovery/blocking_query.py; a test compares them.
WHOLE_FLEET, GATEWAYS_PER_WORKER = 400, 4
POLL_INTERVAL, LONGEST_INTERVAL, POLLS_PER_SECOND = 0.5, 0.8, 200
PAUSE, REST = 0.1, 0.0001


@dataclass(frozen=True)
class Plan:
    """A fleet, and what it takes. Shares are of one core, rates are a second."""

    nodes: int
    images: float
    gateways: int
    used: float
    polls: float
    gateway_polls: float
    worker_polls: float
    directory: float
    consul_bytes: float

    @property
    def lookup_bytes(self) -> float:
        return bandwidth.by_lookup(self.images)

    @property
    def proxy_bytes(self) -> float:
        return bandwidth.by_proxy(_IMAGE, self.images)


def plan(nodes: int, images: float | None = None, costs: Costs = Costs()) -> Plan:
    """The fewest gateways, at least 2, that are not busier than 60 % in a rolling update, each image with a lookup."""
    images = nodes * _IMAGES_PER_WORKER if images is None else images
    gateways = 2
    while _share(found := _plan(nodes, images, gateways, costs), costs) > _BUSY:
        gateways = max(gateways + 1, int(gateways * 1.02))
        if gateways > nodes:
            raise ValueError(f"{nodes} workers are more than gateways can follow")
    return found


def _share(found: Plan, costs: Costs) -> float:
    return found.images / found.gateways * costs.lookup + found.gateway_polls + found.directory


def _plan(nodes: int, images: float, gateways: int, costs: Costs) -> Plan:
    is_whole = nodes <= WHOLE_FLEET or gateways <= GATEWAYS_PER_WORKER
    used = nodes if is_whole else nodes * GATEWAYS_PER_WORKER / gateways
    interval = max(POLL_INTERVAL, min(LONGEST_INTERVAL, used / POLLS_PER_SECOND))
    users = gateways if is_whole else GATEWAYS_PER_WORKER
    takes = nodes * costs.member
    changes = min(2 * nodes / _UPDATE_SECONDS, 1 / (PAUSE + nodes * REST + takes))
    return Plan(
        nodes=nodes,
        images=images,
        gateways=gateways,
        used=used,
        polls=used / interval,
        gateway_polls=used / interval * costs.poll,
        worker_polls=users / interval * costs.polled,
        directory=changes * takes,
        consul_bytes=changes * gateways * nodes * costs.member_bytes,
    )


def units(costs: Costs = Costs()) -> str:
    """The unit costs."""
    rows = (
        ("a lookup, at the gateway", f"{costs.lookup * 1000:.2f} ms"),
        ("a proxied image of 100 kB, at the gateway", f"{costs.image * 1000:.1f} ms"),
        ("a load report, at the gateway", f"{costs.poll * 1000:.2f} ms"),
        ("a load report, at the worker", f"{costs.polled * 1000:.1f} ms"),
        ("a member in a directory, at the gateway, at each change", f"{costs.member * 1e6:.0f} µs"),
        ("a member in Consul's answer, at each change", f"{costs.member_bytes:,.0f} bytes"),
    )
    return "".join(["| unit | cost |\n| --- | ---: |\n", *(f"| {name} | {cost} |\n" for name, cost in rows)])


def growth() -> str:
    """What a fleet of each size takes; the largest as one fleet and in cells."""
    heads = (
        "workers",
        "images/s",
        "gateways",
        "workers a gateway uses",
        "polls, of a gateway's core",
        "polls, of a worker's core",
        "directory, of a gateway's core",
        "Consul sends",
        "middle, by lookup",
        "middle, by proxy",
    )
    rows = [f"| {' | '.join(heads)} |", "|" + " ---: |" * len(heads)]
    rows += [_row(f"{nodes:,}", plan(nodes), 1) for nodes in _NODES]
    cells = math.ceil(_NODES[-1] / _CELL)
    rows.append(_row(f"{_NODES[-1]:,} in {cells} cells", plan(_CELL), cells))
    return "\n".join(rows) + "\n"


def _row(name: str, found: Plan, times: int) -> str:
    cells = (
        name,
        f"{found.images * times:,.0f}",
        f"{found.gateways * times:,}",
        f"{found.used:,.0f}",
        f"{found.gateway_polls:.1%}",
        f"{found.worker_polls:.1%}",
        f"{found.directory:.1%}",
        _rate(found.consul_bytes * times),
        _rate(found.lookup_bytes * times),
        _rate(found.proxy_bytes * times),
    )
    return f"| {' | '.join(cells)} |"


def limits(costs: Costs = Costs()) -> str:
    """Where each limit lies, as the model sees it, and what to change there."""
    rows = (
        (
            "one gateway's core",
            f"{_BUSY / costs.lookup:,.0f} lookups/s, or {_BUSY / costs.image:,.0f} proxied images of 100 kB/s",
            "more gateways; images direct, or by nginx's fast path",
        ),
        (
            "a 1 Gbit/s link in the middle",
            f"{_GIGABIT / bandwidth.by_proxy(_IMAGE, 1):,.0f} proxied images/s, "
            f"{_GIGABIT / bandwidth.by_lookup(1):,.0f} lookups/s",
            "direct upload",
        ),
        (
            "polls, a tenth of a gateway's core",
            f"{0.1 / costs.poll * LONGEST_INTERVAL:,.0f} workers that it uses",
            f"nothing: from {WHOLE_FLEET} workers on, a gateway uses its part",
        ),
        (
            "polls, a tenth of a worker's core",
            f"{0.1 / costs.polled * LONGEST_INTERVAL:,.0f} gateways that use it",
            f"nothing: in a large fleet {GATEWAYS_PER_WORKER} use it",
        ),
        (
            "directory, a tenth of a gateway's core in a rolling update",
            f"{_first(lambda nodes: _plan(nodes, 1, 2, costs).directory > 0.1):,} workers",
            "cells, or a slower update",
        ),
        (
            "Consul's servers send 1 Gbit/s in a rolling update",
            f"{_first(lambda nodes: plan(nodes, costs=costs).consul_bytes > _GIGABIT):,} workers",
            "cells, or a slower update",
        ),
        ("client agents in one datacenter", "5,000, HashiCorp's recommendation", "cells, each a datacenter"),
    )
    head = "| limit | reached at | then |\n| --- | --- | --- |\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _first(reached: Callable[[int], bool]) -> int:
    """The number of nodes, in hundreds, at which a limit is reached."""
    return next(nodes for nodes in range(100, 20_001, 100) if reached(nodes))


def _rate(value: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:,.3g} {unit}/s"
    return f"{value:.0f} B/s"


if __name__ == "__main__":
    print(units(), growth(), limits(), sep="\n")
