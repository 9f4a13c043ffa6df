"""The error tree: what its docstring draws is what the classes are, on both ends of the wire."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator

import pytest

from shoal import errors
from shoal.answers import from_body
from shoal.errors import BadGateway, ExpiredTicket, QueueFull, ShoalError, from_code

Row = tuple[str, str, int, str, bool]

_DRAWN = re.compile(
    r"    (?P<branch>[│├└─ ]*)(?P<name>\w+) +(?P<status>\d{3}|\(client side\)) (?P<code>\w+)(?P<retry> +retryable)?"
)


def drawn() -> list[Row]:
    """Name, parent, status, code and retryable of each line of the docstring's tree."""
    rows, ancestors = [], [""]
    for match in filter(None, map(_DRAWN.fullmatch, str(errors.__doc__).splitlines())):
        depth = len(match["branch"]) // 4
        ancestors[depth + 1 :] = [match["name"]]
        status = int(match["status"]) if match["status"].isdigit() else 0
        rows.append((match["name"], ancestors[depth], status, match["code"], match["retry"] is not None))
    return rows


def tree(root: type[ShoalError]) -> Iterator[type[ShoalError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


CLASSES = list(tree(ShoalError))


def test_the_drawing_is_the_tree() -> None:
    parents = {ShoalError: ""} | {cls: cls.__bases__[0].__name__ for cls in CLASSES[1:]}
    assert drawn() == [(c.__name__, parents[c], c.status, c.code, c.retryable) for c in CLASSES]


def test_everything_public_is_exported() -> None:
    functions = {name for name, _ in inspect.getmembers(errors, inspect.isfunction) if not name.startswith("_")}
    assert set(errors.__all__) == {cls.__name__ for cls in CLASSES} | functions


def test_codes_are_unique() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_survives_the_wire(cls: type[ShoalError]) -> None:
    # Given the answer that a server renders
    body = json.loads(json.dumps(cls("what happened").body("request-1")))
    assert body["success"] is False
    assert body["error"]["retryable"] is cls.retryable
    # When a client reads it
    error = from_body(body, status=cls.status, retry_after=2.5)
    # Then it is the same class, with all that was said
    assert type(error) is cls
    assert (error.message, error.request_id, error.retry_after) == ("what happened", "request-1", 2.5)
    assert str(error) == "what happened"


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_explains_itself_without_a_message(cls: type[ShoalError]) -> None:
    assert cls().message == cls.summary
    assert cls.summary.endswith((".", "'"))
    assert cls is ShoalError or cls.summary != ShoalError.summary


def test_the_code_of_a_newer_server_is_a_plain_error() -> None:
    error = from_code("from_the_future", "No such thing yet.", request_id="r")
    assert type(error) is ShoalError
    assert (error.message, error.request_id) == ("from_the_future: No such thing yet.", "r")


@pytest.mark.parametrize(
    "body",
    [
        None,
        "text",
        7,
        [],
        {},
        {"error": None},
        {"error": "Servable not found"},
        {"error": {}},
        {"error": {"code": 404, "message": "not a word"}},
        {"error": ["code"]},
    ],
)
def test_an_unreadable_body_is_a_bad_gateway(body: object) -> None:
    error = from_body(body, status=418, retry_after=3)
    assert type(error) is BadGateway
    assert error.message == "HTTP 418 without a readable error."
    assert error.retry_after == 3


@pytest.mark.parametrize(
    ("fields", "message", "request_id"),
    [
        ({}, "Internal error.", None),
        ({"message": None}, "None", None),
        ({"message": "m", "request_id": 7}, "m", None),
        ({"message": "m", "request_id": "r", "added_later": 1}, "m", "r"),
    ],
)
def test_odd_fields_do_not_hide_the_code(fields: dict[str, object], message: str, request_id: str | None) -> None:
    error = from_body({"error": {"code": "internal", **fields}}, status=500)
    assert (type(error), error.message, error.request_id) == (ShoalError, message, request_id)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (QueueFull(), "<QueueFull 429 queue_full: The queue is full.>"),
        (ExpiredTicket("late"), "<ExpiredTicket 401 expired_ticket: late>"),
    ],
)
def test_an_error_has_a_one_line_repr(error: ShoalError, line: str) -> None:
    assert repr(error) == line
