"""What answers are made of: one file for each task, which turns a network's outputs into JSON-ready answers.

A task's module has ``Settings`` (pydantic: the table of the manifest with the task's name) and
``build(settings, labels, outputs, image) -> Task``, which raises ``ValueError`` when they do not fit; ``image`` is the
network's input. ``TASKS`` says which module a ``task`` of a manifest is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from shoal.wire import Option
from worker.models.runtime import Array, Asked

__all__ = ["TASKS", "Task", "module_of"]

TASKS = {
    "classification": "worker.models.tasks.classification",
    "detection": "worker.models.tasks.detection",
    "embedding": "worker.models.tasks.embedding",
    "tensors": "worker.models.tasks.tensors",
}


class Task(Protocol):
    """How to read a network's outputs."""

    @property
    def options(self) -> Mapping[str, Option]:
        """What a request may choose, by the name of its query parameter."""

    @property
    def labels(self) -> Sequence[str]:
        """The name of each class; none where there are no classes."""

    @property
    def boxes(self) -> bool:
        """Whether its predictions have a ``box``, in pixels of the original picture."""

    def answers(self, outputs: Mapping[str, Array], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """One answer for each image, in order. ``outputs`` are whole batches, of the network's own shapes.

        Raises ``ValueError`` for outputs that make no sense: not finite, or of another shape.
        """


def module_of(task: str) -> ModuleType:
    """The module of a task: ``Settings``, ``build``."""
    return importlib.import_module(TASKS[task])
