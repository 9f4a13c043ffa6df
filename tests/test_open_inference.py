"""The Open Inference Protocol on a node: what a client may send, what comes back, and what every mistake is told."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shoal import http
from tests import small_networks as small
from tests.clusters import eventually_async
from tests.nodes import CACHING, Held, Node, fake, node
from tests.photos import FAKE_INPUT, fake_label, photo
from tests.redis_servers import RedisServer
from tests.test_networks import need_onnx
from worker.dialects import arrays
from worker.images import decode
from worker.models import published
from worker.models.fake import label_of

INFER = "/v2/models/fake/infer"
SHAPE = [1, 32, 32, 3]


@pytest.fixture
async def on(valkey: RedisServer) -> AsyncIterator[Node]:
    async with node(valkey, fake()) as running:
        yield running


def pixels(seed: int) -> arrays.Values:
    return decode(photo(seed), FAKE_INPUT, max_pixels=10**9)[0]


def image(shape: Any = None, data: Any = None, datatype: str = "UINT8", **fields: Any) -> dict[str, Any]:
    """An input of the ``fake`` model, as JSON has it."""
    values = pixels(1)[None]
    return {
        "name": "image",
        "shape": SHAPE if shape is None else shape,
        "datatype": datatype,
        "data": values.tolist() if data is None else data,
        **fields,
    }


def body(*inputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"inputs": list(inputs or (image(),)), **fields}


def wanted(name: str = "probabilities", **parameters: Any) -> list[dict[str, Any]]:
    return [{"name": name, "parameters": parameters}]


def packed(document: dict[str, Any], *raw: bytes) -> dict[str, Any]:
    """A body of JSON and raw bytes, with its header."""
    head = json.dumps(document).encode()
    return {"data": head + b"".join(raw), "headers": {http.JSON_LENGTH: str(len(head))}}


def element(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def png(image: arrays.Values) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def classes(document: Any) -> list[str]:
    """The labels of each image's first class."""
    output = document["outputs"][0]
    assert output["datatype"] == "BYTES"
    (images, most) = output["shape"]
    rows = [output["data"][n * most] for n in range(images)]
    return [row.split(":")[2] for row in rows]


async def test_an_array_in_json(on: Node) -> None:
    status, document, headers = await on.post(INFER, json=body(id="mine"))
    assert status == 200, document
    assert (document["model_name"], document["model_version"], document["id"]) == ("fake", "1", "mine")
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [1, 3])
    assert sum(output["data"]) == pytest.approx(1)
    for stage in ("receive", "read", "decode", "queue", "inference"):
        assert f"{stage};dur=" in headers["Server-Timing"]


@pytest.mark.parametrize("flat", [False, True])
async def test_data_may_be_flat_or_nested(on: Node, flat: bool) -> None:
    data = pixels(1).reshape(-1).tolist() if flat else pixels(1)[None].tolist()
    sent = body(image(data=data), outputs=wanted(classification=1))
    _, document, _ = await on.post(INFER, json=sent)
    assert classes(document) == [label_of(pixels(1))] == [fake_label(photo(1))]


async def test_raw_bytes_in_and_out(on: Node) -> None:
    given = {"name": "image", "shape": [2, 32, 32, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 6144}}
    batch = np.stack([pixels(1), pixels(2)]).tobytes()
    sent = packed(body(given, parameters={"binary_data_output": True}), batch)
    status, answer, headers = await on.post(INFER, **sent)
    assert status == 200, answer
    assert headers["Content-Type"] == "application/octet-stream"
    length = int(headers[http.JSON_LENGTH])
    (output,) = json.loads(answer[:length])["outputs"]
    assert output == {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, 3],
        "parameters": {"binary_data_size": 24},
    }
    rows = arrays.from_bytes("", answer[length:], "float32", [2, 3])
    assert np.allclose(rows.sum(axis=1), 1)


@pytest.mark.parametrize("shape", [[3], [3, 1]])
async def test_several_encoded_images(on: Node, shape: list[int]) -> None:
    raw = b"".join(element(photo(seed)) for seed in (4, 5, 4))
    given = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    status, document, _ = await on.post(INFER, **packed(body(given, outputs=wanted(classification=1)), raw))
    assert status == 200, document
    assert classes(document) == [fake_label(photo(seed)) for seed in (4, 5, 4)]


async def test_a_bare_picture(on: Node) -> None:
    status, document, _ = await on.post(INFER, data=photo(6), headers={http.JSON_LENGTH: "0"})
    assert status == 200, document
    _, native, _ = await on.post("/predict", data=photo(6))
    assert max(document["outputs"][0]["data"]) == pytest.approx(native["predictions"][0]["probability"])


async def test_outputs_are_binary_one_by_one(on: Node) -> None:
    parameters = {"binary_data_output": True}
    sent = body(outputs=wanted(binary_data=False), parameters=parameters)
    _, document, headers = await on.post(INFER, json=sent)
    assert http.JSON_LENGTH not in headers
    assert len(document["outputs"][0]["data"]) == 3
    _, _, headers = await on.post(INFER, json=body(outputs=wanted(), parameters=parameters))
    assert http.JSON_LENGTH in headers


async def test_binary_classes(on: Node) -> None:
    sent = body(outputs=wanted(classification=2, binary_data=True))
    _, answer, headers = await on.post(INFER, json=sent)
    values = arrays.from_bytes("", answer[int(headers[http.JSON_LENGTH]) :], "object", [1, 2])
    (first, second) = values[0]
    assert first.decode().split(":")[1:] == ["0", fake_label(photo(1))]
    assert second.decode().endswith(":1:second")


async def test_equal_images_share_an_answer_only_for_equal_outputs(valkey: RedisServer) -> None:
    async with node(valkey, fake(), **CACHING) as on:
        caches = []
        for sent in (body(), body(), body(outputs=wanted(classification=1)), body(outputs=wanted(classification=1))):
            _, _, headers = await on.post(INFER, json=sent)
            caches.append(headers[http.CACHE])
    assert caches == ["miss", "hit", "miss", "hit"]


async def test_the_version_may_be_in_the_path(on: Node) -> None:
    assert (await on.post("/v2/models/fake/versions/1/infer", json=body()))[0] == 200
    for path in ("/v2/models/fake/versions/2/infer", "/v2/models/cat/infer"):
        status, document, headers = await on.post(path, json=body())
        assert (status, headers["Shoal-Code"], [*document]) == (404, "unknown_model", ["error"])


async def test_a_low_priority_is_bulk_and_a_timeout_only_shortens(valkey: RedisServer) -> None:
    held = fake(held=True)
    assert isinstance(held, Held)
    async with node(valkey, held, executing=False) as on:
        status, document, _ = await on.post(INFER, json=body(parameters={"timeout": 50_000, "priority": 2}))
        assert (status, document["error"]) == (504, "The deadline passed before there was an answer.")
        late: dict[str, Any] = {"json": body(parameters={"timeout": 15_000_000}), "headers": {http.TIMEOUT_MS: "50"}}
        first = asyncio.create_task(on.post(INFER, **late))
        second = asyncio.create_task(on.post(INFER, json=body(), headers={http.TIMEOUT_MS: "3000"}))
        done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        assert done == {first}
        assert [(await asked)[0] for asked in (first, second)] == [504, 504]
        held.released.set()


@pytest.mark.parametrize(("priority", "expected"), [(0, 0), (1, 0), (2, 1), (1000, 1)])
async def test_which_priorities_are_bulk(valkey: RedisServer, priority: int, expected: int) -> None:
    async with node(valkey, fake(), executing=False) as on, aiohttp.ClientSession() as session:

        async def load() -> Any:
            async with session.get(f"{on.urls[0]}/load") as response:
                return (await response.json())["models"]["fake@1"]

        async def waits() -> bool:
            return bool((await load())["queue_depth"])

        asking = asyncio.create_task(on.post(INFER, json=body(parameters={"priority": priority})))
        await eventually_async(waits, within=10, what="the job waits")
        assert (await load())["bulk_depth"] == expected
        on.executing()
        assert (await asking)[0] == 200


@pytest.fixture
async def small_network(valkey: RedisServer, tmp_path: Path) -> AsyncIterator[Node]:
    """A network in ONNX that takes floats of (n, 16, 20, 3), and photos of that size divided by 255."""
    need_onnx()
    runtime = published.load(small.version(tmp_path / "1", "model.onnx", small.save_onnx), model="small", version="1")
    async with node(valkey, runtime) as running:
        yield running


async def test_a_photo_its_pixels_and_the_floats_made_of_them_are_one(small_network: Node) -> None:
    batch = small.images(3)
    floats = small.ready_made(batch)
    pictures = [png(image) for image in batch]
    raw = b"".join(map(element, pictures))
    found = []
    for values, datatype, data in (
        (batch, "UINT8", batch.tobytes()),
        (floats, "FP32", floats.tobytes()),
        (None, "BYTES", raw),
    ):
        shape = [3] if values is None else list(values.shape)
        given = {"name": "image", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
        sent = packed(body(given), data)
        status, document, _ = await small_network.post("/v2/models/small/infer", **sent)
        assert status == 200, document
        (output,) = document["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [3, 5])
        found.append(np.array(output["data"]).reshape(3, 5))
    for logits in found:
        assert np.abs(logits - small.truth(batch)).max() < 1e-4


async def test_floats_in_json_and_their_best_classes(small_network: Node) -> None:
    batch = small.images(2)
    given = {"name": "image", "shape": [2, 16, 20, 3], "datatype": "FP32", "data": small.ready_made(batch).tolist()}
    sent = body(given, outputs=wanted("logits", classification=1))
    _, document, _ = await small_network.post("/v2/models/small/infer", json=sent)
    assert classes(document) == [small.LABELS[best] for best in small.truth(batch).argmax(axis=1)]


async def test_a_network_that_gives_no_number_is_told_apart_from_json(small_network: Node) -> None:
    """NaN has no JSON: it comes as binary data, or not at all."""
    floats = np.full((1, 16, 20, 3), np.nan, np.float32)
    given = {
        "name": "image",
        "shape": [1, 16, 20, 3],
        "datatype": "FP32",
        "parameters": {"binary_data_size": floats.nbytes},
    }
    path = "/v2/models/small/infer"
    status, document, _ = await small_network.post(path, **packed(body(given), floats.tobytes()))
    assert (status, document) == (
        400,
        {"error": "Output 'logits' is not finite, which JSON cannot say: ask for it as binary data."},
    )
    sent = packed(body(given, parameters={"binary_data_output": True}), floats.tobytes())
    status, answer, headers = await small_network.post(path, **sent)
    assert status == 200
    assert np.isnan(arrays.from_bytes("", answer[int(headers[http.JSON_LENGTH]) :], "float32", [1, 5])).all()


async def test_the_metadata_of_a_network_with_an_input_of_its_own(small_network: Node) -> None:
    async with small_network.session.get(f"{small_network.urls[0]}/v2/models/small") as response:
        assert await response.json() == {
            "name": "small",
            "versions": ["1"],
            "platform": "onnx_onnxv1",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 16, 20, 3]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 5]}],
        }


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no JSON", {"data": b"{"}, "is not one of the Open Inference Protocol"),
    ("no body", {"data": b""}, "is empty"),
    ("NaN", {"data": json.dumps(body(image(data=[float("nan")]))).encode()}, "is not one of"),
    ("too deep", {"data": b'{"inputs":' + b"[" * 10_000}, "is not one of"),
    ("too many lists", {"data": b'{"inputs":[' + b"[]," * 100_000 + b"[]]}"}, "more values than 16 images"),
    ("too many values", {"data": b'{"inputs":[' + b"1," * 100_000 + b"1]}"}, "more values than 16 images"),
    ("not an object", {"json": []}, "is not one of"),
    ("no inputs", {"json": {}}, "missing required field `inputs`"),
    ("an id that is a number", {"json": body(id=1)}, "Expected `str`, got `int`"),
    ("a long id", {"json": body(id="x" * 2000)}, "at most 1024"),
    ("a parameter that is a list", {"json": body(parameters={"x": []})}, "Expected `bool | int | float | str`"),
    ("a parameter that is null", {"json": body(parameters={"x": None})}, "got `null`"),
    ("none of the inputs", {"json": {"inputs": []}}, "takes one input, not 0"),
    ("two inputs", {"json": body(image(), image())}, "takes one input, not 2"),
    ("an unknown input", {"json": body(image(name="cat"))}, "no input 'cat'; it has image"),
    ("no name", {"json": {"inputs": [{"shape": [1], "datatype": "UINT8"}]}}, "missing required field `name`"),
    ("an unknown datatype", {"json": body(image(datatype="BF16"))}, "'BF16' is no datatype"),
    ("a negative side", {"json": body(image(shape=[-1, 32, 32, 3]))}, "its sides are 1 or more"),
    ("too much of nothing", {"json": body(image(shape=[0, 1 << 70], data=[]))}, "its sides are 1 or more"),
    ("too many dimensions", {"json": body(image(shape=[1] * 100, data=[1]))}, "more than 8 dimensions"),
    ("too many rows to be counted", {"json": body(image(shape=[1 << 70], data=[1]))}, "has data of shape [1]"),
    ("a number out of range", {"data": b'{"inputs": [{"data": [1e400]}]}'}, "out of range"),
    ("half a character", {"data": b'{"inputs": [], "id": "\\ud800"}'}, "is not one of"),
    ("a side that is no number", {"json": body(image(shape=["1"]))}, "Expected `int`, got `str`"),
    ("no data", {"json": {"inputs": [{"name": "image", "shape": SHAPE, "datatype": "UINT8"}]}}, "neither data nor"),
    ("data of another shape", {"json": body(image(data=[1, 2, 3]))}, "has data of shape [3], not [1,32,32,3]"),
    ("ragged data", {"json": body(image(data=[[1], [1, 2]]))}, "same length"),
    ("data of another kind", {"json": body(image(data=["1"]))}, "whole numbers"),
    ("data out of range", {"json": body(image(data=[256] * 3072))}, "from 0 to 255"),
    ("null data", {"json": body(image(data=[None]))}, "whole numbers"),
    ("another dtype", {"json": body(image(datatype="FP32"))}, "is FP32 of shape [1,32,32,3]"),
    ("another size", {"json": body(image(shape=[1, 2, 2, 3], data=[0] * 12))}, "UINT8 of [n,32,32,3]"),
    ("no batch", {"json": body(image(shape=[32, 32, 3], data=[0] * 3072))}, "rows; from 1 to 16"),
    ("no rows", {"json": body(image(shape=[0, 32, 32, 3], data=[]))}, "its sides are 1 or more"),
    ("a single value", {"json": body(image(shape=[], data=1))}, "a single value"),
    ("many rows", {"json": body(image(shape=[17], data=["x"] * 17, datatype="BYTES"))}, "has 17 rows; from 1 to 16"),
    ("an empty image", {"json": body(image(shape=[1], data=[""], datatype="BYTES"))}, "image 1 is empty"),
    ("an unknown output", {"json": body(outputs=wanted("cat"))}, "no output 'cat'; it has probabilities"),
    ("an output twice", {"json": body(outputs=wanted() * 2)}, "asked for twice"),
    ("negative classes", {"json": body(outputs=wanted(classification=-1))}, "classification is a whole number"),
    ("too many classes", {"json": body(outputs=wanted(classification=1 << 40))}, "at most"),
    ("classes as a switch", {"json": body(outputs=wanted(classification=True))}, "classification is a whole number"),
    ("binary as a word", {"json": body(outputs=wanted(binary_data="yes"))}, "binary_data is true or false"),
    ("binary as a number", {"json": body(parameters={"binary_data_output": 1})}, "binary_data_output is true or"),
    ("a negative timeout", {"json": body(parameters={"timeout": -1})}, "timeout is a whole number"),
    ("a huge timeout", {"json": body(parameters={"timeout": 10**30})}, "timeout is a whole number"),
    ("half a priority", {"json": body(parameters={"priority": 0.5})}, "priority is a whole number"),
    ("a sequence", {"json": body(parameters={"sequence_id": 1})}, "Sequences are not served"),
    ("shared memory", {"json": body(image(parameters={"shared_memory_region": "x"}))}, "Shared memory is not"),
    ("shared memory out", {"json": body(outputs=wanted(shared_memory_region="x"))}, "Shared memory is not"),
    ("a length that is none", {"data": b"{}", "headers": {http.JSON_LENGTH: "-1"}}, "is a number of bytes"),
    ("a length too long", {"data": b"{}", "headers": {http.JSON_LENGTH: "3"}}, "and the body has 2 bytes"),
    ("bytes of nobody", packed(body(), b"x"), "no input has a binary_data_size"),
    ("both", packed(body(image(parameters={"binary_data_size": 1})), b"x"), "has both data and binary_data_size"),
    ("an encoding", {"json": body(), "headers": {"Content-Encoding": "gzip"}}, "Content-Encoding"),
]


async def test_what_every_mistake_is_told(on: Node) -> None:
    wrong = {}
    for name, sent, said in BAD:
        status, document, headers = await on.post(INFER, **sent)
        if (status, [*document]) != (400, ["error"]) or said not in document["error"]:
            wrong[name] = (status, document)
        assert headers["Shoal-Code"] in ("invalid_request", "empty_body"), name
    assert wrong == {}
    assert on.counted("shoal_images_total", model="fake@1") == 0


@pytest.mark.parametrize(
    ("size", "raw", "said"),
    [
        (4, b"123", "its binary_data_size is 4, and 3 bytes follow"),
        (3, b"123", "has 3 bytes; UINT8 of shape [1,32,32,3] has 3072"),
        (True, b"1", "its binary_data_size is True"),
        ("3", b"123", "its binary_data_size is 3"),
    ],
)
async def test_raw_bytes_that_do_not_fit(on: Node, size: Any, raw: bytes, said: str) -> None:
    given = {"name": "image", "shape": SHAPE, "datatype": "UINT8", "parameters": {"binary_data_size": size}}
    status, document, _ = await on.post(INFER, **packed(body(given), raw))
    assert (status, said in document["error"]) == (400, True), document


@pytest.mark.parametrize(
    ("data", "status", "code"), [(b"nothing", 415, "unsupported_image"), (photo(1)[:600], 422, "invalid_image")]
)
async def test_pictures_that_are_none(on: Node, data: bytes, status: int, code: str) -> None:
    got, document, headers = await on.post(INFER, data=data, headers={http.JSON_LENGTH: "0"})
    assert (got, headers["Shoal-Code"], [*document]) == (status, code, ["error"])


@given(
    junk=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "inputs",
                        "name",
                        "shape",
                        "datatype",
                        "data",
                        "parameters",
                        "outputs",
                        "id",
                        "image",
                        "binary_data_size",
                    ]
                ),
                inner,
            )
        ),
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_no_junk_is_an_internal_error(on: Node, junk: Any) -> None:
    status, document, _ = await on.post(INFER, data=json.dumps(junk).encode())
    assert (status, [*document]) == (400, ["error"])
