"""Serves somebody else's ONNX file, which reads a line of text in a picture: docs/onnx.md."""

from __future__ import annotations

import importlib.metadata
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from stage import Missing, Stage, run

MODEL = "text-line"
BESIDE = Path(__file__).parent / "text_line_model"
INSTALL = "pip install --no-deps rapidocr-onnxruntime==1.4.4"
THEIRS = "ch_PP-OCRv4_rec_infer.onnx"
LINES = ("Shoal reads 2026", "INVOICE No. 4711", "Total: 128.40 EUR")


def find(name: str = THEIRS) -> Path:
    """The network that the package rapidocr-onnxruntime carries (Apache-2.0, by PaddleOCR). Raises ``Missing``."""
    try:
        files = importlib.metadata.files("rapidocr-onnxruntime") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise Missing(f"the network comes with a package that is not installed: {INSTALL}") from error
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise Missing(f"this rapidocr-onnxruntime has no {name}: {INSTALL}")


def make(theirs: Path, folder: Path) -> Path:
    """Write the version's folder: the network, its characters, ``model.toml`` and the hook. Raises ``Missing``."""
    try:
        import onnx
    except ImportError as error:
        raise Missing("to change an ONNX file takes the package onnx: pip install 'shoal[onnx]'") from error
    shutil.copytree(BESIDE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    network = onnx.load(theirs)
    said = {entry.key: entry.value for entry in network.metadata_props}
    (folder / "characters.txt").write_text("\n".join(said["character"].splitlines()), encoding="utf-8")
    shorten(network)
    onnx.save(network, folder / "text_line.onnx")
    return folder


def shorten(network: Any) -> None:
    """Let it answer with the best of 6,625 characters at each of 40 steps, not with the probabilities of all."""
    from onnx import TensorProto, helper

    graph = network.graph
    given = graph.output[0].name
    graph.node.extend(
        [
            helper.make_node("ArgMax", [given], ["character"], axis=2, keepdims=0),
            helper.make_node("ReduceMax", [given], ["probability"], axes=[2], keepdims=0),
        ]
    )
    del graph.output[:]
    for name, kind in (("character", TensorProto.INT64), ("probability", TensorProto.FLOAT)):
        graph.output.append(helper.make_tensor_value_info(name, kind, ["n", "steps"]))


def line(text: str) -> bytes:
    """A picture of a line of text, black on white, as a PNG."""
    font = ImageFont.load_default(40)
    paper = Image.new("RGB", (round(font.getlength(text)) + 20, 60), "white")
    ImageDraw.Draw(paper).text((10, 6), text, font=font, fill="black")
    stream = io.BytesIO()
    paper.save(stream, "PNG")
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit()
