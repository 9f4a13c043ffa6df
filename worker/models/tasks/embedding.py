"""What a model sees in a picture, as floats to compare or to learn on: ``{"embedding": [float, …]}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.wire import ImageInput, Option
from worker.models.networks import Spec
from worker.models.runtime import Array, Asked
from worker.models.tasks import outputs as network_outputs
from worker.models.tasks.settings import Table

__all__ = ["Embedding", "Settings", "build"]


class Settings(Table):
    """The table ``[embedding]``. ``output`` names the output to read where there are several."""

    output: str = ""


def build(settings: Settings, labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput) -> Embedding:
    """Raises ``ValueError`` when there is no such output, or for labels, which nothing would show."""
    if labels:
        raise ValueError("labels: an embedding has none")
    spec = network_outputs.choose(outputs, settings.output)
    network_outputs.width(spec)
    return Embedding(spec.name)


@dataclass(frozen=True)
class Embedding:
    """The task, for one network."""

    output: str

    @property
    def options(self) -> Mapping[str, Option]:
        return {}

    @property
    def labels(self) -> Sequence[str]:
        return ()

    @property
    def boxes(self) -> bool:
        return False

    def answers(self, outputs: Mapping[str, Array], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """See ``Task.answers``. The floats have the shortest decimals that give the same float32 again."""
        rows = network_outputs.rows(outputs, self.output, len(asked))
        return [{"embedding": row} for row in network_outputs.shortest(rows).tolist()]
