"""An instance's part in the life of its auto-scaling group: it says when it is useful, and it leaves in good order.

The group waits at two hooks, which Terraform makes. A spot interruption has none: AWS gives two minutes.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cloud.aws import Group
from cloud.errors import CloudError
from cloud.instance import Instance

USEFUL = "useful"
DRAINED = "drained"

_Answer = TypeVar("_Answer")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Orders:
    """What to execute here. ``ready`` succeeds when the instance is useful, ``leave`` returns when it has left."""

    ready: Sequence[str]
    leave: Sequence[str]
    pause: float = 5.0
    """Between two looks, seconds: the metadata service has nothing that one could wait for."""
    heartbeat: float = 60.0
    """Between two signs to the group while it leaves, seconds; less than the hook's timeout."""


def follow(instance: Instance, group: Group, orders: Orders, *, sleep: Callable[[float], None] = time.sleep) -> int:
    """Go through an instance's life, until it has left; return the exit code of ``leave``."""
    name, useful = _insist(lambda: instance.id, orders, sleep), False
    while not (reason := _insist(instance.leaving, orders, sleep)):
        if not useful and _execute(orders.ready) == 0:
            try:
                waited = group.complete(USEFUL, name)
            except CloudError as error:  # not insisting: it may have to leave before it is heard
                log.warning("asking again", extra={"error": str(error)})
            else:
                useful = True
                log.info("useful", extra={"waited": waited})
        sleep(orders.pause)
    log.info("leaving", extra={"reason": reason})
    code = _leave(name, group, orders)
    waited = _insist(lambda: group.complete(DRAINED, name), orders, sleep)
    log.info("left", extra={"exit_code": code, "waited": waited})
    return code


def _insist(ask: Callable[[], _Answer], orders: Orders, sleep: Callable[[float], None]) -> _Answer:
    """Ask until there is an answer. Nothing better can be done: without one the hook's timeout decides."""
    while True:
        try:
            return ask()
        except CloudError as error:
            log.warning("asking again", extra={"error": str(error)})
            sleep(orders.pause)


def _execute(command: Sequence[str]) -> int:
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def _leave(name: str, group: Group, orders: Orders) -> int:
    with subprocess.Popen(orders.leave, stdin=subprocess.DEVNULL) as leaving:
        while True:
            try:
                return leaving.wait(orders.heartbeat)
            except subprocess.TimeoutExpired:
                try:
                    group.wait_longer(DRAINED, name)
                except CloudError as error:
                    log.warning("the group may not wait", extra={"error": str(error)})
