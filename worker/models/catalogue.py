"""The models that ship with Shoal, and how a name on the command line becomes a loaded one.

A specification is a name with optional parameters, written like a URL's query:
``lite0``, ``fake?seconds_per_execution=0.02``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from urllib.parse import parse_qsl

from worker.models.runtime import Runtime


@dataclass(frozen=True)
class Entry:
    """Where a shipped model's loader is. ``load(**parameters)`` of that module returns a ``Runtime``."""

    version: str
    module: str
    summary: str


CATALOGUE = {
    "lite0": Entry("1", "worker.models.lite0", "ImageNet classifier EfficientNet-Lite0, 224 x 224, 1000 classes"),
    "lite1-embedding": Entry("1", "worker.models.lite1_embedding", "1280 floats from EfficientNet-Lite1, 240 x 240"),
    "fake": Entry("1", "worker.models.fake", "deterministic answers from the image's content, settable cost"),
}


@dataclass(frozen=True)
class Specification:
    """A model as a setting names it: which, and with what parameters."""

    model: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Specification:
        """Raises ``ValueError`` with a message for people when the model is not in the catalogue."""
        name, _, query = text.partition("?")
        if name not in CATALOGUE:
            raise ValueError(f"unknown model {name!r}; there are {', '.join(sorted(CATALOGUE))}")
        return cls(name, dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))))

    @property
    def entry(self) -> Entry:
        return CATALOGUE[self.model]

    def load(self) -> Runtime:
        """Import the model's module and load it. Only a model process calls this."""
        module = importlib.import_module(self.entry.module)
        runtime: Runtime = module.load(version=self.entry.version, **self.parameters)
        return runtime
