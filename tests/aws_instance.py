"""What surrounds an instance on AWS, for tests: its metadata service, and an auto-scaling group that waits at hooks.

moto, which stands in for the rest of AWS, has neither.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

_ERROR = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code><Message>{}</Message></Error></ErrorResponse>"
)


@dataclass
class Surroundings:
    """``metadata`` is what the service has; ``waiting`` are the hooks at which the group waits; ``asked`` is what the
    group was asked, each with the hook."""

    metadata: dict[str, str] = field(
        default_factory=lambda: {
            "instance-id": "i-1",
            "local-ipv4": "10.0.0.7",
            "placement/availability-zone": "eu-test-1a",
            "autoscaling/target-lifecycle-state": "InService",
        }
    )
    waiting: set[str] = field(default_factory=lambda: {"useful"})
    asked: list[tuple[str, str]] = field(default_factory=list)
    failing: int = 0
    """How many of the next requests fail."""
    denied: set[str] = field(default_factory=set)
    """Hooks of which this instance may say nothing."""
    tokens: int = 0
    """How many were given out; the last one is valid."""
    address: str = ""

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_AUTO_SCALING": f"http://{self.address}/",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def answer(self, method: str, path: str, headers: Any, body: str) -> tuple[int, str]:
        if self.failing:
            self.failing -= 1
            return 500, "not now"
        if path == "/":
            return self._hook(dict(parse_qsl(body)))
        if (method, path) == ("PUT", "/latest/api/token") and int(headers["X-aws-ec2-metadata-token-ttl-seconds"]):
            self.tokens += 1
            return 200, f"token{self.tokens}"
        if headers["X-aws-ec2-metadata-token"] != f"token{self.tokens}":
            return 401, ""
        found = self.metadata.get(path.removeprefix("/latest/meta-data/"))
        return (404, "") if found is None else (200, found)

    def _hook(self, query: dict[str, str]) -> tuple[int, str]:
        action, hook = query["Action"], query["LifecycleHookName"]
        assert (query["AutoScalingGroupName"], query["InstanceId"]) == ("test-worker", "i-1")
        if hook not in self.waiting:
            return 400, _ERROR.format("No active Lifecycle Action found with instance ID i-1")
        self.asked.append((action, hook))
        if hook in self.denied:
            return 400, _ERROR.format("not authorized")
        if action == "CompleteLifecycleAction":
            assert query["LifecycleActionResult"] == "CONTINUE"
            self.waiting.remove(hook)
        return 200, f"<{action}Response><{action}Result/></{action}Response>"


@contextmanager
def surroundings() -> Iterator[Surroundings]:
    around = Surroundings()

    class Answering(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
            status, text = around.answer(self.command, self.path, self.headers, body)
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = _serve  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        around.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield around
        finally:
            server.shutdown()
            thread.join()


def instance_document(role: str, **settings: str) -> str:
    """The user data that Terraform writes (infra/terraform/modules/hosts)."""
    said = {"cluster": "test", "role": role, "region": "eu-central-1", "parameters": "/shoal/test"}
    return json.dumps(said | settings)
