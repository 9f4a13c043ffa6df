"""TensorFlow Serving's REST API on a node: what a client may send, what comes back, and what every mistake is told."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.tensorflow_serving import model_status
from shoal.wire import ImageInput, ModelCard, Status, TensorSpec
from tests.nodes import Node, fake, node
from tests.photos import FAKE_INPUT, photo
from tests.redis_servers import RedisServer
from worker.dialects.tensorflow_questions import metadata
from worker.dialects.tensorflow_serving import _read
from worker.images import decode
from worker.models.runtime import Array, Asked, Outputs

FAKE = "/v1/models/fake:predict"
CARD = ModelCard(
    model="net",
    version="7",
    digest="d",
    task="classification",
    input=ImageInput("picture", 2, 2, crop="squash"),
    max_batch_size=8,
    tensor=TensorSpec("pixels", "float32", (2, 3)),
)


@dataclass
class Network:
    """Gives ``outputs`` for every row; a function is given the row."""

    outputs: Mapping[str, Any]
    card: ModelCard = CARD
    seen: list[Array] = field(default_factory=list)

    def warm_up(self) -> None:
        """Nothing to do."""

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        self.seen.extend(batch)
        return [
            Outputs({name: np.asarray(give(row) if callable(give) else give) for name, give in self.outputs.items()})
            for row in batch
        ]


def network(**outputs: Any) -> Network:
    return Network(outputs or {"sum": lambda row: np.float32(row.sum())})


@pytest.fixture
async def on(valkey: RedisServer) -> AsyncIterator[Node]:
    async with node(valkey, fake()) as running:
        yield running


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def pixels(seed: int) -> Any:
    return decode(photo(seed), FAKE_INPUT, max_pixels=10**9)[0].tolist()


PICTURES = [
    pytest.param({"instances": [b64(photo(1)), b64(photo(2))]}, id="rows"),
    pytest.param({"instances": [{"image_bytes": b64(photo(n))} for n in (1, 2)]}, id="named rows"),
    pytest.param({"instances": [{"image": b64(photo(n))} for n in (1, 2)]}, id="the model's own name"),
    pytest.param({"instances": [[b64(photo(1))], [b64(photo(2))]]}, id="rows of one"),
    pytest.param({"inputs": [b64(photo(1)), b64(photo(2))]}, id="columns"),
    pytest.param({"inputs": {"image_bytes": [b64(photo(1)), b64(photo(2))]}}, id="named columns"),
    pytest.param({"instances": [pixels(1), pixels(2)]}, id="pixels in rows"),
    pytest.param({"inputs": {"image": [pixels(1), pixels(2)]}}, id="pixels in columns"),
    pytest.param({"signature_name": "serving_default", "instances": [pixels(1), pixels(2)]}, id="a signature"),
]


@pytest.mark.parametrize("document", PICTURES)
async def test_every_way_to_send_two_pictures(on: Node, document: dict[str, Any]) -> None:
    status, answer, headers = await on.post(FAKE, data=json.dumps(document))
    assert status == 200, answer
    (found,) = answer.values()
    assert list(answer) == (["predictions"] if "instances" in document else ["outputs"])
    for seed, row in zip((1, 2), found, strict=True):
        _, native, _ = await on.post(data=photo(seed))
        assert row == pytest.approx([p["probability"] for p in native["predictions"]])
    assert "inference;dur=" in headers["Server-Timing"]


async def test_a_version_in_the_path(on: Node) -> None:
    body = json.dumps({"instances": [b64(photo(1))]})
    status, answer, _ = await on.post("/v1/models/fake/versions/1:predict", data=body)
    assert (status, len(answer["predictions"][0])) == (200, 3)
    for path, code in {
        "/v1/models/fake/versions/9:predict": "unknown_model",
        "/v1/models/half:predict": "unknown_model",
        "/v1/models/fake/labels/stable:predict": "unknown_label",
        "/v1/models/fake:guess": "unknown_path",
    }.items():
        status, answer, headers = await on.post(path, data=body)
        assert (status, headers["Shoal-Code"], list(answer)) == (404, code, ["error"])
        assert isinstance(answer["error"], str)


@pytest.mark.parametrize(
    ("outputs", "rows", "columns"),
    [
        ({"sum": lambda row: row.sum()}, [3.0, 12.0], [3.0, 12.0]),
        ({"row": lambda row: row[0]}, [[1, 1, 1], [4, 4, 4]], [[1, 1, 1], [4, 4, 4]]),
        (
            {"first": lambda row: row[0, 0], "all": lambda row: row.sum()},
            [{"first": 1, "all": 3}, {"first": 4, "all": 12}],
            {"first": [1, 4], "all": [3, 12]},
        ),
        ({"tenth": np.float32(0.1)}, [0.1, 0.1], [0.1, 0.1]),
        ({"yes": np.bool_(True)}, [True, True], [True, True]),
        ({"name": np.array([b"cat"], object)}, [["cat"], ["cat"]], [["cat"], ["cat"]]),
        ({"png_bytes": np.array([b"\xff"], object)}, [[{"b64": "/w=="}]] * 2, [[{"b64": "/w=="}]] * 2),
        ({"mixed_bytes": np.int64(3)}, [3, 3], [3, 3]),
    ],
)
async def test_answers(valkey: RedisServer, outputs: dict[str, Any], rows: Any, columns: Any) -> None:
    batch = [[[1, 1, 1], [0, 0, 0]], [[4, 4, 4], [0, 0, 0]]]
    async with node(valkey, network(**outputs)) as on:
        path = "/v1/models/net:predict"
        status, answer, _ = await on.post(path, json={"instances": batch})
        assert (status, answer) == (200, {"predictions": rows})
        status, answer, _ = await on.post(path, json={"inputs": {"pixels": batch}})
        assert (status, answer) == (200, {"outputs": columns})


async def test_what_json_has_no_word_for(valkey: RedisServer) -> None:
    """NaN and infinities, as TensorFlow Serving reads and writes them."""
    seen = network(same=lambda row: row[0])
    async with (
        node(valkey, seen) as on,
        on.session.post(
            f"{on.urls[0]}/v1/models/net:predict", data='{"instances": [[[NaN, Infinity, -Infinity], [1, 2.5, -3e2]]]}'
        ) as response,
    ):
        assert await response.text() == '{"predictions":[[NaN,Infinity,-Infinity]]}'
        assert response.content_type == "application/json"
    assert np.array_equal(
        seen.seen[0], np.array([[np.nan, np.inf, -np.inf], [1, 2.5, -300]], np.float32), equal_nan=True
    )


async def test_boxes_of_another_number_for_each_image(valkey: RedisServer) -> None:
    async with node(valkey, network(boxes=lambda row: np.ones((int(row[0, 0]), 4)))) as on:
        batch = [[[n, 0, 0], [0, 0, 0]] for n in (1, 2)]
        _, answer, _ = await on.post("/v1/models/net:predict", json={"instances": batch})
        assert [len(row) for row in answer["predictions"]] == [1, 2]
        status, answer, _ = await on.post("/v1/models/net:predict", json={"inputs": batch})
        assert (status, "another shape for each image" in answer["error"]) == (400, True)


NET = [[1.5, 2, 3], [4, 5, 6]]
IMAGE = [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]


@pytest.mark.parametrize(
    ("tensor", "document", "expected"),
    [
        (CARD.tensor, {"instances": [NET]}, ("float32", (2, 3))),
        (CARD.tensor, {"instances": [{"pixels": NET}]}, ("float32", (2, 3))),
        (CARD.tensor, {"instances": [IMAGE]}, ("uint8", (2, 2, 3))),  # only an image has that shape
        (CARD.tensor, {"instances": [{"picture": IMAGE}]}, ("uint8", (2, 2, 3))),
        (None, {"instances": [IMAGE]}, ("uint8", (2, 2, 3))),
        (TensorSpec("x", "float32", (2, 2, 3)), {"instances": [IMAGE]}, ("float32", (2, 2, 3))),  # its own goes first
        (TensorSpec("x", "float32", (2, 2, 3)), {"inputs": {"picture": [IMAGE]}}, ("uint8", (2, 2, 3))),
        (TensorSpec("picture", "float32", (2, 2, 3)), {"inputs": {"picture": [IMAGE]}}, ("float32", (2, 2, 3))),
        (TensorSpec("x", "float16", (-1, 2, 3)), {"instances": [IMAGE]}, ("float16", (2, 2, 3))),
        (TensorSpec("x", "int64", (3,)), {"instances": [[1, 2, 3]]}, ("int64", (3,))),
        (TensorSpec("x", "bool", ()), {"instances": [True, False]}, ("bool", ())),
    ],
)
def test_what_numbers_are_taken_for(
    tensor: TensorSpec | None, document: dict[str, Any], expected: tuple[str, tuple[int, ...]]
) -> None:
    card: ModelCard = msgspec.structs.replace(CARD, tensor=tensor)
    items, in_rows = _read(json.dumps(document).encode(), card, 8)
    item = items[0]
    assert not isinstance(item, bytes)
    assert (item.dtype, item.shape) == expected
    assert in_rows == ("instances" in document)


MISTAKES: list[tuple[Any, str]] = [
    (b"", "empty"),
    (b"{", "not JSON"),
    (b"\xff\xfe\x00", "not JSON"),
    (b"[" * 1000, "not JSON"),
    (b"[" * 100_000, "more values than 8 images"),
    (b'{"instances": [1' + b"0" * 5000 + b"]}", "not JSON"),
    ([], "JSON object"),
    (b64(b"x"), "JSON object"),
    ({}, "neither"),
    ({"instances": [NET], "inputs": [NET]}, "not both"),
    ({"instances": {"pixels": NET}}, "'instances' is a list"),
    ({"instances": []}, "0 rows"),
    ({"instances": [NET] * 9}, "9 rows"),
    ({"inputs": []}, "0 rows"),
    ({"inputs": 5}, "not a batch"),
    ({"inputs": {}}, "one input"),
    ({"inputs": b64(b"x")}, "not a batch"),
    ({"inputs": {"pixels": [NET], "more": [NET]}}, "one input"),
    ({"instances": [{"pixels": NET, "more": NET}]}, "one input"),
    ({"instances": [{"pixels": NET}, NET]}, "same input"),
    ({"instances": [{"pixels": NET}, {"picture": IMAGE}]}, "same input"),
    ({"instances": [{"other": NET}]}, "no input 'other'; it has picture, pixels"),
    ({"instances": [{"image_bytes": NET}]}, "no input 'image_bytes'"),
    ({"instances": [{"other": b64(b"x")}]}, "no input 'other'"),
    ({"instances": [{"b64": "?"}]}, "not Base64"),
    ({"instances": [{"b64": "YQ"}]}, "not Base64"),
    ({"instances": [{"b64": 5}]}, "not Base64"),
    ({"instances": [{"b64": ""}]}, "image 1 is empty"),
    ({"instances": ["photo.jpg"]}, "not a string"),
    ({"instances": [None]}, "numbers"),
    ({"instances": [[[1, 2, 3], [4, 5]]]}, "same length"),
    ({"instances": [[[1, 2, 3], [4, 5, "6"]]]}, "numbers"),
    ({"instances": [[[1, 2, 3], [4, 5, True]]]}, "numbers"),
    ({"instances": [[[1, 2, 3], [4, 5, {"x": 1}]]]}, "numbers"),
    ({"instances": [[1, 2, 3]]}, "FP32 of shape [1,3]"),
    ({"instances": [[[1e39, 2, 3], [4, 5, 6]]]}, "too large"),
    ({"instances": [[[[256, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]]}, "from 0 to 255"),
    ({"instances": [[[[0.5, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]]}, "whole numbers"),
    ({"signature_name": "other", "instances": [NET]}, "no signature 'other'; it has 'serving_default'"),
    ({"signature_name": 5, "instances": [NET]}, "no signature 5"),
    ({"signature_name": None, "instances": [NET]}, "no signature None"),
]


@pytest.mark.parametrize(("document", "message"), MISTAKES)
def test_every_mistake_is_told(document: Any, message: str) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InvalidRequest) as raised:
        _read(body, CARD, 8)
    assert message in raised.value.message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"b64": "YQ=="}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["pixels", "b64", "x"]), inner),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("instances", "inputs", "signature_name"), VALUES)))
def test_nothing_else_is_ever_raised(document: dict[str, Any]) -> None:
    try:
        items, _ = _read(json.dumps(document).encode(), CARD, 8)
    except InvalidRequest:
        return
    assert 1 <= len(items) <= 8


async def test_mistakes_as_tensorflow_serving_answers_them(on: Node) -> None:
    status, answer, headers = await on.post(FAKE, data=b"{")
    assert (status, list(answer), headers["Shoal-Code"]) == (400, ["error"], "invalid_request")
    status, answer, headers = await on.post(FAKE, json={"instances": [b64(b"no picture")]})
    assert (status, headers["Shoal-Code"]) == (415, "unsupported_image")


async def test_what_is_served(valkey: RedisServer) -> None:
    async with node(valkey, fake(), network()) as on:
        status, answer, _ = await _get(on, "/v1/models")
        assert (status, answer) == (200, {"models": ["fake", "net"]})
        available = {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for path in ("/v1/models/net", "/v1/models/net/versions/7"):
            status, answer, _ = await _get(on, path)
            assert (status, answer) == (200, {"name": "net", "ready": True, "model_version_status": [available]})


@pytest.mark.parametrize("path", ["/v1/models/net/metadata", "/v1/models/net/versions/7/metadata"])
async def test_metadata(valkey: RedisServer, path: str) -> None:
    outputs = (TensorSpec("sum", "float64", ()), TensorSpec("names", "object", (-1,)))
    card = msgspec.structs.replace(CARD, outputs=outputs)
    async with node(valkey, Network({"sum": 1.0}, card)) as on:
        status, answer, _ = await _get(on, path)
    assert status == 200, answer
    assert answer["model_spec"] == {"name": "net", "signature_name": "", "version": "7"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature == {
        "inputs": {"pixels": _info("pixels", "DT_FLOAT", -1, 2, 3)},
        "outputs": {"sum": _info("sum", "DT_DOUBLE", -1), "names": _info("names", "DT_STRING", -1, -1)},
        "method_name": "tensorflow/serving/predict",
    }


def test_a_network_that_takes_no_arrays_takes_pixels() -> None:
    card = msgspec.structs.replace(CARD, tensor=None)
    (signature,) = metadata(card)["metadata"]["signature_def"]["signature_def"].values()
    assert signature["inputs"] == {"picture": _info("picture", "DT_UINT8", -1, 2, 2, 3)}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/models/half", "unknown_model"),
        ("/v1/models/fake/versions/9", "unknown_model"),
        ("/v1/models/fake/labels/stable", "unknown_label"),
        ("/v1/models/half/metadata", "unknown_model"),
        ("/v1/models/fake/labels/stable/metadata", "unknown_label"),
    ],
)
async def test_what_is_not_there(on: Node, path: str, code: str) -> None:
    status, answer, headers = await _get(on, path)
    assert (status, list(answer), headers["Shoal-Code"]) == (404, ["error"], code)


@pytest.mark.parametrize("verb", ["classify", "regress", "explain"])
async def test_other_verbs_are_told(on: Node, verb: str) -> None:
    for which in ("", "/versions/1", "/labels/stable"):
        status, answer, _ = await on.post(f"/v1/models/fake{which}:{verb}", json={"examples": [{"x": 1}]})
        assert (status, answer) == (400, {"error": f"There is no :{verb} here: models answer :predict."})


STATES: list[tuple[Status | None, str, str]] = [
    ("loading", "LOADING", "OK"),
    ("ready", "AVAILABLE", "OK"),
    ("stalled", "AVAILABLE", "OK"),
    ("restarting", "LOADING", "OK"),
    ("stopping", "UNLOADING", "OK"),
    ("failed", "END", "INTERNAL"),
    (None, "START", "OK"),
]


@pytest.mark.parametrize(("status", "state", "error_code"), STATES)
def test_states_in_the_words_of_tensorflow_serving(status: Status | None, state: str, error_code: str) -> None:
    said = model_status("net", [("2", status, "why"), ("10", "loading", "")])
    assert [version["version"] for version in said["model_version_status"]] == ["10", "2"]
    version = said["model_version_status"][1]
    assert (version["state"], version["status"]["error_code"]) == (state, error_code)
    assert version["status"]["error_message"] == ("why" if status == "failed" else "")
    assert said["ready"] == (status == "ready")


async def _get(on: Node, path: str) -> tuple[int, Any, Any]:
    async with on.session.get(on.urls[0] + path) as response:
        return response.status, await response.json(), response.headers


def _info(name: str, dtype: str, *sides: int) -> dict[str, Any]:
    dim = [{"size": str(side), "name": ""} for side in sides]
    return {"name": name, "dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}}
