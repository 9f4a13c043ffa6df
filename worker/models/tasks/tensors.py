"""All that a network gives, as it is: ``{"outputs": {name: {"dtype", "shape", "data"}}}`` with nested lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from shoal.wire import ImageInput, Option
from worker.models.networks import Spec
from worker.models.runtime import Array, Asked
from worker.models.tasks import outputs as network_outputs
from worker.models.tasks.settings import Table

__all__ = ["Settings", "Tensors", "build"]


class Settings(Table):
    """The table ``[tensors]``. ``outputs`` names those to answer with; all, when it is empty."""

    outputs: list[str] = Field(default_factory=list)


def build(settings: Settings, labels: Sequence[str], outputs: Sequence[Spec], image: ImageInput) -> Tensors:
    """Raises ``ValueError`` for an output that there is not, or for labels, which nothing would show."""
    if labels:
        raise ValueError("labels: tensors have none")
    names = settings.outputs or [spec.name for spec in outputs]
    return Tensors(tuple(network_outputs.choose(outputs, name, setting="outputs").name for name in names))


@dataclass(frozen=True)
class Tensors:
    """The task, for one network."""

    outputs: tuple[str, ...]

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
        """See ``Task.answers``. Shapes are without the batch; floats have the shortest decimals that give the same."""
        tensors = {name: network_outputs.tensor(outputs, name, len(asked)) for name in self.outputs}
        lists = {name: network_outputs.shortest(values).tolist() for name, values in tensors.items()}
        return [
            {
                "outputs": {
                    name: {"dtype": values.dtype.name, "shape": list(values.shape[1:]), "data": lists[name][image]}
                    for name, values in tensors.items()
                }
            }
            for image in range(len(asked))
        ]
