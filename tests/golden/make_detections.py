"""Makes ``detections.json``: what TensorFlow's own graph finds in a few photos, with its own anchors and suppression.

    python -m tests.golden.make_detections

The whole frozen graph takes the pictures that our model takes (300 x 300, so that its own resizing does nothing) one by
one. Our cut of it, with anchors and suppression of our own, must find the same: ``tests/test_detection_example.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf  # type: ignore[import-untyped, import-not-found, unused-ignore]

from examples import detection
from shoal.wire import ImageInput
from tests.golden.make_golden import photo
from worker.images import decode

PHOTOS = {
    "cat.jpg": Path("examples/photos/cat.jpg"),
    "coffee.jpg": Path("examples/photos/coffee.jpg"),
    "geese": photo("foolbox", "foolbox/data/imagenet_15_99.jpg"),
    "chairs": photo("foolbox", "foolbox/data/imagenet_01_559.jpg"),
    "car": photo("foolbox", "foolbox/data/imagenet_06_609.jpg"),
}
LEAST = 0.3


def main() -> None:
    definition = tf.compat.v1.GraphDef.FromString(detection.frozen_graph().read_bytes())
    whole = tf.compat.v1.wrap_function(lambda: tf.compat.v1.import_graph_def(definition, name=""), [])
    names = ("detection_boxes", "detection_scores", "detection_classes")
    call = whole.prune("image_tensor:0", [f"{name}:0" for name in names])
    found: dict[str, Any] = {}
    for name, place in PHOTOS.items():
        pixels, frame = decode(place.read_bytes(), ImageInput("image", 300, 300, "squash"), max_pixels=10**9)
        boxes, scores, classes = (values.numpy()[0].tolist() for values in call(tf.constant(pixels[None])))
        found[name] = {
            "width": frame.width,
            "height": frame.height,
            "predictions": [
                {
                    "index": int(number),
                    "probability": round(score, 4),
                    "box": [
                        round(left * frame.width, 1),
                        round(top * frame.height, 1),
                        round(right * frame.width, 1),
                        round(bottom * frame.height, 1),
                    ],
                }
                for (top, left, bottom, right), score, number in zip(boxes, scores, classes, strict=True)
                if score >= LEAST
            ],
        }
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(answer)}" for name, answer in found.items())
    Path(__file__).with_name("detections.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
