"""What a node can execute models on: its GPUs, or its processor.

A model version has one process on each device. A process sees only its own GPU, and takes memory as it needs it, so
that several models share one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

_ASK = ("nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
_PATIENCE = 10.0
_MIB = 1024 * 1024


class NoSuchDevice(Exception):
    """A device that the settings name is not there."""


@dataclass(frozen=True)
class Device:
    """``cpu``, or ``gpu0``. ``environ`` makes a process see this device alone; ``memory_bytes`` is 0 for the CPU."""

    name: str
    environ: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0


CPU = Device("cpu", {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"})


async def find(wanted: str) -> list[Device]:
    """The devices that the setting ``devices`` names: ``cpu``, numbers of GPUs, or ``auto``: all GPUs, else the CPU.

    Raises ``NoSuchDevice``.
    """
    if wanted == "cpu":
        return [CPU]
    gpus = parse(await _listed())
    if wanted == "auto":
        return gpus or [CPU]
    found = {gpu.name: gpu for gpu in gpus}
    names = [f"gpu{number}" for number in wanted.split(",")]
    if missing := [name for name in names if name not in found]:
        raise NoSuchDevice(f"no {', '.join(missing)} here; there are {', '.join(found) or 'no GPUs'}")
    return [found[name] for name in names]


def parse(lines: Sequence[str]) -> list[Device]:
    """The GPUs in what ``nvidia-smi`` prints: index, UUID, memory in MiB. What it cannot say is left out."""
    devices = []
    for line in lines:
        try:
            index, uuid, memory = (part.strip() for part in line.split(","))
            size = int(memory) * _MIB
        except ValueError:
            log.warning("not a GPU of ours", extra={"line": line[:200]})
            continue
        environ = {
            "CUDA_VISIBLE_DEVICES": uuid,
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        devices.append(Device(f"gpu{index}", environ, size))
    return devices


async def _listed() -> list[str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *_ASK, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return []  # no driver, so no GPU
    try:
        async with asyncio.timeout(_PATIENCE):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        log.warning("nvidia-smi does not answer: no GPU is used")
        return []
    return output.decode(errors="replace").splitlines() if process.returncode == 0 else []
