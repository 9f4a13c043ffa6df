"""``shoal serve``: a model in a cluster of this machine, from nothing but its file."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from worker.models import preparation, staging
from worker.repository import commands, sources
from worker.repository.archives import is_archive
from worker.repository.folders import name_of

__all__ = ["serve"]


def serve(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Prepare the model in a temporary folder and become ``shoal up``, with one worker unless ``others`` say more.

    A janitor removes the folder when that has ended, however it ends: it waits for the end of a pipe that the cluster's
    launcher inherits. Raises ``NotPrepared``, ``BadSource``, ``Unreachable``, ``MissingPackage``.
    """
    folder = Path(tempfile.mkdtemp(prefix="shoal-serve-"))
    lifeline, held = os.pipe()
    janitor = [sys.executable, "-m", "shoal.janitor", str(folder)]
    started = subprocess.Popen(janitor, stdin=lifeline, start_new_session=True)
    os.close(lifeline)
    try:
        version = _prepared(options, folder)
    except BaseException:
        os.close(held)
        started.wait()
        raise
    os.set_inheritable(held, True)
    up = [sys.executable, "-m", "shoal.cli", "up", "--workers", "1", *others, "--model", str(version)]
    return os.execv(sys.executable, up)  # noqa: S606


def _prepared(options: argparse.Namespace, folder: Path) -> Path:
    path = sources.local_path(options.source)
    source = path if path is not None and not is_archive(path.name) else None
    if source is None:
        scratch = folder / "fetched"
        scratch.mkdir()
        source = sources.obtain(options.source, scratch, most_bytes=commands.MOST_BYTES).folder
    name = options.name or name_of(source, staging.document_of)
    prepared = preparation.prepare(
        source, folder / name / "1", model=name, version="1", wishes=commands.wishes_of(options)
    )
    sys.stderr.write(f"{name} is served. What nobody said was taken as follows:\n{commands.noted(prepared.notes)}")
    return prepared.folder
