"""What a gateway answers to nginx's questions where an upload goes, asked here as nginx asks them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.forwarding import Outcome, State
from shoal import forwarding
from shoal.errors import InvalidRequest
from tests.test_fleet import load
from tests.test_gateway import Door, Recorder, both, door

# As nginx writes them: what is not of the last hop is of those before.
REFUSED = "204 : 429;0.000 : 0.000;0.013 : 0.019;queue_full;3"
REFUSED_AGAIN = "204 : 429 : 204 : 429;0.000 : 0.000 : 0.000 : 0.000;0.013 : 0.019 : 0.003 : 0.011;queue_full;3"
NOT_REACHED = "204 : 502;0.000 : -;0.001 : -;;"
NOT_KNOWN = "204 : ;0.000 : ;0.006 : ;;"  # a name, and nginx has nobody who knows it
BROKEN = "204 : 502;0.000 : 0.000;0.002 : -;;"
SILENT = "204 : 504;0.000 : 0.001;0.001 : -;;"
LATE = "204 : 504;0.000 : 0.000;0.002 : 2.000;deadline_exceeded;"


async def ask(
    d: Door, path: str = "/predict", *, state: str = "", outcome: str = "", **headers: str
) -> tuple[int, Mapping[str, str], Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    sent |= {forwarding.STATE: state, forwarding.OUTCOME: outcome}
    async with d.session.get(f"{d.internal}/forward{path}", headers=sent) as response:
        body = await response.read()
        return response.status, response.headers, json.loads(body) if body else None


def named(d: Door, headers: Mapping[str, str]) -> str:
    """The worker that an answer names."""
    (found,) = [worker.name for worker in d.workers if worker.url == headers[forwarding.WORKER]]
    return found


async def test_an_upload_goes_to_a_worker_with_a_ticket_for_it(tmp_path: Path) -> None:
    async with door(tmp_path, both("a")) as d:
        query = "?model=digits&version=1&key=k&priority=bulk&exclude=x&ticket=t&top_k=3&new=%C3%BC%26"
        status, told, body = await ask(d, f"/predict{query}", Accept="image/png", X_Other="mine", X_Request_ID="one")
        assert (status, body, told.get("Content-Length", "0")) == (204, None, "0")
        assert told["X-Accel-Redirect"].startswith("@worker_")
        assert named(d, told) == "a"
        assert told[forwarding.PATH] == "/predict?top_k=3&new=%C3%BC%26"
        passed = {name: told[forwarding.header(name)] for name in forwarding.PASSED if forwarding.header(name) in told}
        assert (passed["Accept"], passed["X-Request-ID"]) == ("image/png", "one")
        assert 0 < int(passed["Shoal-Timeout-Ms"]) <= 30_000
        assert not any("other" in name.lower() for name in told)
        async with d.session.post(f"{told[forwarding.WORKER]}/predict", data=b"image", headers=passed) as response:
            assert response.status == 200
    assert d.uploads[0].version == "1"


@pytest.mark.parametrize("path", ["/", "/v2/models/digits/infer", "/v1/models/digits/versions/2:predict"])
async def test_every_path_of_uploads_is_a_question(tmp_path: Path, path: str) -> None:
    async with door(tmp_path, both("a")) as d:
        status, told, _ = await ask(d, path)
    assert (status, told[forwarding.PATH]) == (204, path)


@pytest.mark.parametrize(
    ("text", "outcome", "executed", "code"),
    [
        (REFUSED, Outcome(429, True, True, "queue_full", 3.0), False, "queue_full"),
        (REFUSED_AGAIN, Outcome(429, True, True, "queue_full", 3.0), False, "queue_full"),
        (NOT_REACHED, Outcome(502, False, False), False, "bad_gateway"),
        (NOT_KNOWN, Outcome(502, False, False), False, "bad_gateway"),
        (BROKEN, Outcome(502, True, False), True, "bad_gateway"),
        (SILENT, Outcome(504, True, False), True, "deadline_exceeded"),
        (LATE, Outcome(504, True, True, "deadline_exceeded"), False, "deadline_exceeded"),
        (
            "204, 204 : 503;0, 0 : 0;0, 0 : 0;no_such_code;",
            Outcome(503, True, True, "no_such_code"),
            False,
            "bad_gateway",
        ),
        ("502;-;-;;", Outcome(502, False, False), False, "bad_gateway"),
    ],
)
def test_what_nginx_saw(text: str, outcome: Outcome, executed: bool, code: str) -> None:
    assert Outcome.read(text) == outcome
    assert (outcome.executed, outcome.failure().code) == (executed, code)


@pytest.mark.parametrize("text", [";", "x;-;-;;", "502;-;-", "502;-;-;;soon"])
def test_what_nginx_cannot_have_seen(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Outcome.read(text)


@pytest.mark.parametrize("text", ["{", "[]", '{"tried": 1}'])
def test_no_state(text: str) -> None:
    with pytest.raises(InvalidRequest):
        State.read(text)


@pytest.mark.parametrize(
    ("outcome", "uploads"), [(REFUSED, 0), (NOT_REACHED, 0), (NOT_KNOWN, 0), (BROKEN, 1), (SILENT, 1)]
)
async def test_another_worker_is_named_after_a_failure(tmp_path: Path, outcome: str, uploads: int) -> None:
    async with door(tmp_path, both("a"), both("b")) as d:
        _, first, _ = await ask(d)
        status, second, _ = await ask(d, state=first[forwarding.STATE], outcome=outcome)
    assert status == 204
    assert {named(d, first), named(d, second)} == {"a", "b"}
    state = State.read(second[forwarding.STATE])
    assert (state.tried, state.uploads) == ((f"{named(d, first)}-1", f"{named(d, second)}-1"), uploads)


@pytest.mark.parametrize(("said", "broken"), [("", 2), ("1", 1)])
async def test_two_workers_at_most_may_have_executed_an_upload(tmp_path: Path, said: str, broken: int) -> None:
    """Those of an SDK, which says how many it has tried, are among them."""
    async with door(tmp_path, *map(both, "abcd")) as d:
        status, told, body = await ask(d, Shoal_Uploads=said or "0")
        for _ in range(broken):
            assert status == 204
            status, told, body = await ask(d, state=told[forwarding.STATE], outcome=BROKEN, Shoal_Uploads=said or "0")
    assert (status, body["error"]["code"], told["Shoal-Uploads"]) == (502, "bad_gateway", "2")


async def test_who_refused_is_not_asked_again(tmp_path: Path) -> None:
    async with door(tmp_path, both("a"), both("b")) as d:
        _, told, _ = await ask(d)
        _, told, _ = await ask(d, state=told[forwarding.STATE], outcome=REFUSED)
        status, told, body = await ask(d, state=told[forwarding.STATE], outcome=REFUSED_AGAIN)
        assert (status, body["error"]["code"], told["Retry-After"]) == (429, "queue_full", "3")
        async with d.session.get(f"{d.url}status") as response:
            assert (await response.json())["refusals_per_second"]["digits"] > 0
        async with d.session.get(f"{d.internal}/metrics") as response:
            counted = await response.text()
    assert 'shoal_forwards_total{model="digits@2",result="ok"} 2.0' in counted
    assert 'shoal_forwards_total{model="",result="queue_full"} 1.0' in counted
    assert 'shoal_proxy_retries_total{code="refused"} 2.0' in counted


async def test_a_late_answer_of_a_worker_is_the_answer(tmp_path: Path) -> None:
    async with door(tmp_path, both("a"), both("b")) as d:
        _, told, _ = await ask(d)
        status, _, body = await ask(d, state=told[forwarding.STATE], outcome=LATE)
    assert (status, body["error"]["code"]) == (504, "deadline_exceeded")


async def test_no_worker_is_tried_without_end(tmp_path: Path) -> None:
    async with door(tmp_path, *map(both, "abcdef")) as d:
        status, told, _ = await ask(d)
        questions = 1
        while status == 204:
            status, told, _ = await ask(d, state=told[forwarding.STATE], outcome=NOT_REACHED)
            questions += 1
    assert (status, questions) == (502, 5)


async def test_a_worker_without_room_is_nobodys(tmp_path: Path) -> None:
    full = Recorder("a", {"digits@1": load(10, 0.5)})
    async with door(tmp_path, full) as d:
        status, told, body = await ask(d)
    assert (status, body["error"]["code"], told["Retry-After"]) == (429, "queue_full", "5")
    assert "X-Accel-Redirect" not in told


async def test_what_is_named_counts_as_on_its_way(tmp_path: Path) -> None:
    async with door(tmp_path, both("a"), both("b")) as d:
        workers = [named(d, (await ask(d))[1]) for _ in range(10)]
    assert workers.count("a") == workers.count("b") == 5


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Shoal_Forward_Elapsed": "31"}, 504, "deadline_exceeded"),
        ({"Shoal_Forward_Elapsed": "2", "Shoal_Timeout_Ms": "1500"}, 504, "deadline_exceeded"),
        ({"Shoal_Forward_Elapsed": "soon"}, 400, "invalid_request"),
        ({"Shoal_Forward_Length": "999999999"}, 413, "body_too_large"),
        ({"Content_Encoding": "gzip"}, 400, "invalid_request"),
        ({"Shoal_Timeout_Ms": "0"}, 400, "invalid_option"),
        ({"state": "x"}, 400, "invalid_request"),
    ],
)
async def test_what_is_refused_by_its_head(tmp_path: Path, headers: dict[str, str], status: int, code: str) -> None:
    async with door(tmp_path, both("a")) as d:
        got, _, body = await ask(d, **headers)
    assert (got, body["error"]["code"]) == (status, code)


async def test_what_the_image_decides_goes_through_the_gateway(tmp_path: Path) -> None:
    async with door(tmp_path, both("a", caches=True)) as d:
        _, told, _ = await ask(d, Content_Type="image/jpeg")
        _, form, _ = await ask(d, Content_Type="multipart/form-data; boundary=x")
    assert (told["X-Accel-Redirect"], forwarding.WORKER in told) == ("@proxied", False)
    assert form["X-Accel-Redirect"] != "@proxied"


async def test_a_job_keeps_its_name_at_the_next_worker(tmp_path: Path) -> None:
    job = forwarding.header("Shoal-Job")
    async with door(tmp_path, both("a"), both("b")) as d:
        _, first, _ = await ask(d, Prefer="respond-async", Shoal_Job="mine")
        _, second, _ = await ask(d, Prefer="respond-async", state=first[forwarding.STATE], outcome=BROKEN)
    assert first[job] == second[job] != "mine"


@pytest.mark.parametrize(
    ("depth", "cost", "status", "uploads", "location"),
    [
        (0, 0.001, "ready", 0, "@worker_3"),
        (10, 0.1, "ready", 0, "@worker_10"),  # 2 s, and 4 times 1.1 s
        (10, 0.1, "restarting", 0, "@worker_100"),  # nobody knows how long that takes: all the time there is
        (0, 0.001, "ready", 1, "@worker_100"),
    ],
)
async def test_how_long_nginx_waits(
    tmp_path: Path, depth: int, cost: float, status: Any, uploads: int, location: str
) -> None:
    state = load(depth, cost, capacity=1000, status=status)
    async with door(tmp_path, Recorder("a", {"digits@1": state})) as d:
        _, told, _ = await ask(d, Shoal_Uploads=str(uploads))
    assert told["X-Accel-Redirect"] == location


@pytest.mark.parametrize(
    ("seconds", "location"),
    [(0.1, "@worker_3"), (3, "@worker_3"), (3.1, "@worker_10"), (301, "@worker_310"), (1e6, "@worker_86410")],
)
def test_the_named_locations(seconds: float, location: str) -> None:
    assert forwarding.within(seconds) == location


async def test_clients_reach_no_question(tmp_path: Path) -> None:
    async with door(tmp_path, both("a")) as d, d.session.get(f"{d.url}forward/predict") as response:
        assert response.status == 404
