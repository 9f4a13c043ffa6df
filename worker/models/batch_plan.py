"""Chooses how to execute n images on a runtime that is warmed for a few batch sizes only."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["plan", "warmed_sizes"]


def warmed_sizes(max_batch_size: int) -> tuple[int, ...]:
    """The powers of two up to ``max_batch_size`` (1 or more), ascending."""
    return tuple(1 << power for power in range(max_batch_size.bit_length()))


def plan(images: int, costs: Mapping[int, float]) -> tuple[int, ...]:
    """The cheapest batch sizes, largest first, that together hold ``images`` (1 or more).

    ``costs`` maps each warmed size to what one execution of it takes, in any one unit. The sizes may hold more
    than ``images``: the rest of the last one is padding, for which a measured cost has already paid. Of equally
    cheap plans the one with fewest executions wins.
    """
    if images < 1 or not costs:
        raise ValueError(f"cannot plan {images} images over the sizes {sorted(costs)}")
    best: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 0, ())]
    for wanted in range(1, images + 1):
        choices = []
        for size, cost in costs.items():
            spent, executions, sizes = best[max(0, wanted - size)]
            choices.append((spent + cost, executions + 1, (*sizes, size)))
        best.append(min(choices))
    return tuple(sorted(best[images][2], reverse=True))
