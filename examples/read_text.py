"""Serves somebody else's ONNX file, which reads a line of text in a picture: docs/onnx.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from stage import Missing, parser, run, say, stage

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


async def example(options: argparse.Namespace, folder: Path) -> None:
    pictures = [path.read_bytes() for path in options.pictures] or [line(text) for text in LINES]
    shown = [str(path) for path in options.pictures] or [f"a picture of {text!r}" for text in LINES]
    theirs = find()
    say(f"{theirs.name}: {theirs.stat().st_size / 1e6:.1f} MB")
    made = make(theirs, folder / "text-line")
    picture_of_line = folder / "line.png"
    picture_of_line.write_bytes(line(LINES[0]))
    async with stage(MODEL, workers=1) as cluster, cluster.client() as client:
        await cluster.shoal("models", "add", made, "--name", MODEL, "--golden", picture_of_line, "--wait", "60")
        say("")
        for name, picture in zip(shown, pictures, strict=True):
            answer = (await client.predict(picture, model=MODEL)).document
            say(f"{name}: {answer['text']!r}, confidence {answer['confidence']}")


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="of one line of text each")
    sys.exit(run(example, arguments))
