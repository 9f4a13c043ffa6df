"""Loads ``lite1-embedding``: what EfficientNet-Lite1 sees in a photo, as 1280 floats to compare or to learn on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from shoal.wire import ImageInput, ModelCard
from worker.models import efficientnet_lite
from worker.models.keras_runtime import KerasRuntime, use_threads
from worker.models.parameters import Parameters, count
from worker.models.runtime import Array, Runtime


def load(*, version: str, **parameters: str) -> Runtime:
    """Parameters: ``max_batch_size`` (default 32), ``threads`` (default 0, all cores).

    Raises ``ValueError`` that lists every bad parameter, ``MissingPackage`` without the weights.
    """
    given = Parameters("lite1-embedding", parameters)
    max_batch_size = given.take("max_batch_size", count(1, 1024), 32)
    threads = given.take("threads", count(0, 1024), 0)
    given.check()
    use_threads(threads)
    variant = efficientnet_lite.VARIANTS["lite1"]
    card = ModelCard(
        model="lite1-embedding",
        version=version,
        digest=variant.sha256,
        task="embedding",
        input=ImageInput("image", variant.size, variant.size, "center", efficientnet_lite.MARGIN, "bicubic"),
        max_batch_size=max_batch_size,
    )
    return KerasRuntime(efficientnet_lite.build("lite1", "features"), card, embed)


def embed(features: Array, options: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row of float32 (n, 1280) as an answer, in the shortest decimals that give the same float32 again."""
    if not np.isfinite(features).all():
        raise ValueError("the model gave features that are not finite")
    shortest = features.astype(np.str_).astype(np.float64)
    return [{"embedding": row} for row in shortest.tolist()]
