"""What a server must answer to a request, worked out from its description and from the request as it was sent.

The tests' own opinion: it shares no code with the servers, except for the document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema_rs

OK = "ok"
MOST_IMAGES = 16
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")
_ODD_HEAD = re.compile(rb"Content-Disposition:[^\r\n]*[^\x20-\x7e\r\n]")
_LATE = {"deadline_exceeded", "upload_timeout", "queue_full"}
_SHORT_MS = 3000
_OF_VERSIONS = re.compile(r"/v2/.*/stats|/v1/models/\{model\}(/versions/\{version\})?")
_LENGTH = "Inference-Header-Content-Length"
_OF_IMAGES = {OK, "unsupported_image", "invalid_image"}
GOOD_INPUT = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [[[[7] * 3] * 32] * 32]}
"""What the model ``fake`` takes as pixels."""
_LONGEST_JSON = 64 * 1024


REFUSED = (":classify", ":regress", ":explain")
DOCS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "start.js", "page.css")


@dataclass(frozen=True)
class Sent:
    """A request as it went over the wire. ``template`` is the path as the document has it."""

    method: str
    template: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def query(self) -> dict[str, str]:
        """The first value of each name counts."""
        pairs = parse_qsl(urlsplit(self.url).query, keep_blank_values=True)
        return dict(reversed(pairs))

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def variables(self) -> dict[str, str] | None:
        """Those of the path; None when the path is another's."""
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.template))
        match = re.fullmatch(pattern, urlsplit(self.url).path)
        return {name: unquote(text) for name, text in match.groupdict().items()} if match else None


@dataclass
class Images:
    """The pictures that were generated, by what must be said of them."""

    good: set[bytes] = field(default_factory=set)
    damaged: set[bytes] = field(default_factory=set)

    def codes(self, data: bytes) -> set[str]:
        if data in self.good:
            return {OK}
        if data in self.damaged:
            return {"invalid_image"}
        if not data:
            return {"empty_body"}
        return {"unsupported_image", "invalid_image"} if data.startswith(_MAGIC) else {"unsupported_image"}


@dataclass
class Oracle:
    """``credential`` is the right key or ticket; ``is_worker`` tells whose document it is."""

    document: Mapping[str, Any]
    credential: Callable[[], str]
    images: Images
    is_worker: bool
    jobs: set[str] = field(default_factory=set)

    def expected(self, sent: Sent) -> set[str]:
        """The codes that fit what is wrong with the request, or ``OK`` when nothing is.

        Of a request with one fault there is one. Of one that has little time, those that say so fit as well.
        """
        described = self.document["paths"][sent.template]
        if sent.method.lower() not in described and not (sent.method == "HEAD" and "get" in described):
            return {"method_not_allowed"}
        operation = described.get(sent.method.lower(), described.get("get"))
        faults = self._credentials(sent, operation)
        faults |= self._job(sent)
        faults |= self._parameters(sent, operation) | self._choice(sent, operation)
        if "requestBody" in operation and sent.query.get("redirect") != "1":
            faults |= self._body(sent) - {OK}
        faults |= self._path(sent)
        timeout = sent.headers.get("Shoal-Timeout-Ms", "")
        if timeout.isdigit() and int(timeout) < _SHORT_MS:
            return (faults or {OK}) | _LATE
        return faults or {OK}

    def _credentials(self, sent: Sent, operation: Mapping[str, Any]) -> set[str]:
        if "security" not in operation:
            return set()
        noun = "ticket" if self.is_worker else "key"
        scheme, _, bearer = sent.headers.get("Authorization", "").partition(" ")
        given = sent.query.get("ticket") if self.is_worker else None
        given = given or (bearer.strip() if scheme.lower() == "bearer" else "")
        given = given or ("" if self.is_worker else sent.headers.get("X-API-Key", ""))
        if not given:
            return {f"missing_{noun}"}
        return set() if given == self.credential() else {f"invalid_{noun}"}

    def _parameters(self, sent: Sent, operation: Mapping[str, Any]) -> set[str]:
        """A parameter that its schema excludes is an invalid option; of a redirect, the worker sees the rest."""
        is_redirect = sent.query.get("redirect") == "1"
        for parameter in operation.get("parameters", ()):
            place = {"query": sent.query, "header": sent.headers}.get(parameter["in"], {})
            text = place.get(parameter["name"])
            seen_later = is_redirect and parameter["name"] in ("top_k", "cache", "render")
            seen_later |= parameter["name"] == _LENGTH
            if text is not None and not seen_later and not _fits(text, parameter["schema"]):
                return {"invalid_option"}
        return set()

    def _choice(self, sent: Sent, operation: Mapping[str, Any]) -> set[str]:
        """Nothing but version 1 of the model ``fake`` is served, and it has no labels.

        A ticket is for that one, whatever the label. About its model's other versions a worker may be asked.
        """
        if sent.template.startswith("/v2/repository/") or sent.template.endswith(REFUSED):
            return set()
        named = {parameter["name"] for parameter in operation.get("parameters", ())} | set(sent.variables or {})
        said = {name: text for name, text in (sent.query | (sent.variables or {})).items() if name in named}
        faults = set()
        if "version" in said and "label" in said:
            faults.add("invalid_option")
        if said.get("model", "") not in ("", "fake") or said.get("version", "1") != "1":
            is_ours = self.is_worker and (said.get("model") != "fake" or not _OF_VERSIONS.fullmatch(sent.template))
            faults.add("invalid_ticket" if is_ours else "unknown_model")
        if "label" in said and not self.is_worker:
            faults.add("unknown_label")
        if said.get("render") == "1" and sent.query.get("redirect") != "1":
            faults.add("wrong_task")
        return faults

    def _body(self, sent: Sent) -> set[str]:
        if sent.template.endswith(":predict"):
            return self._rows(sent)
        if sent.template.endswith("/infer"):
            return self._infer(sent)
        if sent.template == "/v2/repository/index":
            return self._index(sent)
        if sent.content_type == "application/json":
            return _urls(sent.body)
        if sent.content_type.startswith("multipart/"):
            return self._form(sent)
        return self.images.codes(sent.body)

    def _form(self, sent: Sent) -> set[str]:
        head = f"Content-Type: {sent.headers['Content-Type']}\r\n\r\n".encode("latin-1", "replace")
        message = BytesParser(policy=HTTP).parsebytes(head + sent.body)
        if not message.is_multipart():
            return {"invalid_request", "missing_image"}
        fields = [part for part in message.iter_parts() if _name(part) in ("image", "data")]
        malformed = {"invalid_request"} if len(fields) > MOST_IMAGES or _ODD_HEAD.search(sent.body) else set()
        if not fields:
            return {"missing_image"} | malformed
        codes = set().union(*(self.images.codes(_payload(part)) for part in fields))
        return malformed if len(fields) > MOST_IMAGES else codes | malformed

    def _path(self, sent: Sent) -> set[str]:
        """Where the path alone decides."""
        match sent.template:
            case "/docs/{file}" if (sent.variables or {}).get("file") not in DOCS:
                return {"unknown_path"}
            case "/workers/{incarnation}/drain":
                return {"unknown_worker"}
            case path if path.startswith("/v2/repository/models/") or path.endswith(REFUSED):
                return {"invalid_request"}
        return set()

    def _infer(self, sent: Sent) -> set[str]:
        """Of the Open Inference Protocol: JSON with tensors, or an image."""
        text = sent.headers.get(_LENGTH)
        if text is not None and not re.fullmatch("[0-9]{1,11}", text):
            return {"invalid_request"}
        if not sent.body:
            return {"empty_body"}
        if text is not None and int(text) == 0:
            return self.images.codes(sent.body)
        if text is not None and int(text) > len(sent.body):
            return {"invalid_request"}
        document = _json(sent.body if text is None else sent.body[: int(text)])
        if not self._is("InferRequest", document):
            return {"invalid_request"}
        if {**document, "id": ""} == {"inputs": [GOOD_INPUT], "id": ""} and text is None:
            return {OK}
        return _OF_IMAGES | _LATE | {"invalid_request", "empty_body"}

    def _job(self, sent: Sent) -> set[str]:
        """What asks for a job, or about one."""
        if sent.template.startswith("/jobs/{id}"):
            is_known = (sent.variables or {}).get("id") in self.jobs
            return {OK, "job_cancelled", *_LATE} if is_known else {"unknown_job"}
        if sent.template != "/predict" or sent.query.get("redirect") == "1":
            return set()
        header, parameter = sent.headers.get("Shoal-Webhook"), sent.query.get("webhook")
        prefers = [part.partition(";")[0].strip().lower() for part in sent.headers.get("Prefer", "").split(",")]
        names = [part.partition("=")[0].strip() for part in prefers]
        if "respond-async" not in names:
            return {"invalid_option"} if header is not None or parameter is not None else set()
        if prefers[names.index("respond-async")].partition("=")[2].strip(' "'):
            return {"invalid_option"}
        webhooks = [text for text in (header, parameter) if text is not None]
        if len(webhooks) > 1 or not all(text.strip() for text in webhooks):
            return {"invalid_option"}
        return {"url_disabled"} if webhooks else set()

    def _rows(self, sent: Sent) -> set[str]:
        """Of TensorFlow Serving: JSON in rows or columns."""
        if not sent.body:
            return {"empty_body"}
        document = _json(sent.body)
        both = isinstance(document, dict) and {"instances", "inputs"} <= document.keys()
        if both or not (self._is("Rows", document) or self._is("Columns", document)):
            return {"invalid_request"}
        if document == {"instances": GOOD_INPUT["data"]}:
            return {OK}
        return _OF_IMAGES | {"invalid_request", "empty_body"}

    def _index(self, sent: Sent) -> set[str]:
        if not sent.body:
            return set()
        return set() if self._is("IndexRequest", _json(sent.body)) else {"invalid_request"}

    def _is(self, name: str, document: object) -> bool:
        """Whether a schema of the description allows it."""
        schema = {"$ref": f"#/components/schemas/{name}", "components": self.document["components"]}
        return jsonschema_rs.validator_for(schema).is_valid(document)


def _json(text: bytes) -> Any:
    """What no schema allows, where it is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _name(part: Any) -> object:
    return part.get_param("name", header="content-disposition")


def _payload(part: Any) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _urls(body: bytes) -> set[str]:
    """Of pictures elsewhere: the servers under test fetch from one host, which no generated URL names."""
    if len(body) > _LONGEST_JSON:
        return {"body_too_large"}
    try:
        document = json.loads(body)
    except ValueError:
        return {"invalid_request"}
    match document:
        case {"url": str(), **rest} if not rest:
            return {"invalid_url", "url_not_allowed"}
        case {"urls": [str(), *_] as urls, **rest} if not rest and all(isinstance(url, str) for url in urls):
            return {"invalid_url", "url_not_allowed"} if len(urls) <= MOST_IMAGES else {"invalid_request"}
    return {"invalid_request"}


def _fits(text: str, schema: Mapping[str, Any]) -> bool:
    if "enum" in schema:
        return text in schema["enum"]
    if schema.get("type") == "number":
        is_number = re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", text) is not None and len(text) < 32
        return is_number and schema["minimum"] <= float(text) <= schema["maximum"]
    if schema.get("type") == "integer":
        is_number = re.fullmatch("[0-9]{1,9}", text) is not None
        return is_number and schema["minimum"] <= int(text) <= schema["maximum"]
    return len(text) <= schema.get("maxLength", len(text)) and bool(re.search(schema.get("pattern", ""), text))
