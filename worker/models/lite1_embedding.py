"""Loads ``lite1-embedding``: what EfficientNet-Lite1 sees in a photo, as 1280 floats to compare or to learn on."""

from __future__ import annotations

from worker.models import lite_runtime
from worker.models.runtime import Runtime
from worker.models.tasks import embedding


def load(*, version: str, **parameters: str) -> Runtime:
    """Parameters: ``max_batch_size`` (default 32), ``threads`` (default 0, all cores).

    Raises ``ValueError`` that lists every bad parameter, ``MissingPackage`` without the weights.
    """
    return lite_runtime.load(
        "lite1-embedding",
        version,
        parameters,
        variant="lite1",
        output="features",
        task="embedding",
        build=lambda outputs, image: embedding.build(embedding.Settings(), (), outputs, image),
    )
