"""Downloads one file over http or https."""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from worker.repository.archives import Budget, write

__all__ = ["Unreachable", "download", "shown"]

_SILENCE = 30.0
_MOST_REDIRECTS = 5


class Unreachable(OSError):
    """A source does not answer, or not with what was asked for."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _MOST_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise Unreachable(f"{shown(req.full_url)} leads to {shown(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, into: Path, budget: Budget) -> None:
    """Write what is at ``url`` to the new file ``into``. Certificates are verified, and redirects are few.

    Raises ``Unreachable``, and ``BadSource`` when it is more than ``budget``.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(url, timeout=_SILENCE) as answer:
            if answer.length:
                budget.expect(answer.length)
            write(_Complete(answer), into.parent, PurePosixPath(into.name), budget)
    except Unreachable:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        raise Unreachable(f"{shown(url)} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"{shown(url)} does not answer: {reason or type(error).__name__}") from error


class _Complete:
    """An answer's body, which must be as long as its head says: ``read`` of the library ends early without a word."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def read(self, size: int, /) -> bytes:
        block: bytes = self._answer.read(size)
        if not block and self._answer.length:
            raise http.client.IncompleteRead(b"", self._answer.length)
        return block


def shown(url: str) -> str:
    """``url`` as it may be logged: without a password or a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
