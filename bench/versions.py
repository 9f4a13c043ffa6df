"""Makes version folders to measure with: ``python -m bench.versions digits|lite0 FOLDER``.

``digits`` are three versions of a small network. They are not trained: what is measured is how versions come and go,
and each gives every picture an answer of its own. The third is broken: its golden request is answered otherwise.
``lite0`` is EfficientNet-Lite0 twice, for Keras on TensorFlow and for ONNX Runtime.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from worker.models import efficientnet_lite
from worker.models.conversion import CONVERTED
from worker.models.imagenet import labels
from worker.models.networks import keras_format
from worker.models.preparation import Wishes, prepare

DIGITS = "digits"
_RUNTIMES = ("keras", "onnx")


def digits(folder: Path) -> None:
    """``FOLDER/digits/1``, ``2``, and the broken ``3``."""
    for version in ("1", "2", "3"):
        artefact = folder / f"{version}.keras"
        _digit_network(int(version)).save(artefact)
        prepare(artefact, folder / DIGITS / version, model=DIGITS, version=version, wishes=Wishes({}))
    shutil.copyfile(folder / DIGITS / "1" / CONVERTED, folder / DIGITS / "3" / CONVERTED)


def lite0(folder: Path) -> None:
    """``FOLDER/lite0-keras/1`` and ``FOLDER/lite0-onnx/1``."""
    artefact = folder / "lite0.keras"
    keras_format.start()
    efficientnet_lite.build("lite0").save(artefact)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels()), encoding="utf-8")
    image = {"crop": "center", "margin": efficientnet_lite.MARGIN, "resample": "bicubic", "scale": 1.0}
    made = folder / "lite0" / "1"
    wishes = Wishes({"input": image, "task": "classification"}, labels=folder / "labels.txt")
    prepare(artefact, made, model="lite0", version="1", wishes=wishes)
    for runtime in _RUNTIMES:
        source = Wishes({"runtime": runtime} | ({"artefact": CONVERTED} if runtime == "onnx" else {}))
        name = f"lite0-{runtime}"
        prepare(made, folder / name / "1", model=name, version="1", wishes=source)


def _digit_network(seed: int) -> Any:
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


def main() -> int:
    made = {"digits": digits, "lite0": lite0}
    if len(sys.argv) != 3 or sys.argv[1] not in made:
        sys.stderr.write(f"usage: python -m bench.versions {'|'.join(made)} FOLDER\n")
        return 2
    made[sys.argv[1]](Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
