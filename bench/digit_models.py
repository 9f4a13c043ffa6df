"""Makes two small digit networks to swap: ``python -m bench.digit_models FOLDER`` writes 1.keras and 2.keras there.

They are not trained: what is measured is the swap, and both give every picture an answer of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from worker.models.networks import keras_format


def main() -> int:
    keras = keras_format.start()
    folder = Path(sys.argv[1])
    for version in (1, 2):
        keras.utils.set_random_seed(version)
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Rescaling(1 / 255),
                layers.Conv2D(16, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Conv2D(32, 3, activation="relu"),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(10),
            ]
        )
        model.save(folder / f"{version}.keras")
    return 0


if __name__ == "__main__":
    sys.exit(main())
