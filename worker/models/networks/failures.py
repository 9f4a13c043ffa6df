"""Tells the failures that another batch size or another process can help with from all others."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from worker.models.runtime import DeviceLost, OutOfMemory

__all__ = ["Trouble", "judge", "translating"]

Trouble = Callable[[BaseException], OutOfMemory | DeviceLost | None]

# After these, CUDA answers every further call of the process with an error. The words are those of
# cudaGetErrorString and cuGetErrorName, which all frameworks pass on.
_LOST = re.compile(
    r"illegal memory access|CUDA_ERROR_ILLEGAL_ADDRESS|misaligned address|CUDA_ERROR_MISALIGNED_ADDRESS"
    r"|illegal instruction was encountered|CUDA_ERROR_ILLEGAL_INSTRUCTION|invalid program counter|CUDA_ERROR_INVALID_PC"
    r"|unspecified launch failure|CUDA_ERROR_LAUNCH_FAILED|CUDA_ERROR_LAUNCH_TIMEOUT|the launch timed out"
    r"|uncorrectable (?:NVLink |ECC )?error|CUDA_ERROR_ECC_UNCORRECTABLE|hardware stack error"
    r"|device-side assert|CUDA_ERROR_ASSERT|GPU is lost|device (?:is |was )?lost|CUDA_ERROR_DEVICE_UNAVAILABLE"
    r"|has fallen off the bus|CUDA_ERROR_CONTEXT_IS_DESTROYED|driver shutting down|CUDA_ERROR_DEINITIALIZED",
    re.IGNORECASE,
)


def judge(error: BaseException, out_of_memory: re.Pattern[str]) -> OutOfMemory | DeviceLost | None:
    """What an error is, by its message and the framework's own words for too little memory."""
    text = f"{type(error).__name__}: {error}"
    if _LOST.search(text):
        return DeviceLost(_first_line(text))
    if isinstance(error, MemoryError) or out_of_memory.search(text):
        return OutOfMemory(_first_line(text))
    return None


@contextlib.contextmanager
def translating(trouble: Trouble) -> Iterator[None]:
    """Raise ``OutOfMemory`` or ``DeviceLost`` where ``trouble`` sees one, and leave every other error as it is."""
    try:
        yield
    except (OutOfMemory, DeviceLost):
        raise
    except Exception as error:
        if (known := trouble(error)) is not None:
            raise known from error
        raise


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:300]
