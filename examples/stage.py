"""What the examples share: a cluster to publish in, and the commands of ``shoal``, shown as they run.

The cluster is that of ``SHOAL_GATEWAY`` if it is set, as ``shoal up`` tells, else one of the example's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal import AsyncClient, ShoalError
from shoal.launcher import DidNotStart, Plan, cluster

__all__ = ["Failed", "Missing", "Stage", "parser", "run", "say", "stage"]

_NEEDED = ("SHOAL_GATEWAY", "SHOAL_DISCOVERY", "SHOAL_REPOSITORY")


class Missing(RuntimeError):
    """Something that the example needs is not here; the message says how to have it."""


class Failed(RuntimeError):
    """Something did not go as the example promises."""


@dataclass(frozen=True)
class Stage:
    """A cluster, and what the commands of ``shoal`` need to know of it."""

    environ: Mapping[str, str]

    def client(self) -> AsyncClient:
        return AsyncClient(self.environ["SHOAL_GATEWAY"], api_key=self.environ.get("SHOAL_API_KEY"), timeout=60)

    async def shoal(self, *arguments: str | Path) -> str:
        """Run ``shoal ARGUMENTS``, show what it says, and return that. Raises ``Failed``."""
        words = list(map(str, arguments))
        say(f"\n$ shoal {shlex.join(words)}")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "shoal.cli", *words),
            env={**os.environ, **self.environ},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        lines = []
        async for line in process.stdout:
            lines.append(line.decode(errors="replace").rstrip())
            say(f"  {lines[-1]}")
        if await process.wait():
            raise Failed(f"shoal {words[0]} ended with exit code {process.returncode}")
        return "\n".join(lines)


@contextlib.asynccontextmanager
async def stage(model: str, *, workers: int = 2) -> AsyncIterator[Stage]:
    """A cluster that does not serve ``model`` yet, and not any more afterwards. Raises ``Missing``, ``DidNotStart``."""
    if "SHOAL_GATEWAY" in os.environ:
        async with _borrowed(model) as borrowed:
            yield borrowed
        return
    say(f"\nstarting a gateway and {'a worker' if workers == 1 else f'{workers} workers'} without a model ...")
    async with cluster(Plan(workers=workers, models=())) as running:
        told = running.document()
        say(f"ready: {told['gateway']}")
        yield Stage({f"SHOAL_{name.upper()}": told[name] for name in ("gateway", "api_key", "discovery", "repository")})
        say("\nstopping ...")
    say("stopped; nothing is left running")


@contextlib.asynccontextmanager
async def _borrowed(model: str) -> AsyncIterator[Stage]:
    """A cluster that goes on without us, with the models that it had before. Raises ``Missing``."""
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise Missing(f"to publish in the cluster of SHOAL_GATEWAY, say where: {', '.join(missing)} are not set")
    borrowed = Stage({name: os.environ[name] for name in (*_NEEDED, "SHOAL_API_KEY") if name in os.environ})
    told = await borrowed.shoal("models", "list", "--json")
    published = json.loads(told.rpartition("\n")[2])
    if any(one["model"] == model for one in published):
        raise Missing(f"that cluster has a model {model}: 'shoal models remove {model} --force' takes it away")
    try:
        yield borrowed
    finally:
        with contextlib.suppress(Failed):  # it was not published yet
            await borrowed.shoal("models", "remove", model, "--force")


def parser(description: str) -> argparse.ArgumentParser:
    """The command line of an example, with the option that all have."""
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    made.add_argument("--folder", type=Path, help="where to write, and to leave it; default: a temporary folder")
    return made


def run(example: Callable[[argparse.Namespace, Path], Awaitable[None]], arguments: argparse.ArgumentParser) -> int:
    """Run an example in its folder and return its exit code."""

    async def whole() -> None:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with _folder(options.folder) as folder:
            await example(options, folder)

    options = arguments.parse_args()
    try:
        asyncio.run(whole())
    except ModuleNotFoundError as error:
        return _complain(
            f"{error.name} is not installed: 'make demo' makes .venv, whose bin/python has what this needs"
        )
    except ShoalError as error:
        return _complain(f"{error.code}: {error.message}")
    except (Missing, Failed, DidNotStart, OSError) as error:
        return _complain(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _complain("stopped before its end")
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1


@contextlib.contextmanager
def _folder(wanted: Path | None) -> Iterator[Path]:
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="shoal-example-") as temporary:
            yield Path(temporary)
        return
    folder = wanted.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Missing(f"{folder} must be an empty folder, or not be there yet")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
