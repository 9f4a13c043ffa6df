"""LitServe as its documentation recommends: an uploaded file, one worker, dynamic batches.

python -m bench.litserve_peer --port PORT
"""

import argparse
from typing import Any

import litserve  # type: ignore[import-not-found,import-untyped,unused-ignore]
from fastapi import Request  # type: ignore[import-not-found,unused-ignore]

from bench.model import Task, execute, load
from shoal.processes import die_with_parent
from worker.models.runtime import Array

_WAIT_SECONDS = 0.01


class Classifier(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """The hooks that LitServe calls, in its order."""

    def setup(self, device: str) -> None:
        self._task = Task.from_environ()
        self._runtime = load(self._task.model)

    def decode_request(self, request: Request, **_: Any) -> Array:  # the annotation tells LitServe to parse the form
        return self._task.decode(request["image"].file.read())

    def batch(self, inputs: list[Array]) -> list[Array]:
        return inputs

    def predict(self, x: list[Array], **_: Any) -> list[dict[str, Any]]:
        return execute(self._runtime, x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any], **_: Any) -> dict[str, Any]:
        return output


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    api = Classifier(max_batch_size=Task.from_environ().max_batch_size, batch_timeout=_WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
