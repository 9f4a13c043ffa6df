"""The origin's design as a server: Flask threads and one model process that poll a Redis list every 250 ms.

Kept from the origin: float32 pixels as base64 in JSON, batches of 32, both sleeps. Repaired only so that it is
correct: images are taken atomically, results expire, and a caller stops asking after a while.

python -m bench.origin_peer --port PORT
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import redis
from flask import Flask, Response, request

from bench.model import Task, execute, load
from shoal.processes import die_with_parent

_QUEUE = "image_queue"
_SLEEP = 0.25
_PATIENCE = 60.0
_START_TIMEOUT = 20.0


def web(socket: Path, task: Task) -> Flask:
    app = Flask(__name__)
    database = redis.Redis(unix_socket_path=str(socket))

    @app.post("/predict")
    def predict() -> Response:
        pixels = task.decode(request.files["image"].read()).astype(np.float32)
        job = str(uuid.uuid4())
        encoded = base64.b64encode(pixels.tobytes()).decode()
        database.rpush(_QUEUE, json.dumps({"id": job, "image": encoded}))
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            answer = database.getdel(job)
            if isinstance(answer, bytes):
                return Response(answer, mimetype="application/json")
            time.sleep(_SLEEP)
        return Response('{"success": false}', status=504, mimetype="application/json")

    return app


def serve_model(socket: Path, task: Task) -> None:
    """Until the web process ends it."""
    runtime = load(task.model)
    database = redis.Redis(unix_socket_path=str(socket))
    shape = (task.input.height, task.input.width, 3)
    while True:
        with database.pipeline(transaction=True) as pipeline:
            pipeline.lrange(_QUEUE, 0, task.max_batch_size - 1)
            pipeline.ltrim(_QUEUE, task.max_batch_size, -1)
            waiting = [json.loads(item) for item in pipeline.execute()[0]]
        if waiting:
            pixels = [np.frombuffer(base64.b64decode(job["image"]), np.float32).reshape(shape) for job in waiting]
            answers = execute(runtime, [image.astype(np.uint8) for image in pixels])
            for job, answer in zip(waiting, answers, strict=True):
                database.set(job["id"], json.dumps({"success": True, **answer}), ex=int(2 * _PATIENCE))
        time.sleep(_SLEEP)


def redis_server() -> str:
    """The one on PATH. Raises ``FileNotFoundError``."""
    found = shutil.which("redis-server")
    if found is None:
        raise FileNotFoundError("redis-server is not installed")
    return found


def wait_for_redis(socket: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            redis.Redis(unix_socket_path=str(socket)).ping()
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def main() -> None:
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--model-socket", type=Path, help="be the model process, on this Redis")
    arguments = parser.parse_args()
    task = Task.from_environ()
    if arguments.model_socket:
        serve_model(arguments.model_socket, task)
        return
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory, "redis.sock")
        own: dict[str, Any] = {"preexec_fn": die_with_parent}
        database = [redis_server(), "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        model = [sys.executable, "-m", "bench.origin_peer", "--model-socket", str(socket)]
        with subprocess.Popen(database, stdout=subprocess.DEVNULL, **own):
            wait_for_redis(socket)
            with subprocess.Popen(model, **own):
                logging.getLogger("werkzeug").setLevel(logging.ERROR)
                web(socket, task).run(host="127.0.0.1", port=arguments.port, threaded=True)


if __name__ == "__main__":
    main()
