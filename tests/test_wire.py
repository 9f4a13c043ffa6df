"""The wire types: what is packed comes back, and versions N and N+1 understand each other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shoal.wire import (
    ENVELOPE_VERSION,
    ImageInput,
    Job,
    LoadReport,
    ModelCard,
    ModelLoad,
    ModelState,
    NodeState,
    Reply,
    Tensor,
    model_key,
    pack,
    unpack_job,
    unpack_reply,
)

LEAST_JOB = Job(id="a", inputs={}, waiters=[], submitted=1.5, remaining_ms=2500, request_id="r")
FULL_JOB = Job(
    id="b",
    inputs={"image": Tensor("uint8", (2, 2, 3), bytes(range(12))), "μ": Tensor("float32", (), b"\0\0\x80?")},
    waiters=["front-1", "front-2"],
    submitted=12345.678,
    remaining_ms=30_000,
    request_id="request-1",
    trace_id="trace",
    subject="alice",
    priority="bulk",
    group="g",
    options={"top_k": 3, "nested": {"list": [1, 2.5, None, True, "é"]}},
)
REPLIES = [
    Reply(job="a"),
    Reply(job="a", code="model_failed", message="It raised.", attempt=3, process="p-1"),
    Reply(job="a", answer={"predictions": [{"label": "beagle", "probability": 0.9}]}, queue_ms=1.25, batch_size=8),
]
CARD = ModelCard("digits", "1", "ab" * 32, "classification", ImageInput("image", 28, 28, "squash"), 32)
STATES = [
    NodeState(),
    NodeState(draining=True, models={"digits@1": ModelState("failed", reason="out of memory")}),
    NodeState(models={CARD.key: ModelState("ready", CARD, processes=2, seconds_per_image=0.004)}),
]
REPORTS = [
    LoadReport("w", "w-1"),
    LoadReport(
        "w",
        "w-1",
        measured=1.5,
        draining=True,
        models={"digits@1": ModelLoad("ready", 3, 1, 512, 9, 8, 7, 0.01, 0.5, "ab", "classification")},
    ),
]


@pytest.mark.parametrize("job", [LEAST_JOB, FULL_JOB])
def test_a_job_comes_back(job: Job) -> None:
    assert unpack_job(pack(job)) == job


@pytest.mark.parametrize("reply", REPLIES)
def test_a_reply_comes_back(reply: Reply) -> None:
    assert unpack_reply(pack(reply)) == reply


@pytest.mark.parametrize("value", [*STATES, *REPORTS])
def test_states_and_reports_come_back_through_json(value: NodeState | LoadReport) -> None:
    assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value


@pytest.mark.parametrize("value", [LEAST_JOB, FULL_JOB, *REPLIES])
def test_the_next_version_s_fields_are_ignored(value: Job | Reply) -> None:
    # Given an envelope of version N+1, with fields that this version does not know
    document = msgspec.msgpack.decode(pack(value)) | {"v": 2, "shm": {"name": "/x", "size": 7}, "later": [1]}
    data = msgspec.msgpack.encode(document)
    # Then the known ones are read all the same
    read = unpack_job(data) if isinstance(value, Job) else unpack_reply(data)
    assert read.v == 2
    assert msgspec.structs.replace(read, v=ENVELOPE_VERSION) == value


@pytest.mark.parametrize(
    ("document", "field", "expected"),
    [
        ({}, "draining", False),
        ({}, "models", {}),
        ({"draining": True, "zones": ["a"]}, "draining", True),
    ],
)
def test_a_report_of_another_version_is_read(document: dict[str, Any], field: str, expected: object) -> None:
    data = msgspec.json.encode({"worker": "w", "incarnation": "i"} | document)
    assert getattr(msgspec.json.decode(data, type=LoadReport), field) == expected


@pytest.mark.parametrize(
    ("field", "expected"),
    [("v", ENVELOPE_VERSION), ("payload", "inline"), ("priority", "interactive"), ("options", {}), ("subject", "")],
)
def test_missing_fields_have_their_defaults(field: str, expected: object) -> None:
    document = msgspec.msgpack.decode(pack(LEAST_JOB))
    assert field not in document
    assert getattr(unpack_job(msgspec.msgpack.encode(document)), field) == expected


def test_defaults_are_not_shared() -> None:
    first, second = unpack_job(pack(LEAST_JOB)), unpack_job(pack(LEAST_JOB))
    first.options["top_k"] = 3
    assert second.options == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"not msgpack",
        pack(FULL_JOB)[:-1],
        pack(FULL_JOB) + b"\0",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode({"id": "a"}),
        msgspec.msgpack.encode({"job": 7}),
        msgspec.msgpack.encode(msgspec.msgpack.decode(pack(LEAST_JOB)) | {"remaining_ms": "soon"}),
        b"\x91" * 100_000,
    ],
)
def test_garbage_is_a_decode_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        unpack_job(data)
    with pytest.raises(msgspec.DecodeError):
        unpack_reply(data)


def test_a_deadline_counts_from_the_submission() -> None:
    assert LEAST_JOB.deadline == 4.0


def test_a_model_version_has_one_name() -> None:
    assert CARD.key == model_key("digits", "1") == "digits@1"
