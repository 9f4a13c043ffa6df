"""What schemathesis loads: pictures as bodies, credentials, and the check that the code is exactly the right one.

Told by the environment: ``ORACLE_GATEWAY``, ``ORACLE_KEY``, ``ORACLE_WORKER`` (1 for a worker's document), and
``ORACLE_TALLY``, where the count of cases by code is written.
"""

from __future__ import annotations

import atexit
import json
import os
import zlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import ServerError

from tests.openapi_oracle import GOOD_INPUT, OK, Images, Oracle, Sent
from tests.photos import photo

KINDS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
}
SERVED = {"model": "fake", "version": "1"}
LENGTH = "Inference-Header-Content-Length"
IMAGES = Images()
JOBS: set[str] = set()
COUNTED: Counter[str] = Counter()
_USES = 32


class Credentials:
    """The right key, or a ticket that is renewed before its uses are spent; sometimes none, or a wrong one."""

    def __init__(self) -> None:
        self.gateway, self.key = os.environ["ORACLE_GATEWAY"], os.environ["ORACLE_KEY"]
        self.is_worker = os.environ["ORACLE_WORKER"] == "1"
        self.right = "" if self.is_worker else self.key
        self._sent = 0

    def next(self) -> str | None:
        """What the next request says of itself."""
        if self.is_worker and self._sent % _USES == 0:
            headers = {"Authorization": f"Bearer {self.key}"}
            found = requests.get(f"{self.gateway}/lookup", params={"n": str(_USES)}, headers=headers, timeout=10)
            found.raise_for_status()
            assert found.json()["uses"] == _USES
            self.right = found.json()["ticket"]
        self._sent += 1
        if self._sent % 23 == 0:
            return None
        return "Bearer wrong" if self._sent % 29 == 0 else f"Bearer {self.right}"


@cache
def credentials() -> Credentials:
    return Credentials()


@cache
def _oracle(url: str) -> Oracle:
    document = requests.get(f"{url}/openapi.json", timeout=10).json()
    return Oracle(document, lambda: credentials().right, IMAGES, credentials().is_worker, JOBS)


def _picture(kind: str, seed: int) -> bytes:
    data = photo(seed, width=40, height=40, kind=kind)
    IMAGES.good.add(data)
    return data


def _damaged(seed: int) -> bytes:
    whole = photo(seed, width=40, height=40)
    data = whole[: len(whole) // 2]
    IMAGES.damaged.add(data)
    return data


def _pictures(*kinds: str) -> st.SearchStrategy[bytes]:
    good = st.builds(_picture, st.sampled_from(kinds), st.integers(0, 50))
    bad = st.one_of(st.builds(_damaged, st.integers(0, 50)), st.binary(max_size=64))
    return st.one_of(good, good, good, bad)


for media, kind in KINDS.items():
    schemathesis.openapi.media_type(media, _pictures(kind))
schemathesis.openapi.media_type("application/octet-stream", _pictures(*KINDS.values()))
schemathesis.openapi.format("binary", _pictures(*KINDS.values()))


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Most paths name what is there."""
    if not path_parameters or _is_one_of(8, path_parameters):
        return path_parameters
    return {name: SERVED.get(name, value) for name, value in path_parameters.items()}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Most of what is asked of the model is what it takes."""
    path = context.operation.path
    if not isinstance(body, dict) or _is_one_of(4, body) or not path.endswith((":predict", "/infer")):
        return body
    if path.endswith(":predict"):
        return {"instances": GOOD_INPUT["data"]}
    return {name: value for name, value in body.items() if name == "id"} | {"inputs": [GOOD_INPUT]}


def _ask_later(case: Any) -> None:
    """Some predictions are jobs, and most who ask about a job ask about one that there is."""
    if case.path == "/predict" and not _is_one_of(8, case.query):
        case.query.pop("webhook", None)
        case.headers.pop("Shoal-Webhook", None)
        if _is_one_of(3, case.body):
            case.headers["Prefer"] = "respond-async"
    if case.path.startswith("/jobs/") and JOBS and not _is_one_of(4, case.path_parameters):
        case.path_parameters["id"] = max(JOBS)


def _fit_length(case: Any) -> None:
    """Most bodies are as long as their header says that the JSON in them is."""
    if not case.path.endswith("/infer") or _is_one_of(4, case.headers):
        return
    case.headers.pop(LENGTH, None)
    if case.media_type != "application/json":
        case.headers[LENGTH] = "0"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    kwargs["allow_redirects"] = False
    _fit_length(case)
    _ask_later(case)
    if case.path.endswith("/drain"):  # of a worker that is there there would be nothing left to test
        case.path_parameters["incarnation"] = f"{case.path_parameters['incarnation']}x"
    if "security" in case.operation.definition.raw:
        case.headers.pop("Authorization", None)
        said = credentials().next()
        if said is not None:
            case.headers["Authorization"] = said


def _is_one_of(share: int, said: object) -> bool:
    """Whether a case is one of every ``share``: always the same for the same case."""
    return zlib.crc32(repr(said).encode()) % share == 0


@schemathesis.hook
def map_query(context: Any, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Most requests are for the model that is there, or none would ever be executed."""
    if not query or _is_one_of(8, query):
        return query
    return {name: SERVED.get(name, value) for name, value in query.items() if name != "label"}


@schemathesis.hook
def map_headers(context: Any, headers: Any) -> Any:
    """Most requests have time enough."""
    timeout = str((headers or {}).get("Shoal-Timeout-Ms", ""))
    if timeout.isdigit() and 0 < int(timeout) < 3000 and not _is_one_of(8, timeout):
        headers["Shoal-Timeout-Ms"] = str(int(timeout) + 3000)
    return headers


def is_of_aiohttp(response: Any) -> bool:
    """Whether aiohttp itself refused it, as text: what is not HTTP never comes to our handlers."""
    return response.status_code == 400 and "x-request-id" not in response.headers


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Leave out what is right: too late is 504, and is held to be right or wrong by ``exact_code``."""
    is_late = isinstance(failure, ServerError) and response.headers.get("shoal-code") == ["deadline_exceeded"]
    return not is_late and not is_of_aiohttp(response)


@schemathesis.check
def exact_code(ctx: Any, response: Any, case: Any) -> None:
    """The answer has the code that fits what is wrong with the request."""
    if is_of_aiohttp(response):
        COUNTED["(not HTTP)"] += 1
        return
    request = response.request
    body = request.body or b""
    sent = Sent(
        request.method,
        case.operation.path,
        request.url,
        requests.structures.CaseInsensitiveDict({name: _text(value) for name, value in request.headers.items()}),
        body.encode() if isinstance(body, str) else bytes(body),
    )
    if response.status_code == 202 and sent.template == "/predict":
        JOBS.add(response.json()["id"])
    code = response.headers.get("shoal-code", [OK])[0]
    COUNTED[code] += 1
    if sent.variables is None:
        return  # it went to another operation
    expected = _oracle(request.url.split("/", 3)[0] + "//" + request.url.split("/", 3)[2]).expected(sent)
    COUNTED["(one code fits)"] += len(expected) == 1
    assert code in expected, f"{code}, where {' or '.join(sorted(expected))} fits"


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


@atexit.register
def _write() -> None:
    if path := os.environ.get("ORACLE_TALLY"):
        Path(path).write_text(json.dumps(COUNTED))
