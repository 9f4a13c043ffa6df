"""Photos and ready-made arrays, for answers and for the network's own outputs: mixed in a batch and in a queue."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from shoal.metrics import ModelMetrics
from shoal.service import Stop
from shoal.wire import ImageInput, Job, ModelCard, Output, Reply, Tensor, unpack_reply
from tests.redis_servers import RedisServer
from worker.model_process import Executor
from worker.models.fake import label_of, load
from worker.models.manifest import Input
from worker.models.network_runtime import NetworkRuntime
from worker.models.networks import Loaded, Spec
from worker.models.runtime import Array, Asked, OutOfMemory, Outputs, Runtime
from worker.models.tasks import tensors
from worker.queue import Queue

MOST = 16
KEY = "sums@1"
CARD = ModelCard("sums", "1", "d", "tensors", ImageInput("image", 2, 2, channels=1), MOST)
RAISES, DOES_NOT_FIT = -666.0, -777.0
ANSWERED, RAW, TALL, LAST, CLASSED = None, (), (Output("tall"),), (Output("sums"),), (Output("sums", 2),)
ASKS = (ANSWERED, RAW, TALL, LAST, CLASSED)


@dataclass
class Sums:
    """A network that gives sums, and may be told by its input to raise or to have no memory. It counts."""

    seen: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, batch: Array) -> dict[str, Array]:
        self.seen.append(batch.shape)
        if (batch == RAISES).any():
            raise RuntimeError("told to raise")
        if (batch == DOES_NOT_FIT).any():
            raise OutOfMemory("told to have none")
        sums = np.stack([batch.sum((1, 2, 3)), batch[:, 0, 0, 0]], axis=1)
        return {"sums": sums, "tall": np.full(len(batch), batch.shape[1], np.int64)}


def runtime(sums: Sums, **hooks: Any) -> NetworkRuntime:
    """It takes photos of 2 x 2, halved, and arrays of any height."""
    outputs = (Spec("sums", "float32", (-1, 2)), Spec("tall", "int64", (-1,)))
    network = Loaded((Spec("pixels", "float32", (-1, -1, 2, 1)),), outputs, sums)
    wanted = Input(height=2, width=2, channels=1, scale=0.5)
    return NetworkRuntime(CARD, network, wanted, tensors.build(tensors.Settings(), (), outputs, CARD.input), **hooks)


def photo(number: int) -> Array:
    return np.full((2, 2, 1), number, np.uint8)


def expected(row: Array, outputs: Sequence[Output] | None) -> dict[str, Any]:
    """What the network gives for one of its own rows, as lists."""
    sums, tall = [float(row.sum()), float(row[0, 0, 0])], row.shape[0]
    if outputs is None:
        return {
            "outputs": {
                "sums": {"dtype": "float32", "shape": [2], "data": sums},
                "tall": {"dtype": "int64", "shape": [], "data": tall},
            }
        }
    ranked = sorted(range(2), key=lambda index: (-sums[index], index))
    forms = {
        ("sums", 0): sums,
        ("tall", 0): tall,
        ("sums", 2): [f"{sums[index]}:{index}".encode() for index in ranked],
    }
    return {output.name: forms[output.name, output.classes] for output in outputs or (Output("sums"), Output("tall"))}


def as_lists(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in answer.items()} if isinstance(answer, Outputs) else answer


# --- one batch -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 255), st.sampled_from(ASKS)), min_size=1, max_size=MOST))
def test_photos_for_answers_and_for_outputs_are_one_execution(asked: list[tuple[int, Any]]) -> None:
    sums = Sums()
    answers = runtime(sums).run(
        np.stack([photo(number) for number, _ in asked]), [Asked(outputs=outputs) for _, outputs in asked]
    )
    assert list(map(as_lists, answers)) == [expected(photo(number) / 2, outputs) for number, outputs in asked]
    assert sums.seen == [(len(asked), 2, 2, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 10**4), st.sampled_from(ASKS[1:])), min_size=1, max_size=MOST), st.integers(1, 4)
)
def test_ready_made_arrays_go_in_as_they_are(asked: list[tuple[int, Any]], height: int) -> None:
    rows = [np.full((height, 2, 1), number, np.float32) for number, _ in asked]
    answers = runtime(Sums()).run(np.stack(rows), [Asked(outputs=outputs) for _, outputs in asked])
    assert list(map(as_lists, answers)) == [
        expected(row, outputs) for row, (_, outputs) in zip(rows, asked, strict=True)
    ]


def test_what_is_not_finite_comes_back_as_it_is() -> None:
    rows = np.array([np.nan, np.inf, 1], np.float32).reshape(3, 1, 1, 1).repeat(2, axis=2)
    found = runtime(Sums()).run(rows, [Asked(outputs=LAST)] * 3)
    assert np.array_equal([one["sums"][1] for one in found], [np.nan, np.inf, 1], equal_nan=True)


def test_an_output_that_is_not_finite_spoils_only_the_answers_made_of_it() -> None:
    def infinite(batch: Array) -> dict[str, Array]:
        return {"sums": np.where(batch[:, :2, 0, 0] > 100, np.inf, 1), "tall": batch[:, 0, 0, 0].astype(np.int64)}

    model = runtime(Sums())
    model._batches._network = Loaded(tuple(model.network.inputs), tuple(model.network.outputs), infinite)
    batch = np.stack([photo(1), photo(255)])
    answered, raw = model.run(batch, [Asked(), Asked(outputs=LAST)])
    assert answered["outputs"]["sums"]["data"] == [1, 1]
    assert raw["sums"].tolist() == [np.inf, np.inf]
    with pytest.raises(ValueError, match="not finite"):
        model.run(batch, [Asked(), Asked()])


def test_hooks_see_photos_before_and_answers_after_and_nothing_else() -> None:
    def before(images: Array, asked: Sequence[Asked]) -> Array:
        return images + np.uint8(len(asked))

    def after(answers: list[dict[str, Any]], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        assert [one.outputs for one in asked] == [None] * len(answers)
        return [{"of": len(answers), **answer} for answer in answers]

    model = runtime(Sums(), before=before, after=after)
    batch = np.stack([photo(1), photo(3), photo(5)])
    first, raw, last = model.run(batch, [Asked(), Asked(outputs=LAST), Asked()])
    assert first == {"of": 2, **expected(photo(4) / 2, None)}
    assert as_lists(raw) == expected(photo(6) / 2, LAST)
    assert last == {"of": 2, **expected(photo(8) / 2, None)}
    (ready,) = model.run(np.ones((1, 2, 2, 1), np.float32), [Asked(outputs=LAST)])
    assert as_lists(ready) == expected(np.ones((2, 2, 1)), LAST)


@pytest.mark.parametrize(
    ("batch", "outputs", "says"),
    [
        (np.zeros((1, 0, 2, 1), np.float32), RAW, "does not fit"),
        (np.zeros((1, 2, 3, 1), np.float32), RAW, "does not fit"),
        (np.zeros((1, 2, 2), np.float32), RAW, "does not fit"),
        (np.zeros((1, 2, 2, 1), np.float64), RAW, "does not fit"),
        (np.zeros((1, 3, 2, 1), np.uint8), RAW, "does not fit"),
        (np.zeros((MOST + 1, 2, 2, 1), np.float32), RAW, "does not fit"),
        (np.zeros((1, 2, 2, 1), np.float32), ANSWERED, "are answered with the network's own outputs"),
        (np.zeros((1, 2, 2, 1), np.float32), (Output("summs"),), "there is no output 'summs', there are sums, tall"),
    ],
)
def test_what_does_not_fit_is_refused(batch: Array, outputs: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        runtime(Sums()).run(batch, [Asked(outputs=outputs)] * len(batch))


def test_the_card_says_what_the_network_takes_and_gives() -> None:
    card = runtime(Sums()).card
    assert card.tensor is not None
    assert (card.tensor.name, card.tensor.dtype, card.tensor.shape) == ("pixels", "float32", (-1, 2, 1))
    assert [(o.name, o.dtype, o.shape) for o in card.outputs] == [("sums", "float32", (2,)), ("tall", "int64", ())]
    assert msgspec.convert(json.loads(msgspec.json.encode(card)), ModelCard) == card


def test_the_fake_gives_its_probabilities() -> None:
    model = load(version="1")
    assert (model.card.tensor, model.card.platform) == (None, "shoal_fake")
    (output,) = model.card.outputs
    image = np.zeros((1, 32, 32, 3), np.uint8)
    (answer,) = model.run(image, [Asked()])
    values = np.array([p["probability"] for p in answer["predictions"]], np.float32)
    raw, best = model.run(image.repeat(2, axis=0), [Asked(outputs=()), Asked(outputs=(Output("probabilities", 1),))])
    assert (output.name, output.dtype, output.shape) == ("probabilities", "float32", raw["probabilities"].shape)
    assert raw["probabilities"].tolist() == values.tolist()
    assert best["probabilities"].tolist() == [f"{values[0]!s}:0:{label_of(image[0])}".encode()]


# --- the queue -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def queue(valkey: RedisServer) -> AsyncIterator[Queue]:
    async with Queue.connect(str(valkey.socket)) as connected:
        await connected.prepare(KEY)
        yield connected
        await connected.forget_model(KEY)
        await connected.forget_front("front")


async def submit(queue: Queue, name: str, array: Array, outputs: Sequence[Output] | None, **more: Any) -> None:
    job = Job(
        name,
        {"image": Tensor(array.dtype.name, array.shape, array.tobytes())},
        ["front"],
        submitted=time.monotonic(),
        remaining_ms=30_000,
        request_id=name,
        outputs=None if outputs is None else tuple(outputs),
        **more,
    )
    await queue.submit(KEY, job, capacity=1000, capacity_bytes=1 << 30)


async def replies(queue: Queue, count: int) -> dict[str, Reply]:
    found: dict[str, Reply] = {}
    after = b"0-0"
    async with asyncio.timeout(20):
        while len(found) < count:
            after, packed = await queue.replies("front", after, 1.0)
            found |= {reply.job: reply for reply in map(unpack_reply, packed)}
    return found


@asynccontextmanager
async def serving(model: Runtime, queue: Queue) -> AsyncIterator[CollectorRegistry]:
    registry, stop = CollectorRegistry(), Stop()
    executor = Executor(model, queue, f"{KEY}/p", ModelMetrics(registry), size=MOST)
    task = asyncio.create_task(executor.serve(stop))
    yield registry
    stop.request()
    await task
    executor.close()


def read(reply: Reply) -> dict[str, Any]:
    """The outputs of a reply as lists, by another way than the product's."""
    found: dict[str, Any] = {}
    for name, tensor in reply.outputs.items():
        if tensor.dtype != "bytes":
            found[name] = np.frombuffer(tensor.data, np.dtype(tensor.dtype)).reshape(tensor.shape).tolist()
            continue
        found[name], rest = [], tensor.data
        while rest:
            end = 4 + int.from_bytes(rest[:4], "little")
            found[name].append(rest[4:end])
            rest = rest[end:]
    return found


KINDS: Sequence[Callable[[int], tuple[Array, Array]]] = (
    lambda number: (photo(number), photo(number) / 2),
    lambda number: (np.full((2, 2, 1), number, np.float32),) * 2,
    lambda number: (np.full((3, 2, 1), -number, np.float32),) * 2,
)


@pytest.mark.parametrize("seed", range(4))
async def test_each_caller_gets_what_it_asked_for_of_its_own_input(seed: int, queue: Queue) -> None:
    random = np.random.default_rng(seed)
    wants: dict[str, Any] = {}
    for number in range(60):
        kind = int(random.integers(3))
        outputs = ASKS[int(random.integers(1 if kind else 0, len(ASKS)))]
        sent, row = KINDS[kind](number)
        wants[f"j{number}"] = expected(row, outputs)
        await submit(queue, f"j{number}", sent, outputs)
    sums = Sums()
    async with serving(runtime(sums), queue) as registry:
        found = await replies(queue, len(wants))
    assert {name: reply.answer or read(reply) for name, reply in found.items()} == wants
    assert {reply.code for reply in found.values()} == {""}
    # Of each claim, no more executions than there are shapes.
    assert len(sums.seen) <= 3 * -(-len(wants) // MOST)
    assert sum(size for size, *_ in sums.seen) == len(wants)
    counted = {
        size: registry.get_sample_value("shoal_executions_total", {"model": KEY, "size": str(size)}) or 0
        for size in range(1, MOST + 1)
    }
    assert counted == {size: sum(seen[0] == size for seen in sums.seen) for size in counted}
    for size, count in counted.items():
        seconds = registry.get_sample_value("shoal_execution_seconds_total", {"model": KEY, "size": str(size)})
        assert (seconds or 0) > 0 if count else seconds is None


async def test_a_job_that_does_not_fit_costs_nobody_else_anything(queue: Queue) -> None:
    good = np.ones((2, 2, 1), np.float32)
    await submit(queue, "photo", photo(2), ANSWERED)
    await submit(queue, "wide", np.ones((2, 3, 1), np.float32), RAW)
    await submit(queue, "empty", np.ones((0, 2, 1), np.float32), RAW)
    await submit(queue, "doubles", np.ones((2, 2, 1)), RAW)
    await submit(queue, "stranger", good, (Output("summs"),))
    await submit(queue, "unasked", good, ANSWERED)
    await submit(queue, "array", good, LAST)
    sums = Sums()
    async with serving(runtime(sums), queue):
        found = await replies(queue, 7)
    assert found["photo"].answer == expected(photo(2) / 2, None)
    assert read(found["array"]) == expected(good, LAST)
    assert sums.seen == [(1, 2, 2, 1)] * 2
    bad = {name: reply.message for name, reply in found.items() if reply.code}
    assert bad.keys() == {"wide", "empty", "doubles", "stranger", "unasked"}
    assert {found[name].code for name in bad} == {"model_failed"}
    assert bad["wide"] == (
        "The job does not fit the model: image is float32 (2, 3, 1), not uint8 (2, 2, 1), nor float32 (any, 2, 1)."
    )
    assert bad["stranger"] == "The job does not fit the model: it has no output 'summs', there are sums, tall."


async def test_an_array_that_makes_the_network_raise_fails_alone(queue: Queue) -> None:
    for number in range(6):
        await submit(queue, f"j{number}", np.full((2, 2, 1), RAISES if number == 4 else number, np.float32), LAST)
    async with serving(runtime(Sums()), queue):
        found = await replies(queue, 6)
    assert {name for name, reply in found.items() if reply.code == "model_failed"} == {"j4"}
    assert read(found["j5"]) == expected(np.full((2, 2, 1), 5), LAST)


async def test_an_array_too_large_for_the_device_makes_nobody_elses_batches_smaller(queue: Queue) -> None:
    for number in range(3):
        await submit(queue, f"large{number}", np.full((9, 2, 1), DOES_NOT_FIT, np.float32), RAW)
    sums = Sums()
    for number in range(MOST - 3):
        await submit(queue, f"j{number}", photo(number), ANSWERED)
    for number in range(MOST):
        await submit(queue, f"later{number}", photo(number), ANSWERED)
    async with serving(runtime(sums), queue):
        found = await replies(queue, 2 * MOST)
    assert {name for name, reply in found.items() if reply.code} == {"large0", "large1", "large2"}
    assert [shape[0] for shape in sums.seen if shape[1] == 2] == [MOST - 3, MOST]


class Deaf:
    """A model that gives what was not asked for."""

    card = runtime(Sums()).card

    def warm_up(self) -> None:
        """Nothing to do."""

    def run(self, batch: Array, asked: Sequence[Asked]) -> list[dict[str, Any]]:
        return [{"deaf": True} if one.outputs is not None else Outputs() for one in asked]


async def test_a_model_that_gives_what_was_not_asked_for_has_failed(queue: Queue) -> None:
    await submit(queue, "answer", photo(1), ANSWERED)
    await submit(queue, "raw", photo(1), RAW)
    async with serving(Deaf(), queue):
        found = await replies(queue, 2)
    assert {name: (reply.code, reply.answer, reply.outputs) for name, reply in found.items()} == {
        name: ("model_failed", None, {}) for name in ("answer", "raw")
    }


async def test_heartbeats_count_as_no_execution_of_any_size(queue: Queue) -> None:
    await submit(queue, "beat", photo(0), ANSWERED, heartbeat=True)
    async with serving(runtime(Sums()), queue) as registry:
        await replies(queue, 1)
    assert registry.get_sample_value("shoal_executions_total", {"model": KEY, "size": "1"}) is None
