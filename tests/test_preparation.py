"""From an artefact to a version's folder: every format, what is inferred, what is refused, nothing by halves."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import small_networks as small
from tests.needs import need
from tests.photos import photo
from worker.models import conversion, golden, inference, manifest, preparation, published
from worker.models.digests import digest_of
from worker.models.manifest import Input, Manifest
from worker.models.preparation import NotPrepared, Prepared, Wishes
from worker.models.runtime import Asked

Build = Callable[[Path], object]


def prepare(source: Path, into: Path, **wishes: Any) -> Prepared:
    return preparation.prepare(
        source, into, model="small", version="3", wishes=Wishes(wishes.pop("overrides", {}), **wishes)
    )


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    for module in ("onnx", "onnxruntime"):
        need(published._is_installed(module), f"{module} is not installed (extra: onnx)")
    path = tmp_path / "art" / "small.onnx"
    path.parent.mkdir()
    small.save_onnx(path)
    return path


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A folder with a manifest, whose model needs no framework."""
    return small.version(tmp_path / "art" / "small" / "1", "net.py:Model", small.save_python)


def test_a_bare_onnx_file(tmp_path: Path, onnx: Path) -> None:
    prepared = prepare(onnx, tmp_path / "repository" / "small" / "3")
    assert prepared.folder == tmp_path / "repository" / "small" / "3"
    assert {path.name for path in prepared.folder.iterdir()} == {"small.onnx", "model.toml", "golden.npz"}
    assert list(prepared.folder.parent.iterdir()) == [prepared.folder]
    assert prepared.digest == digest_of(prepared.folder)
    assert prepared.manifest == Manifest(
        model="small",
        artefact="small.onnx",
        task="classification",
        input=Input(height=16, width=20, scale=1 / 255),
        classification={"activation": "softmax"},
    )
    assert prepared.notes == (
        "format: onnx, by its name",
        "input: NHWC, as (any, 16, 20, 3) is declared",
        "scale: 1/255, a guess to check: nothing tells what range it expects",
        "task: classification, one output 'logits' of 5 numbers",
        "activation: softmax, as its numbers are no probabilities yet",
        "golden: 4 made-up images and what it gives for them",
    )
    recorded = golden.read(prepared.folder)
    assert recorded is not None
    assert recorded.images.shape == (4, 16, 20, 3)
    assert np.allclose(recorded.outputs["logits"], small.truth(recorded.images), atol=1e-4)


def test_labels_beside_it_and_wishes(tmp_path: Path, onnx: Path) -> None:
    (onnx.parent / "labels.txt").write_text("\n".join(small.LABELS))
    wished = {"input": {"scale": [1.0, 0.5, 0.25]}, "max_batch_size": 2, "classification": {"top_k": 1}}
    prepared = prepare(onnx, tmp_path / "small", overrides=wished)
    assert (prepared.folder / "labels.txt").read_text().split() == small.LABELS
    assert prepared.manifest.labels == "labels.txt"
    assert prepared.manifest.input.scale == [1.0, 0.5, 0.25]
    assert prepared.manifest.classification == {"activation": "softmax", "top_k": 1}
    assert not [note for note in prepared.notes if note.startswith("scale")]
    runtime = published.load(prepared.folder, model="small", version="3")
    (answer,) = runtime.run(small.images(1), [Asked()])
    assert [prediction["label"] in small.LABELS for prediction in answer["predictions"]] == [True]


def test_photos_as_golden(tmp_path: Path, onnx: Path) -> None:
    photos = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for seed, path in enumerate(photos):
        path.write_bytes(photo(seed))
    prepared = prepare(onnx, tmp_path / "small", photos=photos)
    recorded = golden.read(prepared.folder)
    assert recorded is not None
    assert recorded.images.shape == (2, 16, 20, 3)
    assert "golden: 2 photos and what it gives for them" in prepared.notes
    photos[0].write_bytes(b"no picture")
    with pytest.raises(NotPrepared) as refused:
        prepare(onnx, tmp_path / "again", photos=[*photos, tmp_path / "none.jpg"])
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        str(photos[0]),
        str(tmp_path / "none.jpg"),
    ]


def test_made_up_images_are_always_the_same() -> None:
    taken = Input(height=7, width=300, channels=1)
    first = inference.sample(taken, "ab" * 32)
    assert (first.dtype.name, first.shape) == ("uint8", (4, 7, 300, 1))
    assert np.array_equal(first, inference.sample(taken, "ab" * 32))
    assert not np.array_equal(first, inference.sample(taken, "cd" * 32))


def test_a_folder_with_a_manifest(tmp_path: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (python / ".hidden").write_text("not to be published")
    (python / "__pycache__").mkdir()
    (python / "__pycache__" / "net.pyc").write_text("")
    prepared = prepare(python, tmp_path / "prepared")
    names = {path.name for path in prepared.folder.iterdir()}
    assert names == {"net.py", "loading.py", "weights.npz", "model.toml", "golden.npz"}
    assert prepared.manifest == manifest.read(python).model_copy(update={"model": "small"})
    again = prepare(prepared.folder, tmp_path / "again")
    assert again.digest == prepared.digest


def test_a_python_class_alone(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import numpy as np\n"
        "class Net:\n"
        "    def __init__(self, folder): pass\n"
        "    def __call__(self, batch):\n"
        "        if batch.shape[1:] != (96, 96, 3): raise ValueError(batch.shape)\n"
        "        return batch.mean((1, 2)) * 9\n"
    )
    prepared = prepare(tmp_path / "net.py:Net", tmp_path / "prepared")
    assert (prepared.manifest.artefact, prepared.manifest.input.height) == ("net.py:Net", 96)
    assert "input: 96 x 96, NHWC, 3 channels: the first that it took, a guess to check" in prepared.notes


def test_a_detector_alone(tmp_path: Path) -> None:
    """Two boxes among many, as YOLOv8 gives them, each for one of three classes."""
    (tmp_path / "net.py").write_text(
        "import numpy as np\n"
        "class Net:\n"
        "    def __init__(self, folder): pass\n"
        "    def __call__(self, batch):\n"
        "        found = np.zeros((len(batch), 7, 200), np.float32)\n"
        "        found[:, :, 0] = [50, 60, 20, 40, 0, 0.9, 0]\n"
        "        found[:, :, 7] = [150, 60, 20, 40, 0, 0, 0.8]\n"
        "        return found\n"
    )
    prepared = prepare(tmp_path / "net.py:Net", tmp_path / "prepared")
    assert (prepared.card.task, prepared.card.boxes, prepared.manifest.input.crop) == ("detection", True, "letterbox")
    runtime = published.load(prepared.folder, model="small", version="3")
    (answer,) = runtime.run(golden.read(prepared.folder).images[:1], [Asked()])  # type: ignore[union-attr]
    assert [(found["label"], found["box"]) for found in answer["predictions"]] == [
        ("1", [40, 40, 60, 80]),
        ("2", [140, 40, 160, 80]),
    ]


def test_links_are_copied_inside_and_refused_outside(tmp_path: Path, python: Path) -> None:
    (python / "weights.npz").rename(python / "real.npz")
    (python / "weights.npz").symlink_to("real.npz")
    prepared = prepare(python, tmp_path / "prepared")
    assert not (prepared.folder / "weights.npz").is_symlink()
    (python / "secret").symlink_to("/etc/hostname")
    (python / "more").symlink_to("/etc")
    with pytest.raises(NotPrepared) as refused:
        prepare(python, tmp_path / "again")
    assert refused.value.problems == (
        "more is a link that leads out of the folder",
        "secret is a link that leads out of the folder",
    )


def test_all_problems_of_a_manifest_at_once(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(
        'artefact = "../model.onnx"\nlabels = "/etc/hostname"\ncolour = 1\nmax_batch_size = 0\n'
        '[input]\nheight = 0\n[hooks]\nbefore = "gone.py:f"\n'
    )
    with pytest.raises(NotPrepared) as refused:
        prepare(tmp_path, tmp_path / "into" / "1")
    text = "\n".join(refused.value.problems)
    for part in (
        "artefact: '../model.onnx' is not a path inside",
        "labels: '/etc/hostname' is not",
        "hooks.before: there is no gone.py",
        "colour",
        "max_batch_size",
        "input.height",
        "input.width",
    ):
        assert part in text
    assert len(refused.value.problems) == 7
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("model.onnx", b"not a model", "model.onnx does not load as onnx"),
        ("model.pt", b"not a model", "not a TorchScript archive"),
        ("model.bin", b"", "set runtime in the manifest"),
        ("net.py:Net", b"raise RuntimeError('no weights')", "no weights"),
        ("net.py:Other", b"class Net: pass", "no class or function Other"),
        ("net.py:Net", b"class Net:\n    def __init__(self, folder): pass\n", "cannot be called"),
    ],
)
def test_artefacts_that_are_none(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name.partition(":")[0]).write_bytes(content)
    with pytest.raises(NotPrepared, match=problem):
        prepare(tmp_path / name, tmp_path / "into" / "1")
    assert list((tmp_path / "into").iterdir()) == []


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotPrepared, match=f"there is no {tmp_path / 'none.onnx'}"):
        prepare(tmp_path / "none.onnx", tmp_path / "into")


def test_labels_that_do_not_fit(tmp_path: Path, onnx: Path) -> None:
    (onnx.parent / "labels.txt").write_text("one\ntwo\n")
    with pytest.raises(NotPrepared, match="there are 2, but output 'logits' has 5 classes"):
        prepare(onnx, tmp_path / "into")


def test_a_hook_that_raises(tmp_path: Path, python: Path) -> None:
    (python / "hooks.py").write_text("def after(answers, asked):\n    return answers[0]['no such key']\n")
    with pytest.raises(NotPrepared, match=r"answers no image: .*no such key"):
        prepare(python, tmp_path / "into", overrides={"hooks": {"after": "hooks.py:after"}})


def test_recorded_answers_are_compared(tmp_path: Path, python: Path) -> None:
    first = prepare(python, tmp_path / "first")
    with np.load(first.folder / "weights.npz") as file:
        other = {name: file[name] * 1.5 for name in file.files}
    np.savez(first.folder / "weights.npz", **other)
    with pytest.raises(NotPrepared, match="differs by"):
        prepare(first.folder, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_of_two_that_make_the_same_folder_one_wins(tmp_path: Path, python: Path) -> None:
    together, outcomes = threading.Barrier(2), []

    def work() -> None:
        together.wait()
        try:
            outcomes.append(prepare(python, tmp_path / "into" / "1").digest)
        except FileExistsError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(
        [digest_of(tmp_path / "into" / "1"), f"{tmp_path / 'into' / '1'} is there already"]
    )


@pytest.mark.tensorflow
@pytest.mark.timeout(300)
class TestFrameworks:
    @pytest.mark.parametrize(
        ("name", "build"),
        [("small.keras", small.save_keras), ("small.h5", small.save_keras), ("saved", small.save_model)],
    )
    def test_keras_and_saved_models_are_converted(self, tmp_path: Path, name: str, build: Build) -> None:
        (tmp_path / "art").mkdir()
        build(tmp_path / "art" / name)
        prepared = prepare(tmp_path / "art" / name, tmp_path / "into")
        assert (prepared.folder / conversion.CONVERTED).is_file()
        assert prepared.notes[-1].startswith("ONNX: converted, for nodes without a GPU")
        assert prepared.manifest.input == Input(height=16, width=20, scale=1 / 255)
        recorded = golden.read(prepared.folder)
        assert recorded is not None
        (outputs,) = recorded.outputs.values()
        assert np.allclose(outputs, small.truth(recorded.images), atol=1e-3)
        plain = prepare(tmp_path / "art" / name, tmp_path / "plain", convert=False)
        assert not (plain.folder / conversion.CONVERTED).exists()

    def test_a_copy_that_gives_something_else_is_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small.save_keras(tmp_path / "small.keras")

        def other(artefact: Path, runtime: str, target: Path, wanted: Manifest) -> None:
            honest(artefact, runtime, target, wanted)
            import onnx
            from onnx import numpy_helper

            model = onnx.load(str(target))
            for tensor in model.graph.initializer:
                values = numpy_helper.to_array(tensor)
                if values.dtype == np.float32:
                    tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.01), tensor.name))
            onnx.save(model, str(target))

        honest = conversion.to_onnx
        monkeypatch.setattr(conversion, "to_onnx", other)
        prepared = prepare(tmp_path / "small.keras", tmp_path / "into")
        assert prepared.notes[-1].startswith("ONNX: converted and not kept: output 'logits' differs by ")
        assert not (prepared.folder / conversion.CONVERTED).exists()

    def test_torchscript(self, tmp_path: Path) -> None:
        small.save_torchscript(tmp_path / "small.pt")
        said = {"input": {"height": 16, "width": 20, "layout": "NHWC"}}
        prepared = prepare(tmp_path / "small.pt", tmp_path / "into", overrides=said)
        assert (prepared.manifest.input.height, prepared.manifest.input.layout) == (16, "NHWC")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_layer_that_scales_is_seen(self, tmp_path: Path) -> None:
        from worker.models.networks import keras_format

        keras = keras_format.start()
        layers = [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
        keras.Sequential(layers).save(tmp_path / "scaling.keras")
        prepared = prepare(tmp_path / "scaling.keras", tmp_path / "into", convert=False)
        assert (prepared.manifest.input.scale, prepared.manifest.input.channels) == (1.0, 1)
        assert "scale: none, the model begins with a layer Rescaling" in prepared.notes
