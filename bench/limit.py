"""The limit: the same decode and model code in one process without HTTP, measured on orders from the bench.

python -m bench.limit MODEL DIRECTORY     (orders are lines of JSON on standard input, results on standard output)
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle, islice, pairwise
from pathlib import Path

import msgspec

from bench.model import Task, best_label, execute, load
from shoal.processes import die_with_parent
from worker.models.runtime import Array, Runtime


class Truth(msgspec.Struct, frozen=True):
    """The in-process answer for one photo; ``margin`` is by how much the best label beats the next."""

    label: str
    margin: float


class Ready(msgspec.Struct, frozen=True):
    """The first line: what the others must serve, and what is right."""

    task: Task
    truths: list[Truth]


class Order(msgspec.Struct, frozen=True):
    """``threads`` decode beside the thread that executes; 0 does one photo after the other in one thread."""

    threads: int
    batch_size: int
    images: int


class Pace(msgspec.Struct, frozen=True):
    """The result of one order. ``latencies`` (seconds an image) only when it was one after the other."""

    seconds: float
    latencies: list[float]


class Limit:
    """One loaded model and the photos."""

    def __init__(self, model: str, photos: list[bytes]) -> None:
        self._runtime: Runtime = load(model)
        self._photos = photos
        self.task = Task.of(model, self._runtime)

    def truths(self) -> list[Truth]:
        return [self._truth(photo) for photo in self._photos]

    def execute(self, order: Order) -> Pace:
        return self._in_turn(order.images) if order.threads == 0 else self._pipelined(order)

    def _truth(self, photo: bytes) -> Truth:
        (answer,) = execute(self._runtime, [self.task.decode(photo)])
        probabilities = [float(each.get("probability", 0)) for each in answer["predictions"]]
        margin = probabilities[0] - probabilities[1] if len(probabilities) > 1 else 1.0
        return Truth(best_label(answer), margin)

    def _in_turn(self, images: int) -> Pace:
        instants = [time.perf_counter()]
        for photo in islice(cycle(self._photos), images):
            execute(self._runtime, [self.task.decode(photo)])
            instants.append(time.perf_counter())
        latencies = [after - before for before, after in pairwise(instants)]
        return Pace(instants[-1] - instants[0], latencies)

    def _pipelined(self, order: Order) -> Pace:
        ahead = 2 * order.batch_size + order.threads
        decoded: deque[Future[Array]] = deque()
        started = time.perf_counter()
        with ThreadPoolExecutor(order.threads, thread_name_prefix="decode") as pool:
            photos = islice(cycle(self._photos), order.images)
            decoded.extend(pool.submit(self.task.decode, photo) for photo in islice(photos, ahead))
            while decoded:
                batch = [decoded.popleft().result() for _ in range(min(order.batch_size, len(decoded)))]
                decoded.extend(pool.submit(self.task.decode, photo) for photo in islice(photos, len(batch)))
                execute(self._runtime, batch)
        return Pace(time.perf_counter() - started, [])


def main() -> None:
    die_with_parent()
    model, directory = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not be taken for a result
    limit = Limit(model, [path.read_bytes() for path in sorted(Path(directory).glob("*.jpg"))])
    answers.write(msgspec.json.encode(Ready(limit.task, limit.truths())) + b"\n")
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(limit.execute(msgspec.json.decode(line, type=Order))) + b"\n")


if __name__ == "__main__":
    main()
