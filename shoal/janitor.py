"""Remove a cluster's scratch folder when its launcher is gone, however it went.

python -m shoal.janitor FOLDER     (standard input is a pipe that the launcher holds open)
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

_TRIES = 100


def main() -> int:
    folder = Path(sys.argv[1])
    sys.stdin.read()
    for _ in range(_TRIES):  # the processes that the kernel is just ending may still write
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return 0
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
