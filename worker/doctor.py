"""``python -m worker.doctor``: what ``shoal doctor`` asks of the worker's own code, in a process of its own.

It takes the settings as the worker does, and prints a line of JSON: ``{"problems"}``, what they name and is not there.
"""

from __future__ import annotations

import json
import sys

from shoal.settings import InvalidSettings, WorkerSettings
from worker.__main__ import check


def main() -> int:
    problems: tuple[str, ...] = ()
    try:
        check(WorkerSettings.load(sys.argv[1:]))
    except InvalidSettings as error:
        problems = error.problems
    sys.stdout.write(json.dumps({"problems": problems}) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
