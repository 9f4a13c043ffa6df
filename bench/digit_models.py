"""Makes three versions of a small digit network, ready to publish: ``python -m bench.digit_models FOLDER``.

They are not trained: what is measured is how versions come and go, and each gives every picture an answer of its own.
The third is broken: it answers otherwise than what its golden request recorded.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from worker.models.conversion import CONVERTED
from worker.models.networks import keras_format
from worker.models.preparation import Wishes, prepare

MODEL = "digits"


def main() -> int:
    folder = Path(sys.argv[1])
    for version in ("1", "2", "3"):
        artefact = folder / f"{version}.keras"
        network(int(version)).save(artefact)
        prepare(artefact, folder / MODEL / version, model=MODEL, version=version, wishes=Wishes({}))
    shutil.copyfile(folder / MODEL / "1" / CONVERTED, folder / MODEL / "3" / CONVERTED)
    return 0


def network(seed: int) -> Any:
    """A ``keras.Model`` of 28 x 28 grey pixels to 10 logits."""
    keras = keras_format.start()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, name="logits"),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
