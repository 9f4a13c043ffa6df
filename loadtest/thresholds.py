"""What a load test must have reached, and the verdict that becomes its exit code."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from loadtest.tally import LATE_SECONDS, Tally


@dataclass(frozen=True)
class Failures:
    """How many requests may fail: a count, or a share of all requests."""

    count: int | None = 0
    share: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Failures:
        """From "3" (a count) or "0.5%" (a share). Raises ``ValueError``."""
        if text.endswith("%"):
            return cls(None, share(text))
        if not text.isdecimal():
            raise ValueError(f"{text!r} is neither a count nor a percentage")
        return cls(int(text))

    def most(self, requests: int) -> float:
        return self.share * requests if self.count is None else self.count

    def __str__(self) -> str:
        return f"{self.share:.3g} of all" if self.count is None else str(self.count)


def share(text: str) -> float:
    """From "0.05" or "5%" to 0.05. Raises ``ValueError``."""
    value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not from 0 to 1, nor from 0% to 100%")
    return value


@dataclass(frozen=True)
class Thresholds:
    """``p95`` in seconds, ``goodput`` in good answers per second; None is not checked."""

    failures: Failures = field(default_factory=Failures)
    p95: float | None = None
    goodput: float | None = None
    refused: float | None = None


@dataclass(frozen=True)
class Outcome:
    """A whole test. ``histogram`` counts the requests that were answered by milliseconds."""

    answered: int
    failed: int
    refused: int
    histogram: Mapping[float, int]
    tally: Tally
    due: int | None = None
    lost_processes: int = 0
    exceptions: int = 0

    @property
    def requests(self) -> int:
        """All that were wanted: also those that were dropped."""
        return self.answered + self.failed + self.refused + self.tally.dropped

    @property
    def failures(self) -> int:
        return self.failed + self.tally.dropped + self.exceptions

    @property
    def goodput(self) -> float:
        return self.answered / self.tally.seconds if self.tally.seconds else 0.0

    @property
    def refused_share(self) -> float:
        return self.refused / self.requests if self.requests else 0.0

    @property
    def p95(self) -> float:
        """In seconds; NaN without answers, which passes no threshold."""
        return percentile(self.histogram, 0.95) / 1000


@dataclass(frozen=True)
class Check:
    """One line of the verdict."""

    name: str
    value: str
    wanted: str
    passed: bool

    def __str__(self) -> str:
        return f"  {self.name:<10} {self.value:<12} {self.wanted:<22} {'pass' if self.passed else 'FAIL'}"


def percentile(histogram: Mapping[float, int], fraction: float) -> float:
    """The smallest value that at least ``fraction`` of all are not above; NaN when there are none."""
    needed = fraction * sum(histogram.values())
    seen = 0
    for value, count in sorted(histogram.items()):
        seen += count
        if seen >= needed:
            return value
    return math.nan


def check(outcome: Outcome, thresholds: Thresholds) -> Iterator[Check]:
    """Every check that applies, those that always do first."""
    yield Check("requests", str(outcome.requests), "at least 1", outcome.requests > 0)
    most = thresholds.failures.most(outcome.requests)
    yield Check("failures", str(outcome.failures), f"at most {thresholds.failures}", outcome.failures <= most)
    if outcome.lost_processes:
        yield Check("processes", f"{outcome.lost_processes} lost", "none lost", False)
    if outcome.due is not None:
        seen = outcome.tally.launched + outcome.tally.dropped
        yield Check("arrivals", str(seen), f"{outcome.due} were due", seen == outcome.due)
    if thresholds.p95 is not None:
        value = f"{outcome.p95:.3f} s"
        yield Check("p95", value, f"at most {thresholds.p95:g} s", outcome.p95 <= thresholds.p95)
    if thresholds.goodput is not None:
        value = f"{outcome.goodput:.1f}/s"
        yield Check("goodput", value, f"at least {thresholds.goodput:g}/s", outcome.goodput >= thresholds.goodput)
    if thresholds.refused is not None:
        value = f"{outcome.refused_share:.4f}"
        yield Check("refused", value, f"at most {thresholds.refused:g}", outcome.refused_share <= thresholds.refused)


def verdict(outcome: Outcome, checks: list[Check]) -> str:
    """The test in a few lines."""
    tally = outcome.tally
    lines = [
        f"Load test: {outcome.answered} answered, {outcome.refused} refused, {outcome.failed} failed "
        f"in {tally.seconds:.1f} s; goodput {outcome.goodput:.1f}/s, p95 {outcome.p95:.3f} s"
    ]
    if outcome.due is not None:
        lines.append(
            f"Open loop: {outcome.due} arrivals due, {tally.launched} launched, {tally.dropped} dropped; "
            f"{tally.late} over {LATE_SECONDS * 1000:.0f} ms late (worst {tally.worst_delay * 1000:.0f} ms)"
        )
    return "\n".join([*lines, *map(str, checks)])
