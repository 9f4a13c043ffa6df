"""Mosec as its documentation recommends: decoding processes before one model process with dynamic batches.

python -m bench.mosec_peer --address 127.0.0.1 --port PORT     (Mosec reads its own command line)
"""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker  # type: ignore[import-not-found,import-untyped,unused-ignore]

from bench.model import Task, execute, load
from shoal.processes import die_with_parent
from worker.models.runtime import Array

_WAIT_MS = 10


class Decode(Worker):  # type: ignore[misc,unused-ignore]
    """One photo's bytes to pixels; there are as many of these processes as cores."""

    def __init__(self) -> None:
        self._task = Task.from_environ()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Array:
        return self._task.decode(data)


class Infer(Worker):  # type: ignore[misc,unused-ignore]
    """The model."""

    def __init__(self) -> None:
        self._runtime = load(Task.from_environ().model)

    def forward(self, data: list[Array]) -> list[dict[str, Any]]:
        return execute(self._runtime, data)


def serve() -> None:
    die_with_parent()
    server = Server()  # type: ignore[no-untyped-call,unused-ignore]
    server.append_worker(Decode, num=os.cpu_count() or 1)
    server.append_worker(Infer, num=1, max_batch_size=Task.from_environ().max_batch_size, max_wait_time=_WAIT_MS)
    server.run()  # type: ignore[no-untyped-call,unused-ignore]


if __name__ == "__main__":
    from bench import mosec_peer  # the worker processes must find the classes under their importable name

    mosec_peer.serve()
