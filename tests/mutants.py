"""Takes one promise after another out of a copy of the code and sees that a test notices: ``make mutants``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("shoal", "discovery", "gateway", "worker", "tests")


@dataclass(frozen=True)
class Mutant:
    """``old`` becomes ``new`` in ``file``, and ``test`` must fail."""

    promise: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = (
    Mutant(
        "the jobs of a dead model process are reclaimed",
        "worker/supervisor.py",
        "            await self._reclaim(model, queue)\n",
        "",
        "tests/test_faults.py::test_a_killed_model_process_loses_nothing[proxy]",
    ),
    Mutant(
        "a body is kept to be sent to a second worker",
        "gateway/app.py",
        "if uploads >= _MOST_UPLOADS or",
        "if True or",
        "tests/test_faults.py::test_a_killed_worker_leaves_within_two_seconds[proxy]",
    ),
    Mutant(
        "jobs are submitted again after a loss of Redis",
        "worker/submissions.py",
        "                    await self._resubmit()\n",
        "",
        "tests/test_faults.py::test_a_killed_redis_loses_nothing",
    ),
    Mutant(
        "the SDK goes to another worker",
        "shoal/client.py",
        "if not error.retryable or call.uploads",
        "if error or call.uploads",
        "tests/test_faults.py::test_a_killed_worker_leaves_within_two_seconds[direct]",
    ),
    Mutant(
        "a draining worker says so",
        "worker/supervisor.py",
        "                self.draining = True\n",
        "",
        "tests/test_faults.py::test_a_draining_worker_finishes_and_takes_no_more[proxy]",
    ),
    Mutant(
        "a job's reply goes to its own request",
        "worker/submissions.py",
        "self._pending.get(reply.job)",
        "next(iter(self._pending.values()), None)",
        "tests/test_cluster.py::test_every_image_gets_its_own_answer[proxy]",
    ),
)


def survives(mutant: Mutant) -> bool:
    """Whether the test passes although the promise is gone."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in COPIED:
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "setup.cfg", folder)
        path = Path(folder, mutant.file)
        text = path.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise SystemExit(f"{mutant.file} does not have this exactly once: {mutant.old!r}")
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutant.test],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(f"the test did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def main() -> int:
    survivors = 0
    for mutant in MUTANTS:
        alive = survives(mutant)
        survivors += alive
        print(f"{'SURVIVES' if alive else 'noticed '}  {mutant.promise}  ({mutant.test})", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
