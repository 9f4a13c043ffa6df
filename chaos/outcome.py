"""What a scenario tried and what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from chaos.load import Answered


@dataclass
class Tally:
    """Requests that have ended, as far as the promises are about them.

    Where ``may_refuse``, a queue that is full is no failure: it is what was promised.
    """

    may_refuse: bool = False
    refused: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    slowest: float = 0.0
    examples: list[str] = field(default_factory=list)

    def add(self, ends: Sequence[Answered]) -> None:
        for end in ends:
            self.requests[end.mode] += 1
            self.slowest = max(self.slowest, end.seconds)
            if end.code == "queue_full" and self.may_refuse:
                self.refused += 1
            elif end.code != "ok":
                self.failures[f"{end.mode} {end.code}"] += 1
                self.examples = [*self.examples, f"{end.seconds:.1f} s: {end.error}"][-5:]
            elif not end.right:
                self.wrong += 1


@dataclass
class Outcome:
    """A scenario's result. ``checks`` are what must hold: what is claimed, what was found, whether it holds."""

    name: str
    what: str
    tried: int = 0
    counted: int = 0
    tally: Tally = field(default_factory=Tally)
    recoveries: list[float] = field(default_factory=list)
    most_executions: int = 0
    checks: list[tuple[str, str, bool]] = field(default_factory=list)

    def check(self, claim: str, found: object, holds: bool) -> None:
        self.checks.append((claim, str(found), holds))

    @property
    def holds(self) -> bool:
        return all(holds for _, _, holds in self.checks)

    def conclude(self, *, executions: int | None = 2) -> None:
        """Check what every scenario promises: nothing failed, nothing wrong, nothing executed too often."""
        failures = ", ".join(f"{count} {what}" for what, count in self.tally.failures.items())
        self.check("0 failed", failures or "0", not self.tally.failures)
        self.check("every answer is its image's", f"{self.tally.wrong} wrong", self.tally.wrong == 0)
        if executions is not None:
            claim = f"executions of one request at most {executions}"
            self.check(claim, self.most_executions, self.most_executions <= executions)

    def recovery(self) -> str:
        if not self.recoveries:
            return "-"
        return f"{median(self.recoveries):.1f} / {max(self.recoveries):.1f}"
