"""Teaches a pretrained network the classes of your own photos, and serves it: docs/finetune.md."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stage import Missing, parser, run, say, stage

from shoal import ShoalError
from shoal.wire import ImageInput
from worker import images
from worker.models import efficientnet_lite
from worker.models.networks import keras_format
from worker.models.packaged import MissingPackage

VARIANT = "lite0"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MOST_PIXELS = 100_000_000
HELD_OUT = 4  # one photo of so many is not learned from

# Photo cut-outs of Debian's package tuxpaint-stamps-default, for those who have no photos at hand.
STAMPS = Path("usr/share/tuxpaint/stamps")
CLASSES = {
    "bird": "animals/birds",
    "cattle": "animals/mammals/bovines",
    "fish": "animals/fish",
    "flower": "plants/flowers",
    "fruit": "food/fruit",
    "tool": "household/tools",
    "vegetable": "food/vegetables",
}

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Photos:
    """Photos as the network sees them, uint8 (n, side, side, 3), their files, and the number of each one's label."""

    labels: tuple[str, ...]
    files: tuple[Path, ...]
    pixels: Pixels
    shown: Numbers

    def __len__(self) -> int:
        return len(self.files)

    def part(self, chosen: npt.NDArray[np.bool_]) -> Photos:
        files = tuple(file for file, is_chosen in zip(self.files, chosen, strict=True) if is_chosen)
        return Photos(self.labels, files, self.pixels[chosen], self.shown[chosen])

    def split(self) -> tuple[Photos, Photos]:
        """Those to learn from, and those held out: of each label, every ``HELD_OUT``-th."""
        turns = np.zeros(len(self), np.int64)
        for number in range(len(self.labels)):
            turns[self.shown == number] = np.arange((self.shown == number).sum())
        held_out = turns % HELD_OUT == HELD_OUT - 1
        return self.part(~held_out), self.part(held_out)


def folders(options: argparse.Namespace) -> dict[str, Path]:
    """Where the photos of each label are. Raises ``Missing``."""
    if options.photos:
        found = {path.name: path for path in sorted(options.photos.expanduser().glob("*")) if path.is_dir()}
        if len(found) < 2:
            raise Missing(f"{options.photos} must have a folder of photos for each class, two at least")
        return found
    stamps = options.stamps.expanduser() / STAMPS
    if not stamps.is_dir():
        raise Missing(
            f"there is no {stamps}: name a folder with photos as LABEL/*.jpg, or have the photos of Debian by\n"
            "  apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb stamps\n"
            "and name that folder with --stamps stamps"
        )
    return {label: stamps / place for label, place in CLASSES.items()}


def read(places: dict[str, Path], side: int) -> Photos:
    """Decode the photos as a worker does, so that the network learns from what it will see. Raises ``Missing``."""
    taken = ImageInput("image", side, side, "squash")
    files, pixels, shown = [], [], []
    for number, (label, folder) in enumerate(places.items()):
        for file in sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS):
            try:
                decoded, _ = images.decode(file.read_bytes(), taken, max_pixels=MOST_PIXELS)
            except ShoalError as error:
                say(f"{file} is left out: {error.message}")
                continue
            files.append(file)
            pixels.append(decoded)
            shown.append(number)
        if shown.count(number) < HELD_OUT:
            raise Missing(f"{folder} has {shown.count(number)} photos of {label}: {HELD_OUT} are the least")
    return Photos(tuple(places), tuple(files), np.stack(pixels), np.array(shown))


def features_of(pretrained: Any, pixels: Pixels) -> Features:
    """What the pretrained network sees in each photo, (n, 1280)."""
    found: Features = pretrained.predict(pixels, batch_size=16, verbose=0)
    return found


def train(features: Features, shown: Numbers, *, classes: int, epochs: int = 60) -> Any:
    """A head, from features to logits."""
    keras = keras_format.start()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    head = keras.Sequential([keras.Input(features.shape[1:]), layers.Dropout(0.3), layers.Dense(classes)])
    head.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    head.fit(features, shown, epochs=epochs, batch_size=16, verbose=0)
    return head


def make(pretrained: Any, head: Any, labels: Sequence[str], folder: Path) -> Path:
    """Write one Keras model, pixels of 0 to 255 in and logits out, and its labels beside it; return its file."""
    keras = keras_format.start()
    folder.mkdir(parents=True)
    whole = keras.Model(pretrained.inputs, head(pretrained.outputs[0]))
    whole.save(folder / "photos.keras")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    return folder / "photos.keras"


def confusions(photos: Photos, guessed: Numbers) -> list[str]:
    """What was taken for what, the most frequent first, with the photos' names."""
    wrong = np.flatnonzero(guessed != photos.shown)
    pairs = [(photos.labels[photos.shown[one]], photos.labels[guessed[one]]) for one in wrong]
    return [
        f"{count} x {shown} taken for {other}: "
        + ", ".join(photos.files[one].name for one, pair in zip(wrong, pairs, strict=True) if pair == (shown, other))
        for (shown, other), count in Counter(pairs).most_common()
    ]


def teach(photos: Photos, folder: Path) -> tuple[Path, Photos]:
    """Fine-tune, say how well that went, and return the model's file and the photos held out. Raises ``Missing``."""
    try:
        pretrained = efficientnet_lite.build(VARIANT, "features")
    except MissingPackage as error:
        raise Missing(str(error)) from error
    learned, held_out = photos.split()
    say(f"computing the features of {len(photos)} photos, of those to learn from mirrored too ...")
    seen = [features_of(pretrained, pixels) for pixels in (learned.pixels, learned.pixels[:, :, ::-1])]
    head = train(np.concatenate(seen), np.tile(learned.shown, 2), classes=len(photos.labels))
    guessed = head.predict(features_of(pretrained, held_out.pixels), verbose=0).argmax(axis=1)
    say(f"{(guessed == held_out.shown).mean():.1%} of {len(held_out)} photos held out are right")
    for confusion in confusions(held_out, guessed):
        say(f"  {confusion}")
    return make(pretrained, head, photos.labels, folder / "photos"), held_out


async def example(options: argparse.Namespace, folder: Path) -> None:
    photos = read(folders(options), efficientnet_lite.VARIANTS[VARIANT].size)
    counts = np.bincount(photos.shown)
    say(f"{len(photos)} photos: {', '.join(f'{n} {label}' for n, label in zip(counts, photos.labels, strict=True))}")
    file, held_out = teach(photos, folder)
    async with stage(options.name, workers=1) as cluster, cluster.client() as client:
        await cluster.shoal("models", "add", file, "--name", options.name, "--wait", "120")
        say("")
        for number in range(len(photos.labels)):
            one = held_out.files[int(np.flatnonzero(held_out.shown == number)[0])]
            answer = await client.predict(one, model=options.name, top_k=2)
            say(f"{photos.labels[number]}/{one.name}: {', '.join(map(str, answer.predictions))}")


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("photos", nargs="?", type=Path, metavar="PHOTOS", help="a folder with photos, LABEL/*.jpg")
    arguments.add_argument("--stamps", type=Path, default=Path("/"), help="where tuxpaint-stamps-default was unpacked")
    arguments.add_argument("--name", default="photos", help="of the model")
    sys.exit(run(example, arguments))
