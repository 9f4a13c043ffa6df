"""Executes batches of any size on a network that takes only some sizes, or takes them at very different costs."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from worker.models.batch_plan import plan, warmed_sizes
from worker.models.networks import Network, NotLoadable
from worker.models.runtime import Array, OutOfMemory

__all__ = ["Batches"]

# An execution is timed this often, and the quickest counts: what disturbs a measurement only ever adds.
_TIMINGS = 3
_ENOUGH_SECONDS = 5.0


class Batches:
    """A network, and the sizes in which it is executed: its own fixed one, a few warmed ones if it pads, else any.

    Raises ``NotLoadable`` for outputs that are not one entry for each image.
    """

    def __init__(self, network: Network, most: int) -> None:
        self._network = network
        self._most = most
        fixed = network.inputs[0].shape[0]
        for output in network.outputs:
            if not output.shape or output.shape[0] not in (-1, fixed):
                raise NotLoadable(f"output {output.name!r} has shape {output.shape}, and no entry for each image")
        self._is_any_size = fixed < 0 and not network.pads
        sizes = (fixed,) if fixed > 0 else warmed_sizes(most)
        # Until the warm-up has measured them, costs under which no plan pads.
        self._costs: dict[int, float] = {size: 1.0 + size for size in sizes}
        self._plans: dict[int, tuple[int, ...]] = {}

    def __repr__(self) -> str:
        if self._is_any_size:
            return "any batch size"
        return ", ".join(f"{size}: {cost * 1000:.1f} ms" for size, cost in self._costs.items())

    def warm_up(self, image: Array) -> None:
        """Execute batches of one prepared image in every size that will be used, and measure what each costs.

        Sizes that the device has no memory for are given up, and larger batches executed in parts. Raises
        ``OutOfMemory`` when not even the smallest fits.
        """
        sizes = sorted({*self._costs, self._most} if self._is_any_size else self._costs)
        batches: dict[int, Array] = {}
        started = time.perf_counter()
        for size in sizes:
            batch = np.repeat(image, size, axis=0)
            try:
                self._network.execute(batch)
            except OutOfMemory:
                if not batches:
                    raise
                self._is_any_size = False
                break
            batches[size] = batch
        if self._is_any_size:
            return
        # Size by size would let one short disturbance make one size look dear; round by round it hits all.
        rounds = [self._timed(batches)]
        while len(rounds) < _TIMINGS and time.perf_counter() - started < _ENOUGH_SECONDS:
            rounds.append(self._timed(batches))
        self._costs = {size: min(timed[size] for timed in rounds) for size in batches}
        self._plans.clear()

    def execute(self, batch: Array) -> Mapping[str, Array]:
        """The outputs for n prepared images, executed in the cheapest parts. Raises as ``Network.execute`` does."""
        parts = []
        start = 0
        for size in self._sizes(len(batch)):
            outputs = self._network.execute(_padded(batch[start : start + size], size))
            parts.append(_checked(outputs, size))
            start += size
        if len(parts) == 1:
            return {name: array[: len(batch)] for name, array in parts[0].items()}
        return {name: np.concatenate([part[name] for part in parts])[: len(batch)] for name in parts[0]}

    def _sizes(self, images: int) -> tuple[int, ...]:
        if self._is_any_size:
            whole, rest = divmod(images, self._most)
            return (self._most,) * whole + (rest,) * bool(rest)
        if images not in self._plans:
            self._plans[images] = plan(images, self._costs)
        return self._plans[images]

    def _timed(self, batches: Mapping[int, Array]) -> dict[int, float]:
        return {size: self._seconds(batch) for size, batch in batches.items()}

    def _seconds(self, batch: Array) -> float:
        started = time.perf_counter()
        self._network.execute(batch)
        return time.perf_counter() - started


def _checked(outputs: Mapping[str, Array], images: int) -> Mapping[str, Array]:
    for name, array in outputs.items():
        if array.shape[:1] != (images,):
            raise ValueError(f"output {name!r} has shape {array.shape} for {images} images")
    return outputs


def _padded(part: Array, size: int) -> Array:
    if len(part) == size:
        return part
    return np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
