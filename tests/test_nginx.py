"""A real nginx before a real cluster: a gateway's answers, errors as JSON, and nothing of what is between."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clusters import Cluster, eventually
from tests.nginx_server import Nginx, current_nginx, following, nginx_binary
from tests.photos import fake_label, photo

pytestmark = pytest.mark.cluster

VOLATILE = ("worker", "timings", "batch_size")
HIDDEN = ("shoal-load", "shoal-forward", "x-accel", "authorization")


@pytest.fixture(scope="module", params=[nginx_binary, current_nginx], ids=["distribution", "current"])
def nginx(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Nginx]:
    flags = ("--max-body-bytes", "3000000", "--body-buffer-bytes", "200000", "--streaming", "--nginx", request.param())
    with following("--discovery", str(cluster.document["discovery"]), *flags) as running:
        yield running


def scrubbed(response: requests.Response) -> tuple[int, dict[str, str], Any]:
    """What has to be the same by both ways: status, headers and body, without what differs from time to time."""
    headers = {
        name: response.headers.get(name, "") for name in ("Content-Type", "Shoal-Code", "X-Request-ID", "Retry-After")
    }
    document = response.json() if response.content and "json" in headers["Content-Type"] else response.content
    if isinstance(document, dict):
        document = {name: value for name, value in document.items() if name not in VOLATILE}
    return response.status_code, headers, document


def form(image: bytes) -> dict[str, Any]:
    return {"files": {"image": ("a.jpg", image, "image/jpeg")}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "an image": ("/predict", {"data": photo(1)}),
    "an option": ("/predict?top_k=2", {"data": photo(2)}),
    "a version": ("/predict?model=fake&version=1&key=k&priority=bulk", {"data": photo(2)}),
    "a form": ("/predict", form(photo(3))),
    "pairs": ("/", {"data": photo(4)}),
    "a large one": ("/predict", {"data": photo(5, width=1600, height=1200, kind="BMP")[:2_900_000]}),
    "TensorFlow's": ("/v1/models/fake:predict", {"json": {"instances": [{"b64": "eA=="}]}}),
    "Open Inference": ("/v2/models/fake/infer", {"json": {"inputs": []}}),
    "no image": ("/predict", {"data": b"not an image"}),
    "nothing": ("/predict", {"data": b""}),
    "no such model": ("/predict?model=nobody", {"data": photo(1)}),
    "no such label": ("/predict?model=fake&label=x", {"data": photo(1)}),
    "a wrong option": ("/predict?top_k=many", {"data": photo(1)}),
    "a compressed body": ("/predict", {"data": photo(1), "headers": {"Content-Encoding": "gzip"}}),
    "too little time": ("/predict", {"data": photo(1), "headers": {"Shoal-Timeout-Ms": "0"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_fast_path_answers_as_the_proxy(cluster: Cluster, nginx: Nginx, case: str) -> None:
    path, arguments = CASES[case]
    headers = {**cluster.headers, "X-Request-ID": "mine.1", **arguments.get("headers", {})}
    ours = [
        requests.post(f"{url}{path}", timeout=30, **{**arguments, "headers": headers})
        for url in (nginx.url, cluster.gateway)
    ]
    assert scrubbed(ours[0]) == scrubbed(ours[1])
    assert [name for name in ours[0].headers if name.lower().startswith(HIDDEN)] == []


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nobody"}, {"X-API-Key": "nobody"}])
def test_whoever_has_no_key_is_told_so_as_by_the_proxy(cluster: Cluster, nginx: Nginx, headers: dict[str, str]) -> None:
    said = headers | {"X-Request-ID": "mine.2"}
    by_nginx, by_proxy = (
        requests.post(f"{url}/predict", data=photo(1), headers=said, timeout=30) for url in (nginx.url, cluster.gateway)
    )
    assert scrubbed(by_nginx) == scrubbed(by_proxy)
    assert (by_nginx.status_code, by_nginx.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_other_requests_go_to_a_gateway(cluster: Cluster, nginx: Nginx) -> None:
    def ask(method: str, path: str, **more: Any) -> requests.Response:
        return requests.request(
            method, f"{nginx.url}{path}", headers=cluster.headers, timeout=30, allow_redirects=False, **more
        )

    assert ask("GET", "/lookup").json()["ticket"]
    eventually(
        lambda: {w["state"] for w in ask("GET", "/status").json()["workers"]} == {"ready"},
        within=30,
        what="all workers are ready",
    )
    assert ask("GET", "/").text.startswith("Welcome")
    assert ask("GET", "/predict").status_code == 405
    assert ask("GET", "/openapi.json").json()["openapi"]
    assert ask("GET", "/v2/models/fake/ready").json() == {"name": "fake", "ready": True}
    redirected = ask("POST", "/predict?redirect=1", data=photo(1))
    assert (redirected.status_code, "ticket=" in redirected.headers["Location"]) == (307, True)
    streamed = ask("POST", "/stream/predict", data=photo(7))
    assert streamed.json()["predictions"][0]["label"] == fake_label(photo(7))


def test_a_job_is_accepted_and_its_answer_fetched(cluster: Cluster, nginx: Nginx) -> None:
    headers = {**cluster.headers, "Prefer": "respond-async", "Shoal-Job": "0" * 32}
    accepted = requests.post(f"{nginx.url}/predict", data=photo(8), headers=headers, timeout=30)
    assert (accepted.status_code, accepted.headers["Preference-Applied"]) == (202, "respond-async")
    assert "0" * 32 not in accepted.json()["id"]
    location = nginx.url + accepted.headers["Location"]
    eventually(
        lambda: requests.get(location, headers=cluster.headers, timeout=30).json()["status"] == "done",
        within=20,
        what="the job done",
    )
    result = requests.get(f"{location}/result", headers=cluster.headers, timeout=30).json()
    assert result["predictions"][0]["label"] == fake_label(photo(8))
    assert accepted.json()["id"] not in (nginx.folder / "access.log").read_text()


def test_the_headers_between_us_are_nobody_elses(cluster: Cluster, nginx: Nginx) -> None:
    """Whatever a client writes there, it is as if it had not."""
    incarnations = [
        worker["incarnation"]
        for worker in requests.get(f"{nginx.url}/status", headers=cluster.headers, timeout=30).json()["workers"]
    ]
    injected = {
        "X-Accel-Redirect": "/metrics",
        "Shoal-Forward-State": json.dumps({"tried": incarnations, "uploads": 2}),
        "Shoal-Forward-Outcome": "502;0;-;;",
        "Shoal-Forward-Worker": "http://127.0.0.1:1",
        "Shoal-Forward-Path": "/metrics",
        "Shoal-Forward-Elapsed": "99",
        "Shoal-Forward-Length": "99999999999",
        "Shoal-Exclude": ",".join(incarnations),
        "Shoal-Load": "{}",
    }
    for path in ("/predict", f"/predict?exclude={','.join(incarnations)}"):
        answer = requests.post(f"{nginx.url}{path}", data=photo(9), headers=cluster.headers | injected, timeout=30)
        assert answer.json()["predictions"][0]["label"] == fake_label(photo(9))


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "//metrics", "/%6detrics", "/docs/../metrics", "/targets", "/forward/predict", "/load", "/drain"),
        *("/@again", "/shoal-error/500", "/page/../forward/predict", "/.git/config", "/predict/"),
    ],
)
def test_nothing_internal_is_reachable(nginx: Nginx, path: str) -> None:
    answer = nginx.send(f"GET {path} HTTP/1.0\r\nHost: a\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "unknown_path"


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: a", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "invalid_request"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_request"),
        (head("POST /predict HTTP/1.1", "Content-Length: many"), 400, "invalid_request"),
        (head("POST /predict HTTP/1.1", "Content-Length: 1", "Content-Length: 2"), 400, "invalid_request"),
        (head("POST /predict HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"), 400, "invalid_request"),
        (head("POST /predict HTTP/1.1", "Transfer-Encoding: chunked") + b"zz\r\n", 400, "invalid_request"),
        (head("POST /predict HTTP/1.1", "Transfer-Encoding: gzip"), 501, "invalid_request"),
        (head("GET / HTTP/7.3"), 400, "invalid_request"),
        (head("POST /predict HTTP/1.1", "Content-Length: 3000001"), 413, "body_too_large"),
        (head(f"GET /{'a' * 20_000} HTTP/1.1"), 414, "uri_too_long"),
        (head("GET / HTTP/1.1", f"X: {'a' * 20_000}"), 431, "head_too_large"),
        (head("GET /nothing HTTP/1.1"), 404, "unknown_path"),
    ],
)
def test_what_nginx_refuses_itself_is_our_json(nginx: Nginx, raw: bytes, status: int, code: str) -> None:
    # What aiohttp answers to malformed HTTP is a line of text.
    lines, _, body = nginx.send(raw).partition(b"\r\n\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (h.partition(":") for h in lines.decode().split("\r\n"))
    }
    error = json.loads(body)["error"]
    assert error["code"] == headers["shoal-code"] == code
    expected = 400 if status == 501 else status
    assert int(lines.split()[1]) == expected
    assert error["request_id"] == headers["x-request-id"] != ""
    assert "nginx/" not in lines.decode()


def test_foreign_paths_have_their_own_errors(nginx: Nginx) -> None:
    raw = head("POST /v2/models/fake/infer HTTP/1.1", "Content-Length: 3000001")
    lines, _, body = nginx.send(raw).partition(b"\r\n\r\n")
    assert (b"Shoal-Code: body_too_large" in lines, json.loads(body)) == (
        True,
        {"error": "The body is larger than is accepted here."},
    )


def test_a_body_that_is_cut_short_reaches_nobody(cluster: Cluster, nginx: Nginx) -> None:
    key = f"Authorization: Bearer {cluster.api_key}"
    before = len(cluster.log(message="request", path="/predict"))
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=10) as connection:
        connection.sendall(head("POST /predict HTTP/1.1", key, "X-Request-ID: cut", "Content-Length: 1000") + b"half")
    eventually(
        lambda: any(line["request_id"] == "cut" for line in nginx.accesses()), within=10, what="a line of the log"
    )
    (line,) = [line for line in nginx.accesses() if line["request_id"] == "cut"]
    assert (line["status"], line["upstream"]) in {("400", ""), ("499", ""), ("000", "")}
    assert len(cluster.log(message="request", path="/predict")) == before


def test_a_slow_body_is_given_up(cluster: Cluster) -> None:
    sent = head("POST /predict HTTP/1.1", f"Authorization: Bearer {cluster.api_key}", "Content-Length: 1000") + b"half"
    with following("--discovery", str(cluster.document["discovery"]), "--slowest-pause", "1") as hasty:
        with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as connection:
            connection.sendall(sent)
            try:
                said = connection.recv(65536)
            except ConnectionResetError:
                said = b""
        assert said == b""

        def statuses() -> list[str]:
            return [line["status"] for line in hasty.accesses() if line["path"] == "/predict"]

        eventually(statuses, within=30, what="a line of the log")
        assert statuses() == ["408"]


def test_the_access_log_tells_the_way_and_no_secret(cluster: Cluster, nginx: Nginx) -> None:
    named = cluster.headers | {"X-Request-ID": "logged"}
    requests.post(f"{nginx.url}/predict?ticket=hush&key=hush", data=photo(3), headers=named, timeout=30)
    later = cluster.headers | {"X-Request-ID": "later"}
    requests.get(f"{nginx.url}/status?x=hush", headers=later, timeout=30)
    eventually(
        lambda: {"logged", "later"} <= {line["request_id"] for line in nginx.accesses()}, within=30, what="both lines"
    )
    (line,) = [line for line in nginx.accesses() if line["request_id"] == "logged"]
    assert (line["path"], line["status"], line["way"]) == ("/predict", "200", "forwarded")
    assert line["upstream_status"].startswith("204 : ")
    assert line["upstream_status"].endswith("200")
    text = (nginx.folder / "access.log").read_text()
    assert cluster.api_key not in text
    assert "hush" not in text


def test_bodies_beyond_the_buffer_leave_nothing_behind(cluster: Cluster, nginx: Nginx) -> None:
    large = photo(6, width=900, height=900, kind="BMP")
    assert len(large) > 200_000 * 5
    answer = requests.post(f"{nginx.url}/predict", data=large, headers=cluster.headers, timeout=30)
    assert answer.json()["predictions"][0]["label"] == fake_label(large)
    assert [path for path in Path(nginx.folder / "bodies").rglob("*") if path.is_file()] == []


def test_one_address_has_its_limit(cluster: Cluster) -> None:
    flags = ("--address-rate", "1", "--address-burst", "2")
    with following("--discovery", str(cluster.document["discovery"]), *flags) as limited:
        first = requests.get(f"{limited.url}/livez", timeout=30)
        asked = (requests.get(f"{limited.url}/livez", timeout=30) for _ in range(200))
        refused = next(answer for answer in asked if answer.status_code != 200)
    assert first.status_code == 200
    error = refused.json()["error"]
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert (error["code"], error["retryable"]) == ("too_many_requests", True)
