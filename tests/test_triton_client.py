"""NVIDIA's own client, unmodified, against a whole cluster: by the gateway, and straight to a worker with a ticket."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.clusters import Cluster
from tests.photos import FAKE_INPUT, fake_label, photo
from worker.dialects.arrays import Values
from worker.images import decode
from worker.models.fake import label_of

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Triton:
    """The client, with the headers that every call of it gets, and the status of a model that is none of its own."""

    client: InferenceServerClient
    headers: dict[str, str]
    stranger: str

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.client, name)
        return lambda *positional, **named: call(*positional, headers=dict(self.headers), **named)


@pytest.fixture(params=["proxy", "direct"])
def triton(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Triton]:
    """As docs/open-inference.md says: the gateway with the API key, or a worker with a ticket of many uses."""
    if request.param == "proxy":
        url, headers, stranger = cluster.gateway, cluster.headers, "404"
    else:
        grant = lookup(cluster, uses=20)
        url, headers = grant["url"].removesuffix("/predict"), {"Authorization": f"Bearer {grant['ticket']}"}
        stranger = "401"
    client = InferenceServerClient(urlsplit(url).netloc)
    yield Triton(client, headers, stranger)
    client.close()


def lookup(cluster: Cluster, *, uses: int) -> dict[str, Any]:
    asked = urllib.request.Request(f"{cluster.gateway}/lookup?model=fake&n={uses}", headers=cluster.headers)
    with urllib.request.urlopen(asked) as response:
        document: dict[str, Any] = json.load(response)
    return document


def pixels(*seeds: int) -> Values:
    return np.stack([decode(photo(seed), FAKE_INPUT, max_pixels=10**9)[0] for seed in seeds])


def array(values: Values, *, binary: bool) -> InferInput:
    given = InferInput("image", list(values.shape), "UINT8")
    return given.set_data_from_numpy(values, binary_data=binary)


def encoded(*seeds: int) -> InferInput:
    given = InferInput("image", [len(seeds)], "BYTES")
    return given.set_data_from_numpy(np.array([photo(seed) for seed in seeds], dtype=np.object_))


def labels(found: Values) -> list[str]:
    """Of each image's first class: bytes when they came as binary data, and text from JSON."""
    firsts = [row[0].decode() if isinstance(row[0], bytes) else row[0] for row in found]
    return [first.split(":")[2] for first in firsts]


def test_live_ready_and_metadata(triton: Triton) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("fake")
    assert triton.is_model_ready("fake", "1")
    server = triton.get_server_metadata()
    assert server["name"] == "shoal"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])
    assert triton.get_model_metadata("fake") == {
        "name": "fake",
        "versions": ["1"],
        "platform": "shoal_fake",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    }


def test_the_repository(triton: Triton) -> None:
    assert triton.get_model_repository_index() == [{"name": "fake", "version": "1", "state": "READY", "reason": ""}]
    for call in (triton.load_model, triton.unload_model):
        with pytest.raises(InferenceServerException, match="publish them with 'shoal models'"):
            call("fake")


@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("binary_in", [False, True])
def test_arrays(triton: Triton, binary_in: bool, binary_out: bool) -> None:
    outputs = [InferRequestedOutput("probabilities", binary_data=binary_out)]
    result = triton.infer("fake", [array(pixels(1, 2), binary=binary_in)], outputs=outputs, request_id="mine")
    found = result.as_numpy("probabilities")
    assert (found.dtype, found.shape) == (np.float32, (2, 3))
    assert np.allclose(found.sum(axis=1), 1)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "fake", "1")
    assert ("data" in response["outputs"][0]) is not binary_out


def test_all_outputs_when_none_is_named(triton: Triton) -> None:
    result = triton.infer("fake", [array(pixels(3), binary=True)])
    assert result.as_numpy("probabilities").shape == (1, 3)


@pytest.mark.parametrize("binary", [False, True])
def test_classification_of_encoded_pictures(triton: Triton, binary: bool) -> None:
    outputs = [InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    found = triton.infer("fake", [encoded(4, 5)], outputs=outputs, model_version="1").as_numpy("probabilities")
    assert found.shape == (2, 2)
    assert labels(found) == [fake_label(photo(4)), fake_label(photo(5))]


def test_an_array_is_what_its_picture_is(triton: Triton) -> None:
    outputs = [InferRequestedOutput("probabilities", class_count=1)]
    found = triton.infer("fake", [array(pixels(6), binary=True)], outputs=outputs).as_numpy("probabilities")
    assert labels(found) == [label_of(pixels(6)[0])] == [fake_label(photo(6))]


def test_a_bare_picture(triton: Triton) -> None:
    """The raw binary request: no JSON at all, the body is the picture."""
    headers = triton.headers | {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    response = triton.client._post(
        request_uri="v2/models/fake/infer", request_body=photo(7), headers=headers, query_params=None
    )
    document = json.loads(response.read())
    assert response.status_code == 200, document
    assert document["outputs"][0]["shape"] == [1, 3]


def test_priority_and_timeout(triton: Triton) -> None:
    result = triton.infer("fake", [encoded(8)], priority=2, timeout=10_000_000)
    assert result.as_numpy("probabilities").shape == (1, 3)
    with pytest.raises(InferenceServerException, match="deadline") as caught:
        triton.infer("fake", [encoded(9)], timeout=1)
    assert caught.value.status() == "504"


@pytest.mark.parametrize(
    ("given", "said", "status"),
    [
        (array(pixels(1)[:, :5], binary=True), r"UINT8 of \[n,32,32,3\]", "400"),
        (InferInput("image", [1], "BYTES").set_data_from_numpy(np.array([b"no"], object)), "Not an image", "415"),
        (InferInput("picture", [1], "BYTES").set_data_from_numpy(np.array([b"no"], object)), "no input", "400"),
    ],
)
def test_mistakes_are_told(triton: Triton, given: InferInput, said: str, status: str) -> None:
    with pytest.raises(InferenceServerException, match=said) as caught:
        triton.infer("fake", [given])
    assert caught.value.status() == status


def test_another_model(triton: Triton) -> None:
    assert not triton.is_model_ready("cat")
    assert not triton.is_model_ready("fake", "7")
    infer = partial(triton.infer, inputs=[encoded(1)])
    for call in (triton.get_model_metadata, triton.get_inference_statistics, infer):
        with pytest.raises(InferenceServerException) as caught:
            call("cat")
        assert caught.value.status() == triton.stranger


def test_nothing_without_a_key_or_a_ticket_but_health(cluster: Cluster) -> None:
    for url in (cluster.gateway, cluster.worker(0)["public_url"]):
        client = InferenceServerClient(urlsplit(url).netloc)
        assert client.is_server_live()
        assert client.is_server_ready()
        for ask in (
            client.get_server_metadata,
            client.get_model_repository_index,
            client.get_inference_statistics,
            lambda client=client: client.get_model_metadata("fake"),
            lambda client=client: client.load_model("fake"),
            lambda client=client: client.infer("fake", [encoded(1)]),
        ):
            with pytest.raises(InferenceServerException) as caught:
                ask()
            assert caught.value.status() == "401"
        assert not client.is_model_ready("fake")
        client.close()


def test_questions_spend_no_use_of_a_ticket(cluster: Cluster) -> None:
    grant = lookup(cluster, uses=1)
    client = InferenceServerClient(urlsplit(grant["url"]).netloc)
    headers = {"Authorization": f"Bearer {grant['ticket']}"}
    for _ in range(3):
        assert client.is_model_ready("fake", headers=dict(headers))
        client.get_model_metadata("fake", headers=dict(headers))
    assert client.infer("fake", [encoded(1)], headers=dict(headers)).as_numpy("probabilities").shape == (1, 3)
    with pytest.raises(InferenceServerException, match="spent"):
        client.infer("fake", [encoded(1)], headers=dict(headers))
    client.close()


def statistics(cluster: Cluster, version: str = "") -> dict[str, Any]:
    client = InferenceServerClient(urlsplit(cluster.gateway).netloc)
    (found,) = client.get_inference_statistics("fake", version, headers=dict(cluster.headers))["model_stats"]
    (of_all,) = client.get_inference_statistics(headers=dict(cluster.headers))["model_stats"]
    client.close()
    assert found == of_all
    assert isinstance(found, dict)
    return found


def test_statistics_are_of_all_workers(cluster: Cluster) -> None:
    before = statistics(cluster)
    client = InferenceServerClient(urlsplit(cluster.gateway).netloc)
    for seed in range(40, 60):
        client.infer("fake", [encoded(seed, seed + 100)], headers=dict(cluster.headers))
    for _ in range(3):
        with pytest.raises(InferenceServerException):
            client.infer("fake", [array(pixels(1)[:, :5], binary=True)], headers=dict(cluster.headers))
    client.close()
    after = statistics(cluster, "1")

    def more(*path: str) -> int:
        new: Any = after
        old: Any = before
        for name in path:
            new, old = new[name], old[name]
        return int(new - old)

    assert more("inference_count") == 40
    assert more("inference_stats", "success", "count") == 20
    assert more("inference_stats", "fail", "count") == 3
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert more("inference_stats", stage, "count") == 20, stage
        assert more("inference_stats", stage, "ns") > 0, stage
    assert 20 <= more("execution_count") <= 40
    assert after["last_inference"] > before["last_inference"]
    executed = sum(one["compute_infer"]["count"] for one in after["batch_stats"])
    images = sum(one["compute_infer"]["count"] * one["batch_size"] for one in after["batch_stats"])
    assert (executed, images) == (after["execution_count"], after["inference_count"])
