"""The models that ship with Shoal, and how a name on the command line becomes a loaded one.

A specification is a name with optional parameters, written like a URL's query (``lite0``,
``fake?seconds_per_execution=0.02``), or the path of a version's folder (``./digits/1``), which has a ``model.toml``.
The parameter ``version`` serves a shipped model as another version than its own.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
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
    """Which model version to load: a shipped one with its parameters, or what lies in a version's folder."""

    model: str
    version: str
    parameters: dict[str, str] = field(default_factory=dict)
    folder: str = ""

    @classmethod
    def parse(cls, text: str) -> Specification:
        """What a setting names. Raises ``ValueError`` with a message for people when there is no such model."""
        if "/" in text:
            from worker.models import manifest

            folder = Path(text).expanduser().absolute()
            name, version = manifest.named(folder)
            return cls(name, version, folder=str(folder))
        name, _, query = text.partition("?")
        if name not in CATALOGUE:
            raise ValueError(
                f"unknown model {name!r}; there are {', '.join(sorted(CATALOGUE))}, and folders with a model.toml"
            )
        parameters = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        version = parameters.pop("version", CATALOGUE[name].version)
        if not re.fullmatch("[1-9][0-9]{0,17}", version):
            raise ValueError(f"bad parameters of {name}: version={version!r}: must be a whole number from 1")
        return cls(name, version, parameters)

    def load(self) -> Runtime:
        """Import what the model needs and load it. Only a model process calls this."""
        if self.folder:
            from worker.models import published

            return published.load(Path(self.folder), model=self.model, version=self.version)
        module = importlib.import_module(CATALOGUE[self.model].module)
        runtime: Runtime = module.load(version=self.version, **self.parameters)
        return runtime
