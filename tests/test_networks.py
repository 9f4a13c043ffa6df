"""Version folders as runtimes: quick formats, pixels, batches, golden requests, hooks, and folders that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.wire import Output, TensorSpec
from tests import small_networks as small
from tests.clusters import up
from tests.needs import need
from tests.photos import photo
from worker.images import decode
from worker.models import golden, manifest, networks, pixels, published
from worker.models.batches import Batches
from worker.models.digests import digest_of
from worker.models.golden import Golden, GoldenMismatch
from worker.models.manifest import Input, InvalidManifest
from worker.models.network_runtime import NetworkRuntime
from worker.models.networks import (
    Loaded,
    NotLoadable,
    Spec,
    jax_backend,
    onnx_format,
    python_class,
    tensorflow_backend,
    torch_backend,
)
from worker.models.runtime import Array, Asked, DeviceLost, OutOfMemory

ROOT = Path(__file__).parent.parent


def loaded(folder: Path) -> NetworkRuntime:
    return published.load(folder, model="small", version="1")


def python_version(root: Path, **tables: Any) -> Path:
    return small.version(root / "small" / "1", "net.py:Model", small.save_python, **tables)


def onnx_version(root: Path, *, written: Mapping[str, Any] | None = None, **tables: Any) -> Path:
    need_onnx()
    return small.version(
        root / "small" / "1", "model.onnx", lambda path: small.save_onnx(path, **(written or {})), **tables
    )


def need_onnx() -> None:
    for module in ("onnx", "onnxruntime"):
        need(published._is_installed(module), f"{module} is not installed (extra: onnx)")


# --- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [python_version, onnx_version])
def test_a_version_answers_as_its_network_does(make: Callable[..., Path], tmp_path: Path) -> None:
    runtime = loaded(make(tmp_path))
    runtime.warm_up()
    images = small.images(6)
    truth = small.truth(images)
    (name,) = runtime.outputs(images)
    assert np.abs(runtime.outputs(images)[name] - truth).max() < 1e-5
    answers = runtime.run(images, [Asked({"top_k": 2})] * 6)
    assert [answer["predictions"][0]["index"] for answer in answers] == truth.argmax(axis=1).tolist()
    assert answers[0]["predictions"][0]["label"] == small.LABELS[truth[0].argmax()]
    assert {len(answer["predictions"]) for answer in answers} == {2}
    assert json.loads(json.dumps(answers)) == answers


def test_the_card(tmp_path: Path) -> None:
    folder = python_version(tmp_path, cacheable=False, max_batch_size=3)
    card = loaded(folder).card
    assert (card.key, card.task, card.max_batch_size, card.cacheable, card.boxes) == (
        "small@1",
        "classification",
        3,
        False,
        False,
    )
    assert (card.input.name, card.input.height, card.input.width, card.input.channels) == ("image", 16, 20, 3)
    assert card.options["top_k"].whole
    assert card.tensor == TensorSpec("image", "float32", (16, 20, 3))
    assert [(output.name, output.shape) for output in card.outputs] == [("logits", (5,))]


@pytest.mark.parametrize("make", [python_version, onnx_version])
def test_a_photo_made_ready_by_hand_gives_the_same(make: Callable[..., Path], tmp_path: Path) -> None:
    runtime = loaded(make(tmp_path))
    assert runtime.card.platform == ("python_class" if make is python_version else "onnx_onnxv1")
    images = small.images(3)
    asked = [Asked(outputs=()), Asked(outputs=(Output("logits"),)), Asked(outputs=(Output("logits", 2),))]
    photos = runtime.run(images, asked)
    ready = runtime.run(small.ready_made(images), asked)
    truth = small.truth(images)
    for found in (photos, ready):
        for row in (0, 1):
            np.testing.assert_allclose(found[row]["logits"], truth[row], atol=1e-5)
        best = [entry.decode().split(":") for entry in found[2]["logits"]]
        ranked = np.argsort(-truth[2])[:2]
        assert [(index, label) for _, index, label in best] == [(str(i), small.LABELS[i]) for i in ranked]
        np.testing.assert_allclose([float(value) for value, *_ in best], truth[2][ranked], atol=1e-5)
    np.testing.assert_array_equal(photos[0]["logits"], ready[0]["logits"])


@pytest.mark.parametrize("dtype", ["float16", "float64", "int16", "int64", "uint16"])
def test_an_array_of_the_networks_own_dtype_goes_in(dtype: str, tmp_path: Path) -> None:
    written = {"float64": "DOUBLE"}.get(dtype, dtype.upper())
    given = {"height": small.HEIGHT, "width": small.WIDTH, "dtype": "float16" if dtype == "float16" else "uint8"}
    runtime = loaded(onnx_version(tmp_path, written={"dtype": written}, input=given))
    tensor = runtime.card.tensor
    assert tensor is not None
    assert tensor.dtype == dtype
    images = small.images(2) % 2
    for batch in (images, images.astype(dtype)):
        found = runtime.run(batch, [Asked(outputs=())] * 2)
        np.testing.assert_allclose([one["logits"] for one in found], small.truth(images * np.uint8(255)), atol=1e-4)
    with pytest.raises(ValueError, match="does not fit"):
        runtime.run(images.astype("float32"), [Asked(outputs=())] * 2)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_is_split_and_padded(batch: int, tmp_path: Path) -> None:
    runtime = loaded(onnx_version(tmp_path, written={"batch": batch}))
    assert runtime.network.inputs[0].shape[0] == batch
    runtime.warm_up()
    for count in range(1, 7):
        images = small.images(count)
        assert np.abs(runtime.outputs(images)["logits"] - small.truth(images)).max() < 1e-5


@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_an_output_of_undeclared_shape_is_found_out(batch: int | str, tmp_path: Path) -> None:
    from worker.models.networks import probe

    folder = onnx_version(tmp_path, written={"batch": batch})
    runtime = loaded(folder)
    (output,) = runtime.network.outputs
    assert isinstance(runtime.network, Loaded)
    undeclared = replace(runtime.network, outputs=(replace(output, shape=()),))
    assert probe.completed(undeclared, manifest.read(folder).input) == runtime.network


@pytest.mark.parametrize("make", [python_version, onnx_version])
def test_an_answer_does_not_depend_on_its_batch(
    make: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    runtime = loaded(make(tmp_path_factory.mktemp("version")))

    @settings(deadline=None, max_examples=25)
    @given(st.integers(1, 6), st.integers(0, 99))
    def the_same(count: int, seed: int) -> None:
        images = small.images(count, seed)
        together = runtime.outputs(images)["logits"]
        alone = [runtime.outputs(image[np.newaxis])["logits"] for image in images]
        np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)

    the_same()


def test_uint8_goes_into_a_network_of_floats(tmp_path: Path) -> None:
    folder = onnx_version(tmp_path, input={**small.INPUT, "dtype": "uint8", "scale": 1.0})
    images = small.images(2)
    images.flags.writeable = False
    assert np.abs(loaded(folder).outputs(images)["logits"] - small.truth(images * np.uint16(255))).max() < 1e-2


def test_an_onnx_model_needs_no_other_framework(tmp_path: Path) -> None:
    folder = onnx_version(tmp_path)
    script = (
        "import json, sys; from pathlib import Path; from worker.models import published\n"
        "published.load(Path(sys.argv[1]), model='small', version='1').warm_up()\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, folder], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {"tensorflow", "keras", "torch", "jax", "onnx", "tf2onnx"}.isdisjoint(json.loads(done.stdout))
    assert "onnxruntime" in json.loads(done.stdout)


@pytest.mark.parametrize(("threads", "used"), [(3, 3), (0, len(os.sched_getaffinity(0)))])
def test_the_threads_of_an_onnx_model(threads: int, used: int) -> None:
    need_onnx()
    import onnxruntime  # type: ignore[import-untyped, import-not-found, unused-ignore]

    options = onnx_format._options(onnxruntime, threads)
    assert options.intra_op_num_threads == used
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_python_class_leaves_the_module_path_alone(tmp_path: Path) -> None:
    before = list(sys.path)
    loaded(python_version(tmp_path))
    assert sys.path == before
    assert "loading" not in sys.modules


# --- what a folder may not be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("class Model:\n    def __init__(self, folder): raise OSError('no weights')", "no weights"),
        ("class Model:\n    def __init__(self, folder): pass", "cannot be called"),
        ("class Model:\n    def __init__(self): pass", "takes 1 positional argument"),
        ("class Other: pass", "net.py has no class or function Model"),
        ("import nowhere_at_all", "net.py raises ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("def", "net.py raises SyntaxError"),
        ("class Model:\n    def __init__(self, f): pass\n    def __call__(self, b): return 1 / 0", "division by zero"),
        ("class Model:\n    def __init__(self, f): pass\n    def __call__(self, b): return 'x'", "no array of numbers"),
    ],
)
def test_a_bad_python_class(source: str, reason: str, tmp_path: Path) -> None:
    folder = small.version(tmp_path / "small" / "1", "net.py:Model", lambda path: path.write_text(source))
    with pytest.raises(NotLoadable, match=reason) as raised:
        loaded(folder)
    assert "net.py" in str(raised.value)


@pytest.mark.parametrize("artefact", ["../net.py:Model", "absent.py:Model", "net.py:", "net.py:Model.call"])
def test_a_python_file_lies_in_its_folder(artefact: str, tmp_path: Path) -> None:
    folder = python_version(tmp_path)
    text = (folder / manifest.FILE).read_text()
    (folder / manifest.FILE).write_text(text.replace("net.py:Model", artefact))
    with pytest.raises(NotLoadable, match=r"outside the version's folder|there is no file|is not file\.py:name"):
        loaded(folder)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.onnx", b"not a model", "model.onnx does not load as onnx"),
        ("model.onnx", None, "model.onnx does not load as onnx"),
        ("model.txt", b"", "model.txt is none of .*set runtime"),
    ],
)
def test_a_broken_artefact(name: str, content: bytes | None, reason: str, tmp_path: Path) -> None:
    need_onnx()

    def write(path: Path) -> None:
        small.save_onnx(path)
        path.write_bytes(path.read_bytes()[:700] if content is None else content)

    with pytest.raises(NotLoadable, match=reason):
        loaded(small.version(tmp_path / "small" / "1", name, write))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"width": 24}, r"takes images of shape 16 x 20 x 3, but the manifest's are 16 x 24 x 3 \(NHWC\)"),
        ({"layout": "NCHW"}, r"but the manifest's are 3 x 16 x 20 \(NCHW\)"),
        ({"channels": 1}, "but the manifest's are 16 x 20 x 1"),
    ],
)
def test_an_input_that_does_not_fit(wrong: Mapping[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(NotLoadable, match=reason):
        loaded(onnx_version(tmp_path, input={**small.INPUT, **wrong}))


def test_a_dtype_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(NotLoadable, match=r"it takes uint8, which the manifest's float32 does not fit"):
        loaded(onnx_version(tmp_path, written={"dtype": "UINT8"}))


@pytest.mark.parametrize(
    ("dtype", "other", "fits"),
    [
        ("float32", "uint8", True),
        ("float16", "uint8", True),
        ("float16", "float32", False),
        ("uint8", "float32", False),
        ("int64", "uint8", True),
        ("bool", "uint8", False),
        ("string", "uint8", False),
    ],
)
def test_which_dtype_holds_which(dtype: str, other: str, fits: bool) -> None:
    assert pixels.holds(dtype, other) is fits


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"model\.toml: labels: there are 2, but output 'logits' has 5 classes"):
        loaded(python_version(tmp_path, labels=["one", "two"]))


def test_a_batch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    runtime = loaded(python_version(tmp_path))
    for shape in [(0, 16, 20, 3), (7, 16, 20, 3), (1, 20, 16, 3), (1, 16, 20, 1)]:
        with pytest.raises(ValueError, match="does not fit"):
            runtime.run(np.zeros(shape, np.uint8), [Asked()] * shape[0])


@pytest.mark.parametrize("outputs", [(), (-1, 5), (3, 5)])
def test_outputs_must_have_an_entry_for_each_image(outputs: tuple[int, ...]) -> None:
    network = Loaded((Spec("x", "uint8", (-1, 1, 1, 3)),), (Spec("y", "float32", outputs),), lambda batch: {})
    if outputs == (-1, 5):
        assert Batches(network, 4)
    else:
        with pytest.raises(NotLoadable, match="output 'y' has shape"):
            Batches(network, 4)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"scale": [1.0, 2.0]}, "scale has 2 values for 3 channels"),
        ({"offset": [1.0, 2.0, 3.0], "channels": 1}, "offset has 3 values for 1 channels"),
        ({"dtype": "uint8", "scale": 0.5}, "uint8 takes pixels as they are"),
        ({"scale": float("nan")}, "finite number"),
    ],
)
def test_scales_that_make_no_sense(wrong: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(InvalidManifest, match=rf"input.*{reason}"):
        manifest.parse({"artefact": "m.onnx", "input": {"height": 3, "width": 4, **wrong}})


# --- pixels ------------------------------------------------------------------------------------------------------


def naive(images: Array, wanted: Input) -> Array:
    """What ``Pixels`` does, one number at a time."""
    scale = wanted.scale if isinstance(wanted.scale, list) else [wanted.scale] * wanted.channels
    offset = wanted.offset if isinstance(wanted.offset, list) else [wanted.offset] * wanted.channels
    out = np.zeros(images.shape, np.float64)
    for n, y, x, c in np.ndindex(*images.shape):
        taken = wanted.channels - 1 - c if wanted.order == "BGR" else c
        out[n, y, x, c] = images[n, y, x, taken] * scale[c] + offset[c]
    return out.transpose(0, 3, 1, 2) if wanted.layout == "NCHW" else out


per_channel = st.one_of(st.floats(-4, 4, width=32), st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3))


@settings(deadline=None, max_examples=60)
@given(per_channel, per_channel, st.sampled_from(["RGB", "BGR"]), st.sampled_from(["NHWC", "NCHW"]), st.integers(1, 3))
def test_pixels_against_a_naive_loop(scale: Any, offset: Any, order: Any, layout: Any, count: int) -> None:
    wanted = Input(height=3, width=4, scale=scale, offset=offset, order=order, layout=layout)
    taken = pixels.spec(wanted)
    images = np.random.default_rng(count).integers(0, 256, (count, 3, 4, 3), dtype=np.uint8)
    images.flags.writeable = False
    prepared = pixels.Pixels.of(wanted, taken).prepared(images)
    assert (prepared.dtype, prepared.flags.c_contiguous) == (np.dtype("float32"), True)
    np.testing.assert_allclose(prepared, naive(images, wanted), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("declared", "shape"), [((-1, 3, 4), (2, 3, 4)), ((-1, -1, -1, 1), (2, 3, 4, 1))])
def test_grey_images_may_leave_their_channel_out(declared: tuple[int, ...], shape: tuple[int, ...]) -> None:
    wanted = Input(height=3, width=4, channels=1)
    prepared = pixels.Pixels.of(wanted, Spec("x", "float32", declared)).prepared(np.ones((2, 3, 4, 1), np.uint8))
    assert prepared.shape == shape


# --- batches -----------------------------------------------------------------------------------------------------


def counting(most: int, *, pads: bool) -> tuple[Loaded, list[int]]:
    """A network that gives the sum of each image, and has memory for ``most`` of them."""
    executed: list[int] = []

    def call(batch: Array) -> Mapping[str, Array]:
        executed.append(len(batch))
        if len(batch) > most:
            raise OutOfMemory(f"no memory for {len(batch)}")
        return {"sum": batch.reshape(len(batch), -1).sum(axis=1, keepdims=True)}

    return Loaded((Spec("x", "float32", (-1, 1, 1, 3)),), (Spec("sum", "float32", (-1, 1)),), call, pads), executed


@pytest.mark.parametrize("pads", [True, False])
def test_sizes_that_do_not_fit_the_device_are_given_up(pads: bool) -> None:
    network, executed = counting(5, pads=pads)
    batches = Batches(network, 16)
    batches.warm_up(np.zeros((1, 1, 1, 3), np.float32))
    executed.clear()
    images = np.arange(48, dtype=np.float32).reshape(16, 1, 1, 3)
    np.testing.assert_array_equal(batches.execute(images)["sum"].ravel(), images.reshape(16, 3).sum(axis=1))
    assert max(executed) <= 5


def test_a_device_without_memory_for_one_image() -> None:
    with pytest.raises(OutOfMemory):
        Batches(counting(0, pads=True)[0], 4).warm_up(np.zeros((1, 1, 1, 3), np.float32))


def test_a_network_that_takes_any_size_gets_the_batch_as_it_is() -> None:
    network, executed = counting(99, pads=False)
    batches = Batches(network, 7)
    batches.warm_up(np.zeros((1, 1, 1, 3), np.float32))
    assert executed == [1, 2, 4, 7]
    batches.execute(np.zeros((5, 1, 1, 3), np.float32))
    assert executed[-1] == 5
    assert len(batches.execute(np.zeros((17, 1, 1, 3), np.float32))["sum"]) == 17
    assert executed[-3:] == [7, 7, 3]


SMALL_DEVICE = """
import numpy as np

class Model:
    def __init__(self, folder):
        pass

    def __call__(self, batch):
        if batch.max() > 0.9:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if len(batch) > 2:
            raise MemoryError("no memory for three")
        return np.repeat(batch.mean(axis=(1, 2)), 2, axis=1)[:, :5]
"""


def test_what_a_model_raises_is_translated(tmp_path: Path) -> None:
    runtime = loaded(
        small.version(tmp_path / "small" / "1", "net.py:Model", lambda path: path.write_text(SMALL_DEVICE))
    )
    dark = small.images(6) // 2
    with pytest.raises(OutOfMemory, match="no memory for three"):
        runtime.run(dark, [Asked()] * 6)
    runtime.warm_up()
    assert len(runtime.run(dark, [Asked()] * 6)) == 6
    with pytest.raises(DeviceLost, match="illegal memory access"):
        runtime.run(np.full_like(dark, 255), [Asked()] * 6)


# --- golden requests ---------------------------------------------------------------------------------------------


def recorded(folder: Path, change: Callable[[Array], Array] = lambda logits: logits, name: str = "logits") -> Path:
    images = small.images(3)
    golden.write(folder, Golden(images, {name: change(small.truth(images)).astype(np.float32)}))
    return folder


def test_a_version_that_answers_as_recorded_warms_up(tmp_path: Path) -> None:
    loaded(recorded(python_version(tmp_path))).warm_up()


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (lambda logits: logits + 0.01, "logits", r"output 'logits' differs by 0\.01.* tolerated are 0\.001"),
        (lambda logits: logits[:, :4], "logits", r"has shape \(3, 5\), recorded was \(3, 4\)"),
        (lambda logits: logits * np.nan, "logits", "differs by inf"),
        (lambda logits: logits, "scores", "the outputs are logits, recorded were scores"),
    ],
)
def test_a_version_that_answers_otherwise_does_not(
    change: Callable[[Array], Array], name: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(GoldenMismatch, match=reason):
        loaded(recorded(python_version(tmp_path), change, name)).warm_up()


def test_the_tolerance_is_the_manifests(tmp_path: Path) -> None:
    loaded(recorded(python_version(tmp_path, tolerance=0.02), lambda logits: logits + 0.01)).warm_up()


def test_a_damaged_golden_file(tmp_path: Path) -> None:
    folder = recorded(python_version(tmp_path))
    (folder / golden.FILE).write_bytes((folder / golden.FILE).read_bytes()[:200])
    with pytest.raises(ValueError, match=r"golden\.npz is damaged"):
        loaded(folder)


@pytest.mark.parametrize(
    ("expected", "found", "by"),
    [([0.5], [0.6], 0.1), ([1000.0, 0.0], [1000.0, 1.0], 0.001), ([], [], 0.0), ([1.0], [np.inf], np.inf)],
)
def test_a_difference_is_relative_to_large_outputs_only(expected: Any, found: Any, by: float) -> None:
    assert golden.difference(np.array(expected), np.array(found)) == pytest.approx(by)


def test_outputs_that_are_not_finite_are_refused_whatever_is_recorded() -> None:
    bad = {"logits": np.array([[np.nan]])}
    with pytest.raises(GoldenMismatch, match="'logits' is not finite"):
        golden.check(bad, bad, 1.0)


# --- hooks -------------------------------------------------------------------------------------------------------

HOOKS = """
import numpy as np

def darken(images, asked):
    return images // 2

def shout(answers, asked):
    return [{**answer, "asked": dict(one.options)} for answer, one in zip(answers, asked)]

def smaller(images, asked):
    return images[:, ::2]

def nothing(answers, asked):
    return None


def lists(answers, asked):
    return [[answer] for answer in answers]


def arrays(answers, asked):
    return [{"share": np.float32(1)} for _ in answers]


def infinite(answers, asked):
    return [{"share": float("inf")} for _ in answers]


def huge(answers, asked):
    return [{"share": 10**30} for _ in answers]


def halves(answers, asked):
    return [{"share": "\\ud800"} for _ in answers]


def numbers(answers, asked):
    return [{1: (2, 3)} for _ in answers]
"""


def hooked(root: Path, **hooks: str) -> NetworkRuntime:
    folder = python_version(root, hooks=hooks)
    (folder / "hooks.py").write_text(HOOKS)
    return loaded(folder)


def test_hooks_see_the_pixels_and_the_answers(tmp_path: Path) -> None:
    runtime = hooked(tmp_path, before="hooks.py:darken", after="hooks.py:shout")
    images = small.images(2)
    first, second = runtime.run(images, [Asked({"top_k": 1}), Asked()])
    assert (first["asked"], second["asked"]) == ({"top_k": 1}, {})
    truth = small.truth(images // 2)
    shares = np.exp(truth) / np.exp(truth).sum(axis=1, keepdims=True)
    assert first["predictions"][0]["probability"] == pytest.approx(shares[0].max(), abs=1e-5)


@pytest.mark.parametrize(
    ("hooks", "reason"),
    [
        ({"before": "hooks.py:smaller"}, "the hook before must give uint8 images of shape"),
        ({"after": "hooks.py:nothing"}, "the hook after must give a list of 1 answers"),
        ({"after": "hooks.py:lists"}, "the hook after must give a mapping for each image"),
        *(
            ({"after": f"hooks.py:{name}"}, "what JSON cannot hold")
            for name in ("arrays", "infinite", "huge", "halves")
        ),
    ],
)
def test_a_hook_that_gives_nonsense(hooks: dict[str, str], reason: str, tmp_path: Path) -> None:
    runtime = hooked(tmp_path, **hooks)
    with pytest.raises(ValueError, match=reason):
        runtime.run(small.images(1), [Asked()])


def test_a_hook_gives_what_json_makes_of_it(tmp_path: Path) -> None:
    runtime = hooked(tmp_path, after="hooks.py:numbers")
    assert runtime.run(small.images(1), [Asked()]) == [{"1": [2, 3]}]


@pytest.mark.parametrize("text", ["hooks.py:absent", "absent.py:darken", "hooks.py", "hooks.py:__name__"])
def test_a_hook_that_is_not_there(text: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"model\.toml: "):
        hooked(tmp_path, before=text)


@pytest.mark.cluster
def test_a_cluster_serves_what_lies_in_folders(tmp_path: Path) -> None:
    need_onnx()
    folders = [
        small.version(tmp_path / "numpy" / "3", "net.py:Model", small.save_python),
        small.version(tmp_path / "onnx" / "7", "model.onnx", small.save_onnx),
    ]
    picture, _ = decode(photo(1), manifest.read(folders[0]).input.image(), max_pixels=10**9)
    best = small.LABELS[small.truth(picture[np.newaxis])[0].argmax()]
    models = [part for folder in folders for part in ("--model", str(folder))]
    with up("--workers", "1", *models) as cluster, cluster.client() as client:
        answers = [client.predict(photo(1), model=name) for name in ("numpy", "onnx")]
    assert [(answer.version, answer.predictions[0].label) for answer in answers] == [("3", best), ("7", best)]


# --- which runtime, which digest ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("visible", "installed", "chosen"),
    [
        ("-1", {"onnxruntime", "keras"}, "onnx"),
        ("", {"onnxruntime", "keras"}, "onnx"),
        ("GPU-1", {"onnxruntime", "keras"}, "keras"),
        ("GPU-1", {"onnxruntime"}, "onnx"),
        ("-1", {"keras"}, "keras"),
    ],
)
def test_a_converted_model_runs_where_there_is_no_gpu(
    visible: str, installed: set[str], chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(published, "_is_installed", installed.__contains__)
    folder = small.version(tmp_path / "small" / "1", "model.keras", lambda path: path.write_bytes(b""))
    assert published.choose(folder, manifest.read(folder))[0] == "keras"
    (folder / "model.onnx").write_bytes(b"")
    runtime, artefact = published.choose(folder, manifest.read(folder))
    assert (runtime, artefact.suffix) == (chosen, f".{chosen}")
    assert published.choose(folder, manifest.read(folder), "keras")[0] == "keras"


def test_a_digest_names_content_and_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_bytes(b"content")
    first = digest_of(tmp_path / "a")
    assert first == digest_of(tmp_path / "b")
    (tmp_path / "b" / "__pycache__").mkdir()
    (tmp_path / "b" / "__pycache__" / "x.pyc").write_bytes(b"left behind")
    assert first == digest_of(tmp_path / "b")
    (tmp_path / "b" / "deep" / "file").rename(tmp_path / "b" / "deep" / "other")
    assert first != digest_of(tmp_path / "b")
    assert first == digest_of(tmp_path / "a", without={"absent"}) != digest_of(tmp_path / "a", without={"deep/file"})


def test_the_weights_of_a_python_class_count(tmp_path: Path) -> None:
    folder = python_version(tmp_path)
    first = loaded(folder).card.digest
    recorded(folder)
    assert loaded(folder).card.digest == first
    (folder / "weights.npz").write_bytes((folder / "weights.npz").read_bytes() + b"\0")
    assert loaded(folder).card.digest != first


# --- errors of the frameworks ------------------------------------------------------------------------------------

TENSORFLOW, JAX, TORCH, ONNX = (part.trouble for part in (tensorflow_backend, jax_backend, torch_backend, onnx_format))


@pytest.mark.parametrize(
    ("trouble", "message", "kind"),
    [
        (TENSORFLOW, "OOM when allocating tensor with shape[32,112,112,96] and type float on GPU:0", OutOfMemory),
        (TENSORFLOW, "Dst tensor is not initialized.", OutOfMemory),
        (TENSORFLOW, "CUDA_ERROR_OUT_OF_MEMORY: out of memory", OutOfMemory),
        (TENSORFLOW, "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered", DeviceLost),
        (TENSORFLOW, "Matrix size-incompatible: In[0]: [1,2], In[1]: [3,4]", None),
        (JAX, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 137438953472 bytes.", OutOfMemory),
        (JAX, "INTERNAL: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure", DeviceLost),
        (JAX, "INVALID_ARGUMENT: Executable expected parameter 0 of size 12", None),
        (TORCH, "CUDA out of memory. Tried to allocate 20.00 GiB", OutOfMemory),
        (TORCH, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", OutOfMemory),
        (TORCH, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", OutOfMemory),
        (TORCH, "CUDA error: device-side assert triggered", DeviceLost),
        (TORCH, "CUDA error: uncorrectable ECC error encountered", DeviceLost),
        (TORCH, "CUDA error: an illegal memory access was encountered", DeviceLost),
        (TORCH, "mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)", None),
        (ONNX, "Non-zero status code returned: Failed to allocate memory for requested buffer of size 99", OutOfMemory),
        (ONNX, "CUDA failure 2: out of memory ; GPU=0", OutOfMemory),
        (ONNX, "CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        (ONNX, "INVALID_ARGUMENT : Got invalid dimensions for input: image", None),
        (python_class.trouble, "CUDA out of memory", OutOfMemory),
        (python_class.trouble, "no such file", None),
    ],
)
def test_what_an_error_means(trouble: Callable[[BaseException], Any], message: str, kind: type | None) -> None:
    found = trouble(RuntimeError(message))
    assert type(found) is kind if kind else found is None
    if found:
        assert message[:40] in str(found)


@pytest.mark.parametrize("trouble", [TENSORFLOW, JAX, TORCH, ONNX, python_class.trouble])
def test_no_memory_for_python_is_no_memory(trouble: Callable[[BaseException], Any]) -> None:
    assert isinstance(trouble(MemoryError()), OutOfMemory)


def test_every_runtime_of_a_manifest_has_a_module() -> None:
    named = manifest.Manifest.model_json_schema()["properties"]["runtime"]["enum"]
    assert set(named) - {"auto"} == set(networks.FORMATS)
