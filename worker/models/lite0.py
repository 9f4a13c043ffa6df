"""Loads the classifier ``lite0``: EfficientNet-Lite0 on ImageNet."""

from __future__ import annotations

from shoal.wire import ImageInput, ModelCard, Option
from worker.models import efficientnet_lite, imagenet
from worker.models.keras_runtime import KerasRuntime, use_threads
from worker.models.parameters import Parameters, count
from worker.models.runtime import Runtime


def load(*, version: str, **parameters: str) -> Runtime:
    """Parameters: ``max_batch_size`` (default 32), ``threads`` (default 0, all cores).

    Raises ``ValueError`` that lists every bad parameter, ``MissingPackage`` without the weights or the names.
    """
    given = Parameters("lite0", parameters)
    max_batch_size = given.take("max_batch_size", count(1, 1024), 32)
    threads = given.take("threads", count(0, 1024), 0)
    given.check()
    imagenet.labels()
    use_threads(threads)
    variant = efficientnet_lite.VARIANTS["lite0"]
    card = ModelCard(
        model="lite0",
        version=version,
        digest=variant.sha256,
        task="classification",
        input=ImageInput("image", variant.size, variant.size, "center", efficientnet_lite.MARGIN, "bicubic"),
        max_batch_size=max_batch_size,
        options={"top_k": Option(1, 1000, whole=True)},
    )
    return KerasRuntime(efficientnet_lite.build("lite0"), card, imagenet.classify)
