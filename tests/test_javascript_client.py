"""``shoal.js`` in a real Chromium: what it does when a worker is not reached, refuses, or takes too long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browsers import Browser, chromium
from tests.clusters import Cluster
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

# A fetch that answers from a script, in order, and remembers what it was asked.
SCRIPTED = """
const asked = [];
const scripted = (...answers) => async (url, options = {}) => {
  const { pathname, searchParams: query } = new URL(url);
  const { headers = {}, body, signal } = options;
  asked.push({ path: pathname, query: Object.fromEntries(query), headers, isForm: body instanceof FormData });
  const answer = answers.shift();
  if (answer === "unreachable") throw new TypeError("Failed to fetch");
  const aborted = (reject) => signal.addEventListener("abort", () => reject(signal.reason));
  if (answer === "hangs") await new Promise((_, reject) => aborted(reject));
  const { status = 200, headers: said = {}, ...document } = answer;
  return new Response(JSON.stringify(document), { status, headers: said });
};
const where = (name) => ({ incarnation: name, url: `https://${name}.example.org/predict`, ticket: `ticket-${name}` });
const answer = {
  success: true, predictions: [], model: "fake", version: "1", worker: "w", request_id: "r",
  timings: { receive: 1, wait: 10, queue: 3, inference: 5 },
};
const refusal = (status, code, retryable, headers = {}) =>
  ({ status, headers, success: false, error: { code, message: `It is ${code}.`, request_id: "r1", retryable } });
const image = new Blob(["an image"], { type: "image/jpeg" });
const told = (error) => {
  const { code, status, retryable, requestId, retryAfter } = error;
  return { code, status, retryable, requestId, retryAfter, isOurs: error instanceof ShoalError };
};
const call = async (answers, options = {}) => {
  const shoal = new Shoal("https://gateway.example.org/", { apiKey: "secret", fetch: scripted(...answers) });
  const began = performance.now();
  const outcome = await shoal.predict(image, options).catch((error) => ({ error: told(error) }));
  return { ...outcome, asked, ms: performance.now() - began };
};
"""


@pytest.fixture(scope="module")
def browser(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as window:
        window.driver.get(f"{cluster.gateway}/page/icon.svg")  # our own origin, and no page of ours
        yield window


def call(browser: Browser, arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = browser.module(f"{SCRIPTED} return call({arguments})")
    assert "unexpected" not in found, found
    return found


def paths(found: dict[str, Any]) -> list[str]:
    return [asked["path"] for asked in found["asked"]]


def test_lookup_then_upload(browser: Browser) -> None:
    found = call(browser, "[where('w1'), answer], { model: 'fake', label: 'stable', top_k: 3, options: { a: 0.5 } }")
    lookup, upload = found["asked"]
    assert lookup["query"] == {"model": "fake", "label": "stable"}
    assert lookup["headers"] == {"Authorization": "Bearer secret"}
    assert upload["query"] == {"ticket": "ticket-w1", "a": "0.5", "top_k": "3"}
    assert (upload["headers"], upload["isForm"]) == ({}, True), "no key for a worker, and no preflight"
    assert (found["way"], found["worker"], found["requestId"]) == ("direct", "w", "r")
    stages = {timing["stage"]: timing["ms"] for timing in found["timings"]}
    assert list(stages) == ["lookup", "network", "receive", "queue", "inference", "reply", "total"]
    assert stages["reply"] == 2


def test_a_worker_that_is_not_reached_leaves_the_gateway(browser: Browser) -> None:
    found = call(browser, "[where('w1'), 'unreachable', answer], { model: 'fake' }")
    assert paths(found) == ["/lookup", "/predict", "/predict"]
    assert found["way"] == "proxy"
    proxied = found["asked"][2]
    assert proxied["headers"]["Authorization"] == "Bearer secret"
    assert proxied["headers"]["Shoal-Uploads"] == "1", "it may have been executed"
    assert proxied["headers"]["Content-Type"] == "image/jpeg"
    assert proxied["query"] == {"model": "fake"}


def test_direct_is_direct(browser: Browser) -> None:
    found = call(browser, "[where('w1'), 'unreachable', where('w2'), 'unreachable'], { mode: 'direct' }")
    assert paths(found) == ["/lookup", "/predict"] * 2
    assert found["asked"][2]["query"] == {"exclude": "w1"}
    assert found["error"] == {
        "code": "connection_failed",
        "status": 0,
        "retryable": True,
        "requestId": "",
        "retryAfter": None,
        "isOurs": True,
    }


def test_proxy_asks_for_no_worker(browser: Browser) -> None:
    found = call(browser, "[answer], { mode: 'proxy', timeout: 5000 }")
    assert paths(found) == ["/predict"]
    assert 0 < int(found["asked"][0]["headers"]["Shoal-Timeout-Ms"]) <= 5000


def test_what_may_be_retried_is_retried_once_elsewhere(browser: Browser) -> None:
    found = call(browser, "[where('w1'), refusal(401, 'expired_ticket', true), where('w2'), answer]")
    assert paths(found) == ["/lookup", "/predict"] * 2
    assert found["asked"][2]["query"] == {"exclude": "w1"}
    assert found["asked"][3]["query"]["ticket"] == "ticket-w2"
    again = call(browser, "[where('w1'), refusal(503, 'draining', true), where('w2'), refusal(503, 'draining', true)]")
    assert again["error"]["code"] == "draining"
    assert len(again["asked"]) == 4


def test_retry_after_is_waited_for(browser: Browser) -> None:
    found = call(browser, "[where('w'), refusal(429, 'queue_full', true, { 'Retry-After': '1' }), where('w'), answer]")
    assert found["way"] == "direct"
    assert found["ms"] >= 1000
    late = call(browser, "[refusal(429, 'queue_full', true, { 'Retry-After': '9' })], { timeout: 50 }")
    assert late["error"]["code"] == "deadline_exceeded"


def test_what_is_final_is_final(browser: Browser) -> None:
    found = call(browser, "[where('w'), refusal(422, 'invalid_image', false, { 'X-Request-ID': 'x' })]")
    assert found["error"] == {
        "code": "invalid_image",
        "status": 422,
        "retryable": False,
        "requestId": "r1",
        "retryAfter": None,
        "isOurs": True,
    }
    assert len(found["asked"]) == 2


def test_a_deadline_ends_everything(browser: Browser) -> None:
    found = call(browser, "[where('w'), 'hangs'], { timeout: 100 }")
    assert found["error"]["code"] == "deadline_exceeded"


def test_who_gives_up_gets_his_own_reason(browser: Browser) -> None:
    told = browser.module(
        f"{SCRIPTED} const stop = new AbortController();"
        "setTimeout(() => stop.abort(new Error('enough')), 50);"
        "const shoal = new Shoal('https://g.example.org', { fetch: scripted(where('w'), 'hangs') });"
        "return shoal.predict(image, { signal: stop.signal }).catch((error) => error.message)"
    )
    assert told == "enough"


def test_a_page_elsewhere_is_not_lied_to(browser: Browser) -> None:
    found = call(browser, "[{ status: 502, nonsense: true }], { mode: 'proxy' }")
    assert found["error"]["code"] == "bad_gateway"


@pytest.mark.parametrize("mode", ["direct", "proxy"])
def test_against_a_cluster(browser: Browser, cluster: Cluster, mode: str) -> None:
    found = browser.module(
        "const shoal = new Shoal(location.origin, { apiKey: given[0] });"
        "const image = new Blob([Uint8Array.from(given[1])], { type: 'image/png' });"
        "return shoal.predict(image, { model: 'fake', top_k: 1, mode: given[2] })",
        cluster.api_key,
        [*photo(51, kind="PNG")],
        mode,
    )
    assert found["way"] == mode
    assert [p["label"] for p in found["answer"]["predictions"]] == [fake_label(photo(51, kind="PNG"))]


def test_a_url_goes_as_json(browser: Browser, cluster: Cluster) -> None:
    codes = browser.module(
        "const shoal = new Shoal(location.origin, { apiKey: given[0] });"
        "const picture = { url: 'https://example.org/a.png' };"
        "const ask = (mode) => shoal.predict(picture, { mode }).catch((error) => error.code);"
        "return Promise.all([ask('direct'), ask('proxy')])",
        cluster.api_key,
    )
    assert codes == ["url_disabled", "url_disabled"]


def test_events_come_until_one_leaves(browser: Browser, cluster: Cluster) -> None:
    heard = browser.module(
        "const shoal = new Shoal(location.origin, { apiKey: given[0] }); const heard = [];"
        "for await (const { event, data } of shoal.events()) {"
        "  heard.push([event, data]); if (heard.length === 2) return heard; }",
        cluster.api_key,
    )
    assert heard[0] == ["hello", {"name": "local", "admin": True}]
    assert heard[1][0] == "state"
    assert {worker["name"] for worker in heard[1][1]["workers"]} == {"worker1", "worker2"}
    refusal = browser.module(
        "return new Shoal(location.origin, { apiKey: 'no' }).events().next().catch((error) => error.code)"
    )
    assert refusal == "invalid_key"
