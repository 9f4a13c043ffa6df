"""Orders to a lab's keeper: one message there, one back, which carries the way into the lab's network."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from rehearsal.namespaces import enter
from rehearsal.place import Place

MOST_BYTES = 1 << 16
_SECONDS = 180.0


class NoLab(Exception):
    """No keeper answers there."""


class OrderFailed(Exception):
    """The keeper could not do it, and says why."""


def ask(place: Place, order: str, *hosts: str) -> dict[str, Any]:
    """Give an order, and wait until it is done. Raises ``NoLab`` and ``OrderFailed``."""
    answer, network = _exchange(place, order, hosts)
    os.close(network)
    return answer


def enter_network(place: Place) -> None:
    """Move this thread into the lab's network, from which every host is reached, and nothing else is."""
    _, network = _exchange(place, "status", ())
    try:
        enter(network)
    finally:
        os.close(network)


def _exchange(place: Place, order: str, hosts: tuple[str, ...]) -> tuple[dict[str, Any], int]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(str(place.socket))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoLab(f"no lab {place.name} is up") from None
        connection.send(json.dumps({"order": order, "hosts": hosts}).encode())
        message, descriptors, _, _ = socket.recv_fds(connection, MOST_BYTES, 1)
    if not message:
        raise NoLab(f"the keeper of lab {place.name} ended: see {place.log}")
    answer = json.loads(message)
    if "error" in answer:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OrderFailed(answer["error"])
    return answer, descriptors[0]
