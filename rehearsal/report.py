"""What a rehearsal found, kept as JSON, and its section in a page of the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- rehearsal: written by make rehearsal -->", "<!-- end of the rehearsal -->"


@dataclass
class Step:
    """One step: what was done, how long it took, and what must hold."""

    name: str
    what: str
    seconds: float = 0.0
    checks: list[tuple[str, str, bool]] = field(default_factory=list)

    def check(self, claim: str, found: object, holds: bool) -> None:
        self.checks.append((claim, " ".join(str(found).split()).replace("|", "/"), holds))  # a cell of a table

    @property
    def holds(self) -> bool:
        return bool(self.checks) and all(holds for _, _, holds in self.checks)


def save(path: Path, facts: Mapping[str, Any], steps: Sequence[Step]) -> None:
    document = {"facts": facts, "steps": [asdict(step) for step in steps]}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def section(facts: Mapping[str, Any], steps: Sequence[Step]) -> str:
    """Markdown: what ran where, and a row for each check."""
    return "\n".join([BEGIN, "", *_lines(facts, steps), "", END])


def _lines(facts: Mapping[str, Any], steps: Sequence[Step]) -> Iterator[str]:
    yield f"Run on {facts['when']}, on {facts['machine']}, with Ansible {facts['ansible']}, Consul {facts['consul']}"
    yield f"and the model `{facts['model']}`. {facts['hosts']}"
    yield ""
    yield "| step | seconds | what must hold | found | holds |"
    yield "| --- | --- | --- | --- | --- |"
    for step in steps:
        for number, (claim, found, holds) in enumerate(step.checks):
            name, seconds = (step.what, f"{step.seconds:.0f}") if number == 0 else ("", "")
            yield f"| {name} | {seconds} | {claim} | {found} | {'yes' if holds else '**no**'} |"


def insert(page: str, text: str) -> str:
    """The page with its section replaced. Raises ``ValueError`` when it has no place for one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks {BEGIN} or {END}")
    return before + text + after
