"""One small convolutional network, with one set of weights, in every format that Shoal serves, and as plain NumPy.

It takes (n, 16, 20, 3) in 0 to 1 and gives 5 logits. Everything that needs a framework imports it when it is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from worker.models import manifest
from worker.models.manifest import Manifest
from worker.models.runtime import Array

HEIGHT, WIDTH, CLASSES = 16, 20, 5
LABELS = ["ant", "bee", "cat", "dog", "elk"]
INPUT: Mapping[str, Any] = {"height": HEIGHT, "width": WIDTH, "scale": 1 / 255}


@cache
def weights() -> tuple[Array, Array, Array, Array]:
    """Kernel (3, 3, 3, 8), its bias, dense (8, 5), its bias."""
    random = np.random.default_rng(7)
    shapes = ((3, 3, 3, 8), (8,), (8, CLASSES), (CLASSES,))
    kernel, bias, dense, offset = (random.normal(0, 0.5, shape).astype(np.float32) for shape in shapes)
    return kernel, bias, dense, offset


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def ready_made(batch: Array) -> Array:
    """What ``INPUT`` makes of uint8 images, by hand."""
    return batch.astype(np.float32) * np.float32(1 / 255)


def truth(batch: Array) -> Array:
    """The logits for uint8 images, in float64: what every format must come close to."""
    kernel, bias, dense, offset = (array.astype(np.float64) for array in weights())
    padded = np.pad(batch / 255, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    convolved = np.maximum(np.einsum("nhwcij,ijck->nhwk", windows, kernel) + bias, 0)
    logits: Array = convolved.mean(axis=(1, 2)) @ dense + offset
    return logits


def version(folder: Path, artefact: str, build: Callable[[Path], object], **tables: Any) -> Path:
    """A version's folder with what ``build`` writes, and a manifest."""
    folder.mkdir(parents=True)
    build(folder / artefact.partition(":")[0])
    given = {"task": "classification", "labels": LABELS, "max_batch_size": 6, "input": dict(INPUT), **tables}
    manifest.write(Manifest.model_validate({"artefact": artefact, **given}), folder)
    return folder


def keras_model(batch: int | None = None) -> Any:
    from worker.models.networks import keras_format

    keras = keras_format.start()
    image = keras.Input((HEIGHT, WIDTH, 3), batch_size=batch, name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(CLASSES, name="logits")(x))
    model.set_weights(list(weights()))
    return model


def save_keras(path: Path, *, batch: int | None = None) -> None:
    with warnings.catch_warnings():  # saving warns of HDF5, and of NumPy's older interface
        warnings.simplefilter("ignore")
        keras_model(batch).save(path)


def save_model(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras_model().export(str(path), verbose=False)


def save_torchscript(path: Path, *, one_by_one: bool = False) -> None:
    import torch

    kernel, bias, dense, offset = (torch.from_numpy(array) for array in weights())

    class Net(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def forward(self, batch: Any) -> Any:
            x = torch.conv2d(batch.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, padding=1)
            x = torch.relu(x).mean((2, 3))
            return (x.reshape(1, 8) if one_by_one else x) @ dense + offset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.zeros(1, HEIGHT, WIDTH, 3)
        traced = torch.jit.trace(Net().eval(), example, check_trace=False)  # type: ignore[no-untyped-call, unused-ignore]
        traced.save(str(path))


def save_onnx(path: Path, *, batch: int | str = "n", dtype: str = "FLOAT", declared: bool = True) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kernel, bias, dense, offset = weights()
    constants = {"kernel": kernel.transpose(3, 2, 0, 1), "bias": bias, "dense": dense, "offset": offset}
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels_first", "kernel", "bias"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["mean", "dense", "offset"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", getattr(TensorProto, dtype), [batch, HEIGHT, WIDTH, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES] if declared else None)],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, str(path))


PYTHON = '''
"""The network in NumPy, with its weights beside it."""

import numpy as np

from .loading import arrays


class Model:
    outputs = ("logits",)

    def __init__(self, folder):
        self.kernel, self.bias, self.dense, self.offset = arrays(folder)

    def __call__(self, batch):
        padded = np.pad(batch, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        convolved = np.maximum(np.einsum("nhwcij,ijck->nhwk", windows, self.kernel) + self.bias, 0)
        return convolved.mean(axis=(1, 2)) @ self.dense + self.offset
'''
LOADING = """
import numpy as np


def arrays(folder):
    with np.load(folder / "weights.npz") as file:
        return [file[name] for name in ("kernel", "bias", "dense", "offset")]
"""


def save_python(path: Path) -> None:
    path.write_text(PYTHON)
    (path.parent / "loading.py").write_text(LOADING)
    kernel, bias, dense, offset = weights()
    np.savez(path.parent / "weights.npz", kernel=kernel, bias=bias, dense=dense, offset=offset)
