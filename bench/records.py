"""What was measured, as plain data between the run and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.measure import Memory

LIMIT = "limit"
QUIET_CORES = 0.15  # what strangers may take without making a cell worthless


@dataclass(frozen=True)
class Setting:
    """How a cell was driven: callers of a server; decode threads (0: none) and batch of the limit."""

    concurrency: int = 1
    threads: int = 0
    batch_size: int = 1


@dataclass(frozen=True)
class Cell:
    """One contestant, one setting, one round. Times in seconds; CPU of the server's tree, the client's apart.

    ``other_cores`` is how many cores the machine spent on strangers meanwhile.
    """

    contestant: str
    setting: Setting
    images: int
    seconds: float
    latencies: tuple[float, ...]
    cpu_seconds: float
    client_cpu_seconds: float = 0.0
    other_cores: float = 0.0
    mean_batch: float | None = None
    errors: tuple[str, ...] = ()

    @property
    def disturbed(self) -> bool:
        return self.other_cores > QUIET_CORES

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def cpu_per_thousand(self) -> float:
        return 1000 * self.cpu_seconds / self.images


@dataclass(frozen=True)
class Report:
    """A whole run. ``missing`` maps contestants to the reason why they were not measured.

    ``failures`` are the contestants among them that answered wrongly or ended under measurement.
    """

    facts: Mapping[str, str]
    titles: Mapping[str, str]
    cells: tuple[Cell, ...]
    rounds: int
    memory: Mapping[str, Memory] = field(default_factory=dict)
    idle_cores: Mapping[str, float] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    failures: frozenset[str] = frozenset()

    @property
    def errors(self) -> list[str]:
        """One line each, of requests and of whole contestants."""
        requests = [f"{cell.contestant}: {error}" for cell in self.cells for error in cell.errors]
        return [*(f"{name}: {self.missing[name]}" for name in sorted(self.failures)), *requests]

    def all_of(self, contestant: str, setting: Setting) -> list[Cell]:
        return [cell for cell in self.cells if (cell.contestant, cell.setting) == (contestant, setting)]

    def of(self, contestant: str, setting: Setting) -> list[Cell]:
        """The undisturbed rounds, or all where there is no such round."""
        cells = self.all_of(contestant, setting)
        return [cell for cell in cells if not cell.disturbed] or cells

    def settings(self, contestant: str) -> list[Setting]:
        """In the order measured."""
        return list(dict.fromkeys(cell.setting for cell in self.cells if cell.contestant == contestant))
