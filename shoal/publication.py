"""What is published of a model: its versions, their labels, and how traffic is split between them.

One JSON document for each model, in discovery's values under ``models/NAME``. Supervisors follow it to know what to
load, gateways to know which version a request is for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from hashlib import sha256

import msgspec

__all__ = ["PREFIX", "Publication", "Published", "Unpublished", "decode", "encode", "highest", "order"]

PREFIX = "models/"
"""Where publications are among discovery's values; the model's name follows."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class Unpublished(LookupError):
    """A version or a label that the publication does not have."""


class Published(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version: where it is fetched from, and the sha256 of its folder. ``at`` is seconds since the epoch."""

    source: str
    digest: str
    at: float = 0.0


class Publication(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model as it is to be served.

    ``traffic`` gives weights to versions or labels; when it is empty, each worker serves its highest ready version.
    ``placement`` names the workers or zones that load it, with ``*`` and ``?``; when it is empty, all do.
    """

    model: str
    versions: dict[str, Published] = {}
    labels: dict[str, str] = {}
    traffic: dict[str, float] = {}
    placement: list[str] = []

    def version_of(self, name: str) -> str:
        """The version that a version or a label names. Raises ``Unpublished``."""
        version = self.labels.get(name, name)
        if version not in self.versions:
            raise Unpublished(f"{self.model} has no version or label {name!r}")
        return version

    def share(self, key: str, ready: Collection[str]) -> str | None:
        """The version for ``key`` by the split, among those ``ready``; equal keys get equal versions.

        None when there is no split, or when none of its versions is ready. By weighted rendezvous hashing: a version
        whose weight grows takes keys from the others and gives none away.
        """
        weights: dict[str, float] = {}
        for name, weight in self.traffic.items():
            version = self.labels.get(name, name)
            if version in ready and weight > 0:
                weights[version] = weights.get(version, 0.0) + weight
        if not weights:
            return None
        return min(weights, key=lambda version: (_race(f"{self.model}@{version}:{key}") / weights[version], version))

    def problems(self) -> list[str]:
        """What is wrong with it, a line each; nothing when it may be published."""
        named = _NAME.fullmatch(self.model) and ".." not in self.model
        found = [] if named else [f"{self.model!r} is not a model's name"]
        found += [f"{v!r} is not a version: a whole number from 1" for v in self.versions if not _VERSION.fullmatch(v)]
        for label, version in self.labels.items():
            if not _LABEL.fullmatch(label):
                found.append(f"{label!r} is not a label: letters, digits and _, and no digit first")
            if version not in self.versions:
                found.append(f"the label {label} is for version {version}, which is not published")
        for name, weight in self.traffic.items():
            if self.labels.get(name, name) not in self.versions:
                found.append(f"traffic for {name}, which is neither a version nor a label")
            if not 0 <= weight < float("inf"):
                found.append(f"traffic for {name} is {weight}")
        if self.traffic and not any(self.traffic.values()):
            found.append("no version gets any traffic")
        return found


def order(version: str) -> tuple[int, str]:
    """Sorts versions by number."""
    return (int(version), version) if version.isascii() and version.isdigit() else (-1, version)


def highest(versions: Collection[str]) -> str:
    return max(versions, key=order) if len(versions) > 1 else next(iter(versions))


def decode(text: str | bytes) -> Publication:
    """Raises ``ValueError`` for anything that is not a publication."""
    try:
        publication = msgspec.json.decode(text, type=Publication)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if problems := publication.problems():
        raise ValueError("; ".join(problems))
    return publication


def encode(publication: Publication) -> str:
    return msgspec.json.encode(publication).decode()


def _race(text: str) -> float:
    """The time of a runner that looks exponentially distributed, and is always the same for ``text``."""
    number = int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
    return -math.log((number + 1) / 2**64)
