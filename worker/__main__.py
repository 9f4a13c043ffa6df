"""``python -m worker``: one node. ``shoal worker`` is the same."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shoal import notify, processes, service, traces
from shoal.settings import InvalidSettings, WorkerSettings


def main() -> int:
    try:
        settings = WorkerSettings.load(sys.argv[1:])
        check(settings)
    except InvalidSettings as error:
        sys.stderr.write("".join(f"worker: {problem}\n" for problem in error.problems))
        return 2
    notifier = notify.Notifier.from_environment()
    if settings.lifeline:
        processes.die_with_parent()
    with tempfile.TemporaryDirectory(prefix="shoal-metrics-") as folder:
        # Where the node's processes share their counters. The metrics library reads it when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        traces.configure(settings.traces)
        from worker import supervisor

        return service.run(supervisor.main(settings, notifier))


def check(settings: WorkerSettings) -> None:
    """What the settings name must exist. Raises ``InvalidSettings`` with all that does not."""
    import discovery
    from worker.models.catalogue import Specification

    problems = []
    checks: tuple[tuple[str, tuple[Any, ...], Callable[[Any], object]], ...] = (
        ("models", settings.models, Specification.parse),
        ("discovery", (settings.discovery,), discovery.connect),
        ("webhook_secret", (settings.webhook_secret,) if settings.webhook_secret else (), _secrets),
    )
    for setting, values, exists in checks:
        for value in values:
            try:
                exists(value)
            except (OSError, ValueError) as error:
                problems.append(f"{setting}: {error}")
    if problems:
        raise InvalidSettings(problems)


def _secrets(path: Path) -> None:
    from worker.webhooks import secrets_in

    secrets_in(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(main())
