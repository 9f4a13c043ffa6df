"""Makes a ``Runtime`` of EfficientNet-Lite, for the models that ship with Shoal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shoal.wire import ImageInput, ModelCard
from worker.models import efficientnet_lite, networks
from worker.models.efficientnet_lite import Output
from worker.models.manifest import Input
from worker.models.network_runtime import NetworkRuntime
from worker.models.networks import Spec, keras_format
from worker.models.parameters import Parameters, count
from worker.models.tasks import Task

__all__ = ["load"]


def load(
    model: str,
    version: str,
    parameters: Mapping[str, str],
    *,
    variant: str,
    output: Output,
    task: str,
    build: Callable[[Sequence[Spec], ImageInput], Task],
) -> NetworkRuntime:
    """Parameters: ``max_batch_size`` (default 32), ``threads`` (default 0, all cores).

    Raises ``ValueError`` that lists every bad parameter, and as ``efficientnet_lite.build`` and ``build`` do.
    """
    given = Parameters(model, parameters)
    max_batch_size = given.take("max_batch_size", count(1, 1024), 32)
    threads = given.take("threads", count(0, 1024), 0)
    given.check()
    keras_format.start(threads=threads)
    size, margin = efficientnet_lite.VARIANTS[variant].size, efficientnet_lite.MARGIN
    wanted = Input(height=size, width=size, dtype="uint8", crop="center", margin=margin, resample="bicubic")
    network = keras_format.network(efficientnet_lite.build(variant, output), wanted)
    answering = build(network.outputs, wanted.image())
    card = ModelCard(
        model=model,
        version=version,
        digest=efficientnet_lite.VARIANTS[variant].sha256,
        task=task,
        input=wanted.image(),
        max_batch_size=max_batch_size,
        options=dict(answering.options),
        platform=networks.platform("keras", "tensorflow"),
    )
    return NetworkRuntime(card, network, wanted, answering)
