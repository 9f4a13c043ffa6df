"""``model.toml``: what a version's folder says about its model, checked as a whole before anything is loaded.

A repository is ``MODEL/VERSION/`` with an artefact and this file. Unknown keys are errors, and all errors are reported
at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.wire import ImageInput
from worker.models import tasks

__all__ = ["FILE", "Hooks", "Input", "InvalidManifest", "Manifest", "named", "read", "write"]

FILE = "model.toml"

_LARGEST = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

PerChannel = float | Annotated[list[float], Field(min_length=1, max_length=3)]


class InvalidManifest(ValueError):
    """All that is wrong with a manifest, a line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Input(_Table):
    """The model's input, and how a photo becomes one.

    Pixels (0 to 255), with channels in ``order``, are multiplied by ``scale`` and ``offset`` is added, for all channels
    or for each, before they are cast to ``dtype``.
    """

    name: str = ""
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]
    channels: Literal[1, 3] = 3
    order: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    scale: PerChannel = 1.0
    offset: PerChannel = 0.0
    crop: Literal["center", "squash", "letterbox"] = "squash"
    margin: Annotated[int, Field(ge=0, le=4096)] = 0
    resample: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    fill: Annotated[int, Field(ge=0, le=255)] = 114

    @model_validator(mode="after")
    def _scales_fit(self) -> Input:
        for name, values in (("scale", self.scale), ("offset", self.offset)):
            if isinstance(values, list) and len(values) not in (1, self.channels):
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels")
        if self.dtype == "uint8" and (self.scale != 1.0 or self.offset != 0.0):
            raise ValueError("uint8 takes pixels as they are, without scale and offset")
        return self

    def image(self) -> ImageInput:
        """What the front needs to know of it."""
        return ImageInput(
            name=self.name or "image",
            height=self.height,
            width=self.width,
            crop=self.crop,
            margin=self.margin,
            resample=self.resample,
            channels=self.channels,
            fill=self.fill,
        )


class Hooks(_Table):
    """Functions of a Python file in the version's folder, written ``file.py:function``.

    ``before(images, asked) -> images`` sees the uint8 batch, ``after(answers, asked) -> answers`` the answers.
    Neither sees ready-made arrays or the network's own outputs.
    """

    before: str = ""
    after: str = ""


class Manifest(_Table):
    """One version of a model. Paths are relative to its folder."""

    model: str = ""
    runtime: Literal["auto", "keras", "savedmodel", "onnx", "torchscript", "python"] = "auto"
    artefact: str
    backend: Literal["tensorflow", "jax", "torch"] = "tensorflow"
    task: Literal["classification", "detection", "embedding", "tensors"] = "tensors"
    labels: str | list[str] = Field(default_factory=list)
    max_batch_size: Annotated[int, Field(ge=1, le=1024)] = 32
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    cacheable: bool = True
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    tolerance: Annotated[float, Field(gt=0)] = 1e-3
    input: Input
    hooks: Hooks = Field(default_factory=Hooks)
    classification: dict[str, Any] = Field(default_factory=dict)
    detection: dict[str, Any] = Field(default_factory=dict)
    embedding: dict[str, Any] = Field(default_factory=dict)
    tensors: dict[str, Any] = Field(default_factory=dict)

    def task_settings(self) -> Any:
        """The checked table of the task. Raises pydantic's ``ValidationError``."""
        return tasks.module_of(self.task).Settings.model_validate(getattr(self, self.task))


def read(folder: Path) -> Manifest:
    """The manifest of a version's folder. Raises ``InvalidManifest`` with every problem at once."""
    try:
        document = tomllib.loads(_text(folder / FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidManifest([f"{folder / FILE}: {error}"]) from error
    return parse(document)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    return data.decode()


def parse(document: dict[str, Any]) -> Manifest:
    """Raises ``InvalidManifest``."""
    problems: list[str] = []
    manifest: Manifest | None = None
    try:
        manifest = Manifest.model_validate(document)
        manifest.task_settings()
    except ValidationError as error:
        table = f"{manifest.task}." if manifest else ""
        problems += [f"{table}{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    if problems or manifest is None:
        raise InvalidManifest(problems)
    return manifest


def write(manifest: Manifest, folder: Path) -> None:
    """Write what differs from the defaults."""
    document = manifest.model_dump(mode="json", exclude_defaults=True)
    (folder / FILE).write_text(tomli_w.dumps(document), encoding="utf-8")


def named(folder: Path) -> tuple[str, str]:
    """The model and the version that a folder holds, by its manifest and its place. Raises ``InvalidManifest``."""
    model = read(folder).model or folder.parent.name
    if not _NAME.fullmatch(model):
        raise InvalidManifest([f"{model!r} is not a model's name: letters, digits, '.', '_' and '-', 64 at most"])
    return model, folder.name if re.fullmatch("[1-9][0-9]*", folder.name) else "1"
