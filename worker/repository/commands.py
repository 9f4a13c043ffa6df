"""The verbs of ``shoal models`` that prepare a model: init, check, convert, add."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discovery import Discovery, DiscoveryUnavailable
from shoal.publication import Publication, Published
from worker.models import conversion, inference, manifest, preparation, staging
from worker.models.digests import digest_of
from worker.models.preparation import NotPrepared, Prepared, Wishes
from worker.repository import editing, publishing, sources
from worker.repository.archives import is_archive
from worker.repository.editing import NotAllowed
from worker.repository.folders import Repository, name_of

__all__ = ["MOST_BYTES", "add", "check", "convert", "init", "noted", "wishes_of"]

MOST_BYTES = 64 << 30
"""The most that an operator's own source may hold, so that a bomb does not fill the disk without end."""


@dataclass(frozen=True)
class _Found:
    """A source that lies on this machine now. ``remote`` is its URL when workers can fetch that by themselves."""

    path: Path
    remote: str = ""


def wishes_of(options: argparse.Namespace) -> Wishes:
    return Wishes(
        inference.merged(*options.set),
        options.labels,
        tuple(getattr(options, "golden", ())),
        getattr(options, "convert", True),
    )


def noted(notes: Sequence[str]) -> str:
    return "".join(f"  {note}\n" for note in notes)


def init(options: argparse.Namespace) -> str:
    """Write the inferred manifest. Raises ``NotPrepared`` when there is one already."""
    source = Path(options.source)
    folder = options.output or source.absolute().parent
    target = folder / manifest.FILE
    if target.exists() and not options.force:
        raise NotPrepared([f"{target} is there already; --force writes over it"])
    found = preparation.inferred(source, wishes_of(options))
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(found.manifest, folder)
    return f"{target} was written. What nobody said was taken as follows:\n{noted(found.notes)}"


def check(options: argparse.Namespace) -> dict[str, Any]:
    """Prepare it and throw that away. Raises ``NotPrepared`` with every problem."""
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        found = _find(options.source, Path(scratch), "")
        prepared = preparation.prepare(
            found.path, Path(scratch) / "checked", model=_name(found.path), version="1", wishes=wishes_of(options)
        )
        return {
            "source": options.source,
            "model": prepared.card.model,
            "task": prepared.card.task,
            "digest": digest_of(found.path) if (found.path / manifest.FILE).is_file() else prepared.digest,
            "notes": list(prepared.notes),
        }


def convert(options: argparse.Namespace) -> str:
    """Write the ONNX copy that preparing makes. Raises ``NotPrepared`` with the reason why there is none."""
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        found = _find(options.source, Path(scratch), "")
        prepared = preparation.prepare(
            found.path, Path(scratch) / "prepared", model="converted", version="1", wishes=wishes_of(options)
        )
        copy = prepared.folder / conversion.CONVERTED
        if not copy.is_file():
            last = prepared.notes[-1] if prepared.notes else ""
            raise NotPrepared([last if last.startswith("ONNX") else "only Keras models and SavedModels are converted"])
        shutil.copyfile(copy, options.target)
    return f"{options.target} was written.\n{noted(prepared.notes)}"


@dataclass(frozen=True)
class Added:
    """A published version, and the publication before and after."""

    version: str
    change: publishing.Change
    notes: tuple[str, ...]


async def add(discovery: Discovery, repository: Repository, options: argparse.Namespace) -> Added:
    """Prepare and publish one version.

    Raises ``NotPrepared``, ``NotAllowed``, ``BadSource``, ``Unreachable``,
    ``MissingPackage``, ``DiscoveryUnavailable``.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-") as scratch:
        found = _find(options.source, Path(scratch), options.sha256)
        there = repository.version_in(found.path)
        name = options.name or (there[0] if there else _name(found.path))
        before = await publishing.published(discovery, name) or Publication(name)
        version = options.version or (there[1] if there else repository.next_version(name, before.versions))
        now = Published("", "", time.time())
        # What is wrong with the words is said before minutes of work.
        editing.add(Publication(name), version, now, name=options.label)
        if found.remote or there:
            if options.set or options.labels or options.golden:
                raise NotAllowed(f"{options.source} is published as it lies: it takes no --set, --labels or --golden")
            checked = Path(scratch) / "checked"
            prepared = preparation.prepare(found.path, checked, model=name, version=version, wishes=Wishes({}))
            source, digest = found.remote or sources.url_of(found.path), digest_of(found.path)
        else:
            version, prepared = _prepared(repository, name, version, found.path, options)
            source, digest = sources.url_of(prepared.folder), prepared.digest
    published = Published(source, digest, now.at)

    def edit(current: Publication | None) -> Publication:
        return editing.add(current or Publication(name), version, published, keep=options.keep, name=options.label)

    try:
        return Added(version, await publishing.change(discovery, name, edit), prepared.notes)
    except DiscoveryUnavailable as error:
        raise DiscoveryUnavailable(f"{error}. Prepared it is: add {source} when discovery is back") from error


def _prepared(
    repository: Repository, name: str, version: str, source: Path, options: argparse.Namespace
) -> tuple[str, Prepared]:
    """A new folder of the repository. When somebody else takes its number meanwhile, it gets the next."""
    while True:
        into = repository.model(name) / version
        try:
            return version, preparation.prepare(source, into, model=name, version=version, wishes=wishes_of(options))
        except FileExistsError as error:
            if options.version:
                raise NotAllowed(f"{into} is there already") from error
            version = str(int(version) + 1)


def _name(source: Path) -> str:
    return name_of(source, staging.document_of)


def _find(source: str, scratch: Path, sha256: str) -> _Found:
    """The source on this machine: fetched, or unpacked, or where it is. Raises ``NotPrepared`` for another sha256."""
    path = sources.local_path(source)
    if path is not None and not (path.is_file() and is_archive(path.name)):
        if sha256 and digest_of(path) != sha256:
            raise NotPrepared([f"{source} has the sha256 {digest_of(path)}, not {sha256}"])
        return _Found(path)
    if path is None and source.startswith("http://") and not sha256:
        raise NotPrepared(["over http:// anybody on the way could change the model: say --sha256, or use https://"])
    fetched = scratch / "fetched"
    fetched.mkdir()
    if path is None:
        sys.stderr.write(f"fetching {sources.shown(source)}\n")
    obtained = sources.obtain(source, fetched, most_bytes=MOST_BYTES)
    if sha256 and sha256 not in (obtained.archive, digest_of(obtained.folder)):
        raise NotPrepared([f"{sources.shown(source)} has the sha256 {obtained.archive or digest_of(obtained.folder)}"])
    return _Found(obtained.folder, "" if path is not None else source)
