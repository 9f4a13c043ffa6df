"""Waits until the workers have loaded a version, as a gateway tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from shoal.client import AsyncClient
from shoal.errors import ShoalError
from shoal.publication import Publication
from shoal.wire import model_key
from worker.desired import placed

__all__ = ["NotLoaded", "progress", "until_ready", "workers_of"]

_INTERVAL = 0.5  # a gateway knows no more often


class NotLoaded(Exception):
    """A worker cannot load the version, or not in time."""


async def workers_of(gateway: AsyncClient) -> list[dict[str, Any]]:
    """The workers that a gateway knows. Raises ``ShoalError``."""
    async with gateway:
        found: list[dict[str, Any]] = (await gateway.status())["workers"]
        return found


async def until_ready(
    gateway: AsyncClient,
    publication: Publication,
    version: str,
    seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Return when every worker that loads the model has the version ready, of those that the gateway uses.

    A warning tells of workers that it leaves to other gateways. Raises ``NotLoaded`` with the reason.
    """
    key, told, warned = model_key(publication.model, version), "", False
    try:
        async with asyncio.timeout(seconds), gateway:
            while True:
                status = await gateway.status()
                if status.get("elsewhere") and not warned:
                    tell(_elsewhere(status))
                    warned = True
                states = progress(status["workers"], publication, key)
                line = ", ".join(f"{name}: {state}" for name, state in states.items())
                if line != told:
                    tell(line)
                    told = line
                if states and all(state == "ready" for state in states.values()):
                    return
                await asyncio.sleep(_INTERVAL)
    except TimeoutError as error:
        raise NotLoaded(f"{key} is not ready after {seconds:g} seconds: {told or 'no worker is to load it'}") from error
    except ShoalError as error:
        raise NotLoaded(f"{gateway!r} does not tell: {error.code}: {error.message}") from error


def _elsewhere(status: Mapping[str, Any]) -> str:
    return (
        f"warning: this gateway uses {len(status['workers'])} workers and leaves {status['elsewhere']} to others:"
        " whether those have loaded it, only their gateways can tell"
    )


def progress(workers: list[dict[str, Any]], publication: Publication, key: str) -> dict[str, str]:
    """The status of ``key`` on each worker that is to load it and is not about to leave.

    Raises ``NotLoaded`` when one has failed.
    """
    states = {}
    for worker in workers:
        is_for = placed(publication.placement, worker["name"], worker.get("zone", ""))
        if not is_for or worker.get("state") == "draining":
            continue
        load: Mapping[str, Any] = worker["models"].get(key, {})
        states[worker["name"]] = load.get("status", "not begun")
        if load.get("status") == "failed":
            raise NotLoaded(f"{worker['name']} cannot load {key}: {load.get('reason') or 'see its log'}")
    return states
