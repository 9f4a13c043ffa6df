"""A process that counts a little into ``PROMETHEUS_MULTIPROC_DIR``, and is killed in the middle of counting more.

python -m tests.counting_process COUNT
"""

from __future__ import annotations

import os
import signal
import sys

from prometheus_client import CollectorRegistry

from shoal.metrics import FrontMetrics, ModelMetrics


def main(count: int) -> None:
    registry = CollectorRegistry()
    front, model = FrontMetrics(registry), ModelMetrics(registry)
    front.in_progress.inc()
    for _ in range(count):
        front.requests.labels("/predict", "fake@1", "ok").inc()
        front.duration.labels("/predict").observe(0.003)
        model.images.labels("fake@1").inc(2)
    front.last_answer.labels("fake@1").set(100 + count)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
