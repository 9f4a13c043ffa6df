"""What the processes of a cluster have written in their logs, as far as it answers what a victim held.

Each node's lines are followed while they are written. A request is *held* by the front or gateway that has begun and
not ended it, a job by the model process that has claimed and not executed it, and by the Redis that it was submitted
to and that has not seen it executed.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

Record = Mapping[str, Any]


@dataclass
class Uploaded:
    """Bytes of request bodies that came to the fronts, all and of those that were refused, by clients directly."""

    all: int = 0
    refused: int = 0


@dataclass
class Journal:
    """The state that the lines add up to. Feed it with ``read`` or ``take``.

    ``done`` counts by process what it has ended or executed, ``executions`` by request, ``images`` by node.
    """

    folder: Path
    requests: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    claimed: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    submitted: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    executed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    done: Counter[int] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    uploaded: Uploaded = field(default_factory=Uploaded)
    errors: list[str] = field(default_factory=list)
    _files: dict[str, IO[bytes]] = field(default_factory=dict)
    _rests: dict[str, bytes] = field(default_factory=dict)

    def read(self) -> None:
        """Take every line that was written since the last time."""
        for path in self.folder.glob("*.log"):
            file = self._files.get(path.stem) or self._files.setdefault(path.stem, path.open("rb"))
            lines = (self._rests.get(path.stem, b"") + file.read()).split(b"\n")
            self._rests[path.stem] = lines.pop()
            self.take(path.stem, lines)

    def take(self, node: str, lines: Iterable[bytes]) -> None:
        """Take lines of a node's log; those that are no records are kept as errors."""
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                self.errors.append(f"{node}: {line.decode(errors='replace')}")
                continue
            self._take(node, record)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _take(self, node: str, record: Record) -> None:
        match record.get("message"):
            case "begun" if record["method"] == "POST":
                self.requests[int(record["pid"])].add(record["request_id"])
            case "request" if record["method"] == "POST":
                self.requests[int(record["pid"])].discard(record["request_id"])
                self.done[int(record["pid"])] += 1
                self._count_upload(record)
            case "submitted" if record["job"] not in self.executed[node]:  # a front may write later than a model
                self.submitted[node].add(record["job"])
            case "claimed":
                self.claimed[int(record["pid"])] |= set(record["jobs"])
            case "executed":
                self.claimed[int(record["pid"])] -= set(record["jobs"])
                self.submitted[node] -= set(record["jobs"])
                self.executed[node] |= set(record["jobs"])
                self.done[int(record["pid"])] += 1
                self.executions.update(r for r in record["request_ids"] if r != "heartbeat")
                self.images[node] += sum(r != "heartbeat" for r in record["request_ids"])
            case "unexpected error" | "the model raised":
                self.errors.append(f"{node}: {record.get('exc_info', record)}")

    def _count_upload(self, record: Record) -> None:
        if record["role"] == "front" and not record["subject"].startswith("gateway:"):
            size = record["bytes"] or 0
            self.uploaded.all += size
            if record["code"] == "queue_full":
                self.uploaded.refused += size

    def held_by(self, pids: Iterable[int]) -> int:
        """Requests and jobs that these processes have taken and not answered."""
        return sum(len(self.requests[pid]) + len(self.claimed[pid]) for pid in pids)

    def held_in_redis(self, node: str) -> int:
        """Jobs that are in the node's Redis."""
        return len(self.submitted[node])

    def under_way(self) -> int:
        """Requests that some process has begun and not ended."""
        return sum(len(requests) for requests in self.requests.values())

    def forget(self) -> None:
        """Count executions and bytes anew."""
        self.executions.clear()
        self.uploaded = Uploaded()

    def forget_dead(self) -> None:
        """Between two rounds: what the dead held is answered by others, and those will not say so in their name."""
        self.executions.clear()
        self.submitted.clear()
        self.executed.clear()
        by_process: tuple[dict[int, Any], ...] = (self.requests, self.claimed, self.done)
        for known in by_process:
            for pid in [pid for pid in known if not _is_running(pid)]:
                del known[pid]


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
