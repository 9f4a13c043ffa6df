"""The interface's description: complete, valid, and true of the live servers, whatever is sent to them."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal
from unittest.mock import MagicMock

import msgspec
import pytest
import requests
from aiohttp import web
from msgspec import Meta
from openapi_spec_validator import OpenAPIV31SpecValidator

import gateway.description
import worker.description
from gateway.app import Gateway
from shoal import openapi
from shoal.errors import MissingKey, QueueFull, ShoalError, UnknownLabel, UnknownModel
from shoal.openapi import JSON, Answer, Operation, Parameter
from tests.clusters import Cluster, up
from tests.nodes import LIMITS
from tests.openapi_oracle import Images, Oracle, Sent
from tests.photos import photo
from worker.front import Front
from worker.front_orders import Orders
from worker.job_requests import JobRequests

ROOT = Path(__file__).parent.parent
DOCUMENTS = {"gateway": gateway.description.document(), "worker": worker.description.document()}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "exact_code",
)
EXAMPLES = 20
"""Cases of each operation that are drawn at random, beside those at its bounds; of predictions there are more."""
CONFIGURATION = """
[[operations]]
include-path = ["/predict", "/"]
generation.max-examples = 150
"""
FEWEST = {"gateway": 2000, "worker": 1500}
URL_HOSTS = "url_hosts=pictures.example"
PAGE = "/page/"
"""The files of the web page, which nobody else asks for."""
ROOM = "capacity=100000"  # thousands of lookups are permitted, and few of them used


def _made(cls: Callable[..., Any], **real: object) -> Any:
    """An instance of what only routes are wanted of."""
    return cls(**{name: MagicMock() for name in inspect.signature(cls).parameters} | real)


def _apps() -> dict[str, web.Application]:
    orders = Orders("f", "w", "i", None, "", [], [], "", LIMITS, "error")
    return {
        "gateway": _made(Gateway).public_app(),
        "worker": _made(Front, orders=orders, jobs=_made(JobRequests)).public_app(),
    }


def _routes(app: web.Application) -> set[tuple[str, str]]:
    """HEAD comes with every GET."""
    routes = ((route.method, route.resource.canonical) for route in app.router.routes() if route.resource)
    return {(method, path) for method, path in routes if method != "HEAD" and not path.startswith(PAGE)}


@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_every_route_is_described_and_every_description_has_a_route(service: str) -> None:
    described = {(m.upper(), path) for path, methods in DOCUMENTS[service]["paths"].items() for m in methods}
    routes = _routes(_apps()[service])
    file = f"{service}/description.py"
    assert routes - described == set(), f"routes that {file} does not describe"
    assert described - routes == set(), f"{file} describes what is not there"


@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_the_document_is_valid(service: str) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENTS[service]).iter_errors()] == []
    names = [operation["operationId"] for _, operation in _operations(DOCUMENTS[service])]
    assert len(set(names)) == len(names)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_every_schema_and_answer_explains_itself(service: str) -> None:
    silent = [name for name, schema in DOCUMENTS[service]["components"]["schemas"].items() if not schema["description"]]
    assert silent == []
    for _, operation in _operations(DOCUMENTS[service]):
        assert operation["summary"][0].isupper()
        assert all(answer["description"] for answer in operation["responses"].values())
        assert all(parameter["description"] for parameter in operation.get("parameters", ()))


class Thing(msgspec.Struct):
    """A thing, with a ``name``."""

    name: str


def _document(*operations: Operation) -> dict[str, Any]:
    return openapi.document("T", "About.", operations, schemes={"key": {"type": "http", "scheme": "bearer"}})


def test_an_operation_is_written_whole() -> None:
    operation = Operation(
        "POST",
        "/things/{model:[^/:]+}:make",
        "Make it",
        "things",
        {200: Answer("Made.", {JSON: Thing, "image/png": openapi.BINARY}, {"Server-Timing": "Times."})},
        parameters=(
            Parameter("n", Annotated[int, Meta(ge=1, le=3)], "How many."),
            Parameter("kind", Literal["a", "b"], "Which.", "header", example="a"),
            Parameter("model", str, "Whose.", "path"),
        ),
        bodies={JSON: (Thing, list[Thing])},
        errors=(UnknownModel, UnknownLabel, MissingKey, QueueFull),
        credentials=("key",),
    )
    document = _document(operation)
    OpenAPIV31SpecValidator(document).validate()
    written = document["paths"]["/things/{model}:make"]["post"]
    reference = {"$ref": "#/components/schemas/Thing"}
    assert document["components"]["schemas"]["Thing"]["description"] == "A thing, with a `name`."
    assert written["operationId"] == "post_things_model_make"
    assert written["security"] == [{"key": []}]
    assert [(p["name"], p["in"], p["required"], p["schema"]) for p in written["parameters"]] == [
        ("n", "query", False, {"type": "integer", "minimum": 1, "maximum": 3}),
        ("kind", "header", False, {"enum": ["a", "b"]}),
        ("model", "path", True, {"type": "string"}),
    ]
    assert written["parameters"][1]["example"] == "a"
    assert written["requestBody"]["content"][JSON]["schema"] == {
        "anyOf": [reference, {"type": "array", "items": reference}]
    }
    assert written["responses"]["200"]["content"][JSON]["schema"] == reference
    assert list(written["responses"]) == ["200", "401", "404", "429", "500"]
    assert written["responses"]["404"]["headers"]["Shoal-Code"]["schema"] == {
        "enum": ["unknown_model", "unknown_label"]
    }
    assert "Retry-After" in written["responses"]["429"]["headers"]
    example = written["responses"]["401"]["content"][JSON]["examples"]["missing_key"]["value"]
    assert example["error"]["message"] == MissingKey.summary


def test_the_errors_of_other_servers_paths_are_plain() -> None:
    operation = Operation("GET", "/v2/things", "See", "things", {200: Answer("Seen.")}, errors=(UnknownModel,))
    written = _document(operation)["paths"]["/v2/things"]["get"]["responses"]["404"]["content"][JSON]
    assert written["schema"] == {"$ref": "#/components/schemas/PlainFailed"}
    assert written["examples"]["unknown_model"]["value"] == {"error": UnknownModel.summary}


def test_nothing_is_described_twice() -> None:
    operation = Operation("GET", "/{a}", "See", "things", {200: Answer("Seen.")})
    with pytest.raises(ValueError, match=r"GET /\{a\} is described twice"):
        _document(operation, Operation("GET", "/{a:.*}", "See", "things", {}))


def test_every_error_that_is_answered_is_in_some_description() -> None:
    def tree(root: type[ShoalError]) -> Iterator[type[ShoalError]]:
        yield root
        for child in root.__subclasses__():
            yield from tree(child)

    described = {e for o in (*gateway.description.OPERATIONS, *worker.description.OPERATIONS) for e in o.all_errors}
    abstract = {"unauthorized", "unavailable", "connection_failed", "untrusted_server"}  # or the client's own
    elsewhere = {"method_not_allowed"}  # no operation's own: it is of the methods that a path does not take
    nginx = {"too_many_requests", "uri_too_long", "head_too_large"}
    assert {e.code for e in tree(ShoalError)} - {e.code for e in described} == abstract | elsewhere | nginx


# The oracle, by hand

GOOD, DAMAGED = photo(1, width=40, height=40), photo(2, width=40, height=40)[:300]
FORM = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n--b--\r\n'
SENT: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "nothing wrong": ("/predict?top_k=3", {}, {"ok"}),
    "a bound": ("/predict?top_k=1001", {}, {"invalid_option"}),
    "no number": ("/predict?top_k=null", {}, {"invalid_option"}),
    "no such word": ("/predict?priority=soon", {}, {"invalid_option"}),
    "both": ("/predict?version=1&label=a", {}, {"invalid_option", "unknown_label"}),
    "an unknown model": ("/predict?model=other", {}, {"unknown_model"}),
    "boxes of a classifier": ("/predict?render=1", {}, {"wrong_task"}),
    "no key": ("/predict", {"headers": {}}, {"missing_key"}),
    "another key": ("/predict", {"headers": {"X-API-Key": "x"}}, {"invalid_key"}),
    "two faults": ("/predict?top_k=0", {"body": b""}, {"invalid_option", "empty_body"}),
    "text": ("/predict", {"body": b"text"}, {"unsupported_image"}),
    "half a picture": ("/predict", {"body": DAMAGED}, {"invalid_image"}),
    "a redirect's body": ("/predict?redirect=1&top_k=0", {"body": b""}, {"ok"}),
    "a form": ("/predict", {"body": FORM % (b"image", GOOD), "type": "multipart/form-data; boundary=b"}, {"ok"}),
    "a wrong field": (
        "/predict",
        {"body": FORM % (b"x", GOOD), "type": "multipart/form-data; boundary=b"},
        {"missing_image"},
    ),
    "no JSON": ("/predict", {"body": b"{", "type": "application/json"}, {"invalid_request"}),
    "another method": ("/predict", {"method": "PUT"}, {"method_not_allowed"}),
}


@pytest.mark.parametrize(("path", "change", "expected"), SENT.values(), ids=SENT.keys())
def test_the_oracle(path: str, change: dict[str, Any], expected: set[str]) -> None:
    oracle = Oracle(DOCUMENTS["gateway"], lambda: "k", Images({GOOD}, {DAMAGED}), is_worker=False)
    headers = change.get("headers", {"Authorization": "Bearer k"})
    headers = headers | {"Content-Type": change.get("type", "image/jpeg")}
    sent = Sent(change.get("method", "POST"), "/predict", f"http://h{path}", headers, change.get("body", GOOD))
    assert oracle.expected(sent) == expected


# The live servers


@pytest.fixture(scope="module")
def small() -> Iterator[Cluster]:
    """A gateway and a worker that fetches from one host, which nobody names, and refuses nobody."""
    gateway, worker = ["ticket_lifetime=300"], [URL_HOSTS, ROOM]
    settings = [*(("--gateway-setting", s) for s in gateway), *(("--worker-setting", s) for s in worker)]
    with up("--workers", "1", "--model", "fake", *chain.from_iterable(settings)) as running:
        yield running


def _closed(schema: Any) -> Any:
    """The document with no room in its objects for a field that it does not name."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", ["gateway", "worker"])
def test_whatever_is_sent_is_answered_as_the_document_says(small: Cluster, service: str, tmp_path: Path) -> None:
    url = small.gateway if service == "gateway" else small.worker(0)["public_url"]
    served = requests.get(f"{url}/openapi.json", timeout=10)
    assert served.json() == json.loads(json.dumps(DOCUMENTS[service]))
    (tmp_path / "document.json").write_text(json.dumps(_closed(served.json())))
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    environ = {
        "SCHEMATHESIS_HOOKS": "tests.openapi_hooks",
        "ORACLE_GATEWAY": small.gateway,
        "ORACLE_KEY": small.api_key,
        "ORACLE_WORKER": str(int(service == "worker")),
        "ORACLE_TALLY": str(tmp_path / "tally.json"),
    }
    ran = subprocess.run(
        _command(tmp_path / "document.json", url),
        cwd=tmp_path,  # where it leaves what it remembers
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr
    tally = json.loads((tmp_path / "tally.json").read_text())
    fitting = tally.pop("(one code fits)")
    print(f"{service}: {sum(tally.values())} cases, of {fitting} one code fits: {tally}")
    assert sum(tally.values()) >= FEWEST[service]
    assert fitting >= FEWEST[service] / 2
    noun = "key" if service == "gateway" else "ticket"
    always = {
        "ok",
        "invalid_option",
        "invalid_request",
        "unknown_job",
        f"missing_{noun}",
        f"invalid_{noun}",
        "method_not_allowed",
    }
    assert always | {"unsupported_image", "invalid_image", "empty_body"} <= set(tally)
    assert not small.log(message="unexpected error")


def _command(document: Path, url: str) -> list[str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", url]
    command += ["--phases", "examples,coverage,fuzzing", "--mode", "all", "--max-examples", str(EXAMPLES)]
    command += ["--generation-deterministic", "--generation-with-security-parameters", "false"]
    command += ["--suppress-health-check", "all", "--warnings", "off", "--continue-on-failure", "--no-color"]
    command += ["--exclude-path", "/events"]  # a stream that does not end
    return [*command, "--checks", ",".join(CHECKS)]
