"""The REST client of TensorFlow Serving's tutorial, and curl, against a cluster: by the gateway and at a worker.

https://www.tensorflow.org/tfx/tutorials/serving/rest_simple, whose client classifies images of Fashion MNIST. Here the
model is a smaller one, of the same input.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import discovery
from shoal.publication import Publication, Published
from tests.clusters import Cluster, eventually, up
from tests.needs import need
from tests.photos import photo
from worker.models import digests, preparation
from worker.models.runtime import Array
from worker.repository import publishing

pytestmark = pytest.mark.cluster

MODEL = "fashion_model"
MANIFEST = """
artefact = "model.onnx"
task = "classification"
labels = ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
max_batch_size = 8

[input]
height = 28
width = 28
channels = 1
scale = 0.00392156862745098
"""


def weights() -> tuple[Array, Array]:
    random = np.random.default_rng(3)
    return random.normal(0, 0.1, (784, 10)).astype(np.float32), random.normal(0, 1, 10).astype(np.float32)


def test_images() -> Array:
    """As the tutorial has them: floats from 0 to 1, of shape (n, 28, 28, 1)."""
    return np.random.default_rng(4).random((10, 28, 28, 1)).astype(np.float32)


test_images.__test__ = False  # type: ignore[attr-defined]


def truth(images: Array) -> Array:
    dense, bias = weights()
    return images.reshape(-1, 784) @ dense + bias


def save(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["Conv1_input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "dense", "bias"], ["Dense"]),
        ],
        "fashion",
        [helper.make_tensor_value_info("Conv1_input", TensorProto.FLOAT, ["n", 28, 28, 1])],
        [helper.make_tensor_value_info("Dense", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(array, name) for name, array in zip(("dense", "bias"), weights(), strict=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(path))


async def publish(url: str, repository: Path) -> None:
    """The model as version 1, which is labelled stable."""
    source = repository / "source"
    source.mkdir()
    save(source / "model.onnx")
    (source / "model.toml").write_text(MANIFEST)
    into = repository / MODEL / "1"
    folder = preparation.prepare(source, into, model=MODEL, version="1", wishes=preparation.Wishes({})).folder
    published = Published(source=folder.as_uri(), digest=digests.digest_of(folder))
    async with discovery.connect(url) as backend:
        await publishing.change(backend, MODEL, lambda _: Publication(MODEL, {"1": published}, labels={"stable": "1"}))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """As TensorFlow Serving is run: without keys."""
    need(shutil.which("curl"), "curl is not installed")
    with up("--workers", "1", "--model", "none", "--no-auth") as running:
        asyncio.run(publish(running.document["discovery"], tmp_path_factory.mktemp("models")))
        eventually(lambda: _is_ready(running), within=60, what="the model is ready")
        yield running


def _is_ready(cluster: Cluster) -> bool:
    workers = requests.get(f"{cluster.gateway}/status", timeout=10).json()["workers"]
    return all(worker["models"].get(f"{MODEL}@1", {}).get("status") == "ready" for worker in workers)


def lookup(cluster: Cluster) -> tuple[str, str]:
    """A worker's address, and a ticket for it."""
    said = requests.get(f"{cluster.gateway}/lookup", params={"model": MODEL}, timeout=10).json()
    return said["url"].removesuffix("/predict"), said["ticket"]


def by_gateway(cluster: Cluster, path: str) -> str:
    return cluster.gateway + path


def at_a_worker(cluster: Cluster, path: str) -> str:
    worker, ticket = lookup(cluster)
    return f"{worker}{path}?ticket={ticket}"


def by_redirect(cluster: Cluster, path: str) -> str:
    return f"{cluster.gateway}{path}?redirect=1"


WAYS = [by_gateway, at_a_worker, by_redirect]
PATHS = [f"/v1/models/{MODEL}{which}:predict" for which in ("", "/versions/1", "/labels/stable")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", PATHS)
def test_the_tutorials_client(cluster: Cluster, way: Any, path: str) -> None:
    url, images = way(cluster, path), test_images()

    # These lines are the tutorial's.
    data = json.dumps({"signature_name": "serving_default", "instances": images[0:3].tolist()})
    headers = {"content-type": "application/json"}
    json_response = requests.post(url, data=data, headers=headers, timeout=30)
    predictions = json.loads(json_response.text)["predictions"]

    assert np.allclose(predictions, truth(images[0:3]), atol=1e-4)
    assert [int(np.argmax(row)) for row in predictions] == truth(images[0:3]).argmax(axis=1).tolist()


@pytest.mark.parametrize("way", WAYS)
def test_columns_and_no_content_type(cluster: Cluster, way: Any) -> None:
    sent = json.dumps({"inputs": {"Conv1_input": test_images()[:2].tolist()}})
    answer = requests.post(way(cluster, PATHS[0]), data=sent, timeout=30).json()
    assert np.allclose(answer["outputs"], truth(test_images()[:2]), atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_a_photo(cluster: Cluster, way: Any) -> None:
    """The model's own preparation makes its input of it."""
    picture = photo(5, kind="PNG")
    sent = {"instances": [{"image_bytes": {"b64": base64.b64encode(picture).decode()}}]}
    (row,) = requests.post(way(cluster, PATHS[0]), json=sent, timeout=30).json()["predictions"]
    native = requests.post(f"{cluster.gateway}/predict?model={MODEL}", data=picture, timeout=30).json()
    assert int(np.argmax(row)) == native["predictions"][0]["index"]


@pytest.mark.parametrize("way", [by_gateway, at_a_worker])
def test_curl(cluster: Cluster, way: Any, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text(json.dumps({"instances": test_images()[:1].tolist()}))
    line = f"curl -s -d @body.json -X POST '{way(cluster, PATHS[0])}'"
    said = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert np.allclose(json.loads(said)["predictions"], truth(test_images()[:1]), atol=1e-4)


@pytest.mark.parametrize("way", [by_gateway, at_a_worker])
def test_mistakes(cluster: Cluster, way: Any) -> None:
    answer = requests.post(way(cluster, PATHS[0]), json={"instances": [[1.0, 2.0]]}, timeout=30)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert "FP32 of [n,28,28,1]" in answer.json()["error"]
    answer = requests.post(way(cluster, PATHS[0].replace(MODEL, "half")), json={}, timeout=30)
    assert list(answer.json()) == ["error"]
    assert answer.status_code == (404 if way is by_gateway else 401)  # a ticket is for one model


def test_a_label_that_is_not_there(cluster: Cluster) -> None:
    answer = requests.post(by_gateway(cluster, PATHS[2].replace("stable", "canary")), json={}, timeout=30)
    assert (answer.status_code, answer.headers["Shoal-Code"]) == (404, "unknown_label")
    assert "it has stable" in answer.json()["error"]


@pytest.mark.parametrize("way", [by_gateway, at_a_worker])
def test_what_is_served(cluster: Cluster, way: Any) -> None:
    assert requests.get(way(cluster, "/v1/models"), timeout=10).json() == {"models": [MODEL]}
    for which in ("", "/versions/1", "/labels/stable"):
        answer = requests.get(way(cluster, f"/v1/models/{MODEL}{which}"), timeout=10).json()
        assert (answer["name"], answer["ready"]) == (MODEL, True)
        (version,) = answer["model_version_status"]
        assert (version["version"], version["state"]) == ("1", "AVAILABLE")
        answer = requests.get(way(cluster, f"/v1/models/{MODEL}{which}/metadata"), timeout=10).json()
        assert answer["model_spec"] == {"name": MODEL, "signature_name": "", "version": "1"}
        signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
        sides = [side["size"] for side in signature["inputs"]["Conv1_input"]["tensor_shape"]["dim"]]
        assert sides == ["-1", "28", "28", "1"]
        assert signature["outputs"]["Dense"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize("question", ["", "/metadata"])
@pytest.mark.parametrize(
    ("which", "code"),
    [("half", "unknown_model"), (f"{MODEL}/versions/9", "unknown_model"), (f"{MODEL}/labels/none", "unknown_label")],
)
def test_what_is_not_there(cluster: Cluster, which: str, code: str, question: str) -> None:
    answer = requests.get(f"{cluster.gateway}/v1/models/{which}{question}", timeout=10)
    assert (answer.status_code, answer.headers["Shoal-Code"], list(answer.json())) == (404, code, ["error"])


def test_other_verbs_are_told(cluster: Cluster) -> None:
    answer = requests.post(f"{cluster.gateway}/v1/models/{MODEL}:classify", json={"examples": []}, timeout=10)
    assert (answer.status_code, answer.json()["error"]) == (400, "There is no :classify here: models answer :predict.")


def test_the_scale_signal_of_a_cluster(cluster: Cluster) -> None:
    """Real reports: what was executed here is measured, though it came as soon as the model was ready."""
    for _ in range(20):
        requests.post(by_gateway(cluster, PATHS[0]), json={"instances": test_images().tolist()[:8]}, timeout=30)

    def said() -> Any:
        return requests.get(f"{cluster.gateway}/v1/scale-signal?target=0.5", timeout=10).json()["models"][MODEL]

    eventually(lambda: said()["images_per_second"] > 0 and said()["utilisation"] > 0, within=20, what="it is measured")
    assert said()["workers"] == 1 <= said()["desired"]  # more where this machine is busy
