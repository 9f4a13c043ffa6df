"""Loads the classifier ``lite0``: EfficientNet-Lite0 on ImageNet."""

from __future__ import annotations

from worker.models import imagenet, lite_runtime
from worker.models.runtime import Runtime
from worker.models.tasks import classification


def load(*, version: str, **parameters: str) -> Runtime:
    """Parameters: ``max_batch_size`` (default 32), ``threads`` (default 0, all cores).

    Raises ``ValueError`` that lists every bad parameter, ``MissingPackage`` without the weights or the names.
    """
    return lite_runtime.load(
        "lite0",
        version,
        parameters,
        variant="lite0",
        output="logits",
        task="classification",
        build=lambda outputs, image: classification.build(
            classification.Settings(activation="softmax"), imagenet.labels(), outputs, image
        ),
    )
