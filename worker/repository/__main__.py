"""``python -m worker.repository VERB``: what ``shoal models VERB`` and ``shoal serve`` become."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import discovery
from discovery import Discovery, DiscoveryUnavailable
from shoal.client import AsyncClient
from shoal.errors import ShoalError
from shoal.publication import Publication
from worker.models.packaged import MissingPackage
from worker.models.staging import NotPrepared
from worker.repository import arguments, commands, editing, publishing, serving, telling, waiting
from worker.repository.editing import NotAllowed
from worker.repository.folders import Repository
from worker.repository.publishing import Unreadable
from worker.repository.sources import BadSource, Unreachable
from worker.repository.waiting import NotLoaded

_DISCOVERY_TIMEOUT = 20.0


class AskedWrongly(Exception):
    """The arguments lack something; the message says what."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code: 0 done, 1 it failed, 2 it was asked wrongly."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == ["serve"]:
            options, others = arguments.serve().parse_known_args(given[1:])
            return serving.serve(options, others)
        options = arguments.models().parse_args(given)
        return _PLAIN[options.verb](options) if options.verb in _PLAIN else asyncio.run(_published(options))
    except AskedWrongly as error:
        return _complain([str(error)], 2)
    except NotPrepared as error:
        return _complain(error.problems)
    except ShoalError as error:
        return _complain([f"{error.code}: {error.message}"])
    except (NotAllowed, Unreadable, NotLoaded, BadSource, Unreachable, MissingPackage, OSError) as error:
        return _complain([str(error)])
    except DiscoveryUnavailable as error:
        return _complain([f"discovery: {error}"])
    except KeyboardInterrupt:
        return 130


def _complain(problems: Sequence[str], code: int = 1) -> int:
    sys.stderr.write("".join(f"shoal: {problem}\n" for problem in problems))
    return code


def _say(text: str) -> int:
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def _say_json(document: object) -> int:
    return _say(json.dumps(document) + "\n")


def _init(options: argparse.Namespace) -> int:
    return _say(commands.init(options))


def _check(options: argparse.Namespace) -> int:
    found = commands.check(options)
    if options.json:
        return _say_json(found)
    lines = f"{options.source} may be published as {found['model']}: {found['task']}, digest {found['digest']}\n"
    return _say(lines + commands.noted(found["notes"]))


def _convert(options: argparse.Namespace) -> int:
    return _say(commands.convert(options))


_PLAIN: dict[str, Callable[[argparse.Namespace], int]] = {"init": _init, "check": _check, "convert": _convert}


async def _published(options: argparse.Namespace) -> int:
    """Run a verb that needs discovery."""
    if not options.discovery:
        raise AskedWrongly("which cluster? Name its discovery with --discovery URL or $SHOAL_DISCOVERY")
    try:
        connecting = discovery.connect(options.discovery, snapshot_timeout=_DISCOVERY_TIMEOUT)
    except ValueError as error:
        raise AskedWrongly(f"discovery: {error}") from error
    async with connecting as backend:
        return await _VERBS[options.verb](backend, options)


async def _add(backend: Discovery, options: argparse.Namespace) -> int:
    if not options.repository:
        raise AskedWrongly("where to? Name a folder that the workers can read with --repository or $SHOAL_REPOSITORY")
    if options.wait is not None and not options.gateway:
        raise AskedWrongly("--wait asks a gateway: name it with --gateway URL or $SHOAL_GATEWAY")
    added = await commands.add(backend, Repository(Path(options.repository)), options)
    after = added.change.after
    assert after is not None
    if options.json:
        _say_json({"model": after.model, "version": added.version, "notes": added.notes, **telling.document(after)})
    else:
        _say(commands.noted(added.notes) + telling.next_steps(added.version, added.change))
    if options.wait is not None:
        await waiting.until_ready(_gateway(options), after, added.version, options.wait, _note)
        _note(f"{after.model}@{added.version} is ready")
    return 0


def _gateway(options: argparse.Namespace) -> AsyncClient:
    return AsyncClient(options.gateway, api_key=options.api_key, timeout=10, ca=options.ca)


def _note(line: str) -> None:
    sys.stderr.write(line + "\n")


async def _list(backend: Discovery, options: argparse.Namespace) -> int:
    try:
        async with asyncio.timeout(_DISCOVERY_TIMEOUT):
            found = await publishing.all_published(backend)
    except TimeoutError as error:
        raise DiscoveryUnavailable(f"no answer within {_DISCOVERY_TIMEOUT:g} seconds") from error
    if options.json:
        return _say_json([telling.document(publication) for publication in found.values()])
    return _say(telling.overview(found))


async def _show(backend: Discovery, options: argparse.Namespace) -> int:
    found = _existing(options.name, await publishing.published(backend, options.name))
    workers = await waiting.workers_of(_gateway(options)) if options.gateway else None
    if not options.json:
        return _say(telling.described(found, workers))
    states = {} if workers is None else {"workers": {w["name"]: _of(found.model, w["models"]) for w in workers}}
    return _say_json({**telling.document(found), **states})


def _of(model: str, states: dict[str, Any]) -> dict[str, Any]:
    return {key: state for key, state in states.items() if key.rpartition("@")[0] == model}


async def _remove(backend: Discovery, options: argparse.Namespace) -> int:
    name, _, version = options.name.partition("@")

    def edit(current: Publication) -> Publication | None:
        if version:
            return editing.remove_version(current, version, force=options.force)
        editing.remove(current, force=options.force)
        return None

    return await _edit(backend, name, edit)


async def _label(backend: Discovery, options: argparse.Namespace) -> int:
    if options.remove == bool(options.version):
        raise AskedWrongly("a label is for a VERSION, or goes with --remove")
    if options.remove:
        return await _edit(backend, options.name, lambda p: editing.unlabel(p, options.label))
    return await _edit(backend, options.name, lambda p: editing.label(p, options.label, options.version))


async def _traffic(backend: Discovery, options: argparse.Namespace) -> int:
    if None in options.shares:
        if len(options.shares) > 1:
            raise AskedWrongly("traffic goes by weights, or to the latest")
        return await _edit(backend, options.name, editing.follow_newest)
    return await _edit(backend, options.name, lambda p: editing.split(p, dict(options.shares)))


async def _rollback(backend: Discovery, options: argparse.Namespace) -> int:
    return await _edit(backend, options.name, editing.rollback)


async def _place(backend: Discovery, options: argparse.Namespace) -> int:
    where = [] if options.where == ["everywhere"] else options.where
    return await _edit(backend, options.name, lambda p: editing.place(p, where))


async def _edit(backend: Discovery, name: str, edit: Callable[[Publication], Publication | None]) -> int:
    change = await publishing.change(backend, name, lambda current: edit(_existing(name, current)))
    return _say(telling.changed(change))


def _existing(name: str, publication: Publication | None) -> Publication:
    if publication is None:
        raise NotAllowed(f"no model {name!r} is published")
    return publication


_VERBS: dict[str, Callable[[Discovery, argparse.Namespace], Awaitable[int]]] = {
    "add": _add,
    "list": _list,
    "show": _show,
    "remove": _remove,
    "label": _label,
    "traffic": _traffic,
    "rollback": _rollback,
    "place": _place,
}


if __name__ == "__main__":
    raise SystemExit(main())
