"""What the GPUs of this machine make of a model: ``python -m bench.gpu MODEL/VERSION [--output FILE]``.

For each device, a process of its own, as a worker would start it, loads the model, finds the largest batch that fits,
and executes every power of two up to it. The results are one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from worker import devices
from worker.model_process import largest_batch
from worker.models.batch_plan import warmed_sizes
from worker.models.catalogue import Specification
from worker.models.runtime import Asked, Runtime

_ROUNDS = 10
_MIB = 1024 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="write the document there")
    parser.add_argument("--devices", default="auto", help="as the worker's setting: auto, cpu, or 0,1")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        sys.stdout.write(json.dumps(measure(arguments.folder)) + "\n")
        return 0
    document = asyncio.run(on_every_device(arguments.folder, arguments.devices))
    text = json.dumps(document, indent=2) + "\n"
    sys.stdout.write(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    return 0


async def on_every_device(folder: Path, wanted: str) -> dict[str, Any]:
    """What each device makes of the model in ``folder``, one after the other."""
    found = await devices.find(wanted)
    measured = {device.name: await _in_a_process(folder, device) for device in found}
    return {
        "model": str(Specification.parse(str(folder)).model),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "memory_mib": {device.name: device.memory_bytes // _MIB for device in found},
        "devices": measured,
    }


async def _in_a_process(folder: Path, device: devices.Device) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.gpu",
        str(folder),
        "--here",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **device.environ},
    )
    output, _ = await process.communicate()
    if process.returncode:
        return {"error": f"its process ended with {process.returncode}"}
    document: dict[str, Any] = json.loads(output.splitlines()[-1])
    return document


def measure(folder: Path) -> dict[str, Any]:
    """The model in this process: how long it takes to load, what fits, and seconds by batch size."""
    began = time.monotonic()
    runtime = Specification.parse(str(folder)).load()
    runtime.warm_up()
    loaded = time.monotonic() - began
    largest, _ = largest_batch(runtime)
    seconds = {size: _seconds(runtime, size) for size in warmed_sizes(largest)}
    return {
        "seconds_to_load": round(loaded, 3),
        "max_batch_size": runtime.card.max_batch_size,
        "largest_batch_that_fits": largest,
        "batches": {
            size: {"seconds": round(taken, 6), "images_per_second": round(size / taken, 1)}
            for size, taken in seconds.items()
        },
    }


def _seconds(runtime: Runtime, size: int) -> float:
    spec = runtime.card.input
    images = np.random.default_rng(size).integers(
        0, 256, (size, spec.height, spec.width, spec.channels), dtype=np.uint8
    )
    rounds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        runtime.run(images, [Asked()] * size)
        rounds.append(time.perf_counter() - began)
    return statistics.median(rounds)


if __name__ == "__main__":
    raise SystemExit(main())
