"""``python -m rehearsal.keeper``: the process below which a lab runs, the first one of its process namespace.

Its standard input is a line of orders; from then on it obeys ``rehearsal.control``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chaos.network import Network, network
from rehearsal.apt_proxy import PORT, apt_proxy
from rehearsal.control import MOST_BYTES
from rehearsal.inventory import inventory
from rehearsal.machine import Machine
from rehearsal.namespaces import network_of, tcp_socket
from rehearsal.place import Place
from shoal import logs

log = logging.getLogger(__name__)


class Keeper:
    """The machines of one lab. Construct with ``keeping``."""

    def __init__(self, built: Network, machines: Mapping[str, Machine]) -> None:
        self.network = built
        self.machines = machines
        self.ended = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._orders: Mapping[str, Callable[[Machine], Awaitable[None]]] = {
            "status": _nothing,
            "start": Machine.start,
            "stop": Machine.stop,
            "crash": Machine.crash,
            "wipe": _wipe,
            "cut": self._cut,
            "mend": self._mend,
        }

    def __repr__(self) -> str:
        return f"<Keeper {', '.join(map(repr, self.machines.values()))}>"

    async def obey(self, order: str, hosts: list[str]) -> dict[str, Any]:
        """Do it to each of the hosts at once. The answer says which of all hosts run, or what is wrong."""
        if order == "down":
            self.ended.set()
            return self._state()
        if order not in self._orders or not self.machines.keys() >= set(hosts):
            return {"error": f"{order} {' '.join(hosts)}: no such order or host"}
        async with self._one_at_a_time:
            work = (self._orders[order](self.machines[host]) for host in hosts)
            failures = [end for end in await asyncio.gather(*work, return_exceptions=True) if end]
        return {"error": "; ".join(map(repr, failures))} if failures else self._state()

    def _state(self) -> dict[str, Any]:
        return {"running": [name for name, machine in self.machines.items() if machine.is_running]}

    async def _cut(self, machine: Machine) -> None:
        self.network.cut(machine.host.name, "internal")

    async def _mend(self, machine: Machine) -> None:
        self.network.mend(machine.host.name, "internal")


async def _nothing(_: Machine) -> None:
    return


async def _wipe(machine: Machine) -> None:
    await machine.crash()
    machine.destroy()
    machine.create()
    await machine.start()


@asynccontextmanager
async def keeping(place: Place, layout: Mapping[str, list[str]]) -> AsyncIterator[Keeper]:
    """The lab, booted; shut down in order when left."""
    with network(dict.fromkeys(layout, ("internal", "public"))) as built:
        proxy = built.hub.address("internal")
        machines = {name: Machine(place, host, proxy=proxy) for name, host in built.hosts.items()}
        keeper = Keeper(built, machines)
        listening = tcp_socket(built.hub.holder)
        listening.bind((proxy, PORT))
        async with apt_proxy(listening, place.packages):
            for machine in machines.values():
                machine.create()
            place.inventory.write_text(inventory(layout, built.hosts, place.key), encoding="utf-8")
            try:
                started = await keeper.obey("start", list(machines))
                if "error" in started:
                    raise RuntimeError(started["error"])
                yield keeper
            finally:
                await keeper.obey("stop", list(machines))


async def _serve(place: Place, layout: Mapping[str, list[str]]) -> None:
    loop = asyncio.get_running_loop()
    async with keeping(place, layout) as keeper, asyncio.TaskGroup() as group:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, keeper.ended.set)
        with _listening(place.socket) as listening:
            accepting = group.create_task(_accept(listening, keeper, group))
            await keeper.ended.wait()
            accepting.cancel()


async def _accept(listening: socket.socket, keeper: Keeper, group: asyncio.TaskGroup) -> None:
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(listening)
        group.create_task(_answer(connection, keeper))


async def _answer(connection: socket.socket, keeper: Keeper) -> None:
    loop = asyncio.get_running_loop()
    with connection:
        try:
            asked = json.loads(await loop.sock_recv(connection, MOST_BYTES))
            answer = await keeper.obey(asked["order"], list(asked["hosts"]))
            hub = network_of(keeper.network.hub.holder)
            try:
                socket.send_fds(connection, [json.dumps(answer).encode()], [hub])
            finally:
                os.close(hub)
        except (OSError, ValueError, KeyError):
            log.warning("an order without an answer", exc_info=True)


def _listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.setblocking(False)
    made.bind(str(path))  # in a folder that only root can enter
    made.listen()
    return made


def main() -> int:
    orders = json.loads(sys.stdin.readline())
    logs.configure("info", role="rehearsal")
    place = Place(Path(orders["folder"]), orders["name"])
    place.packages.mkdir(exist_ok=True)
    try:
        asyncio.run(_serve(place, orders["layout"]))
    except subprocess.CalledProcessError as error:
        log.error("no lab", extra={"command": error.cmd, "said": error.stderr})
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
