"""What a node has measured of a model version, in the words of Triton's statistics extension.

Nothing here is estimated: what is not measured is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Statistics"]

_Counter = tuple[str, tuple[tuple[str, str], ...]]

_NANOSECONDS = 1_000_000_000
_MILLISECONDS = 1000


class Statistics:
    """The counters of all the node's processes."""

    def __init__(self, samples: Iterable[tuple[str, dict[str, str], float]]) -> None:
        self._values: dict[_Counter, float] = {
            (name, tuple(sorted(labels.items()))): value for name, labels, value in samples
        }

    def __repr__(self) -> str:
        return f"<Statistics of {len(self._values)} counters>"

    def of(self, key: str) -> dict[str, Any]:
        """A ``model_stats`` entry. Times of requests with several images are those of the slowest one."""
        model, _, version = key.rpartition("@")
        counted = (dict(labels) for name, labels in self._values if name == "shoal_executions_total")
        sizes = sorted(int(labels["size"]) for labels in counted if labels["model"] == key)
        batches = {
            size: self._pair("shoal_executions", "shoal_execution_seconds", key, size=str(size)) for size in sizes
        }
        return {
            "name": model,
            "version": version,
            "last_inference": round(self._value("shoal_last_answer_timestamp_seconds", key) * _MILLISECONDS),
            "inference_count": round(self._value("shoal_images_total", key)),
            "execution_count": sum(one["count"] for one in batches.values()),
            "inference_stats": {
                "success": self._pair("shoal_model_requests", "shoal_model_request_seconds", key, result="success"),
                "fail": self._pair("shoal_model_requests", "shoal_model_request_seconds", key, result="failure"),
                "queue": self._stage(key, "queue"),
                "compute_input": self._stage(key, "decode"),
                "compute_infer": self._stage(key, "inference"),
                "compute_output": self._stage(key, "answer"),
                "cache_hit": self._pair("shoal_cache_hits", "shoal_cache_hit_seconds", key),
                "cache_miss": self._pair("shoal_cache_misses", "shoal_cache_miss_seconds", key),
            },
            "batch_stats": [{"batch_size": size, "compute_infer": one} for size, one in batches.items()],
        }

    def _stage(self, key: str, stage: str) -> dict[str, int]:
        name = "shoal_stage_duration_seconds"
        return _pair(self._value(f"{name}_count", key, stage=stage), self._value(f"{name}_sum", key, stage=stage))

    def _pair(self, count: str, seconds: str, key: str, **labels: str) -> dict[str, int]:
        return _pair(self._value(f"{count}_total", key, **labels), self._value(f"{seconds}_total", key, **labels))

    def _value(self, name: str, key: str, **labels: str) -> float:
        return self._values.get((name, tuple(sorted({"model": key, **labels}.items()))), 0.0)


def _pair(count: float, seconds: float) -> dict[str, int]:
    return {"count": round(count), "ns": round(seconds * _NANOSECONDS)}
