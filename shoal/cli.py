"""The command line: one function for each ``shoal COMMAND``, which imports what that command needs."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from shoal import key_commands, operations, top
from shoal.answers import Answer, Outcome
from shoal.client import AsyncClient, Mode
from shoal.errors import ShoalError

_DEFAULT_GATEWAY = "http://127.0.0.1:8080"
_SERVICES = ("gateway", "worker")
_ALL_SERVICES = (*_SERVICES, "nginx")
_EXTRAS = {"nginx": "gateway"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 it failed, 2 it was asked wrongly."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        os.environ.setdefault("PYTHONSAFEPATH", "1")  # a queue.py where the user stands is not for programs we start
    if arguments[:1] and arguments[0] in _ALL_SERVICES:
        return _become(arguments[0], arguments[1:], extra=_EXTRAS.get(arguments[0], ""))
    if arguments[:1] == ["cloud"]:
        return _become("cloud", arguments[1:], extra="aws", module="boto3")
    if arguments[:1] in (["models"], ["serve"]):
        return _become("worker.repository", arguments[arguments[0] == "models" :], extra="worker")
    if arguments[:1] == ["settings"] and arguments[1:2] and arguments[1] in _ALL_SERVICES:
        return _settings(arguments[1], arguments[2:])
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ShoalError as error:
        return _complain(f"{error.code}: {error.message}")
    except (OSError, operations.NotPossible) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """What ``shoal`` understands."""
    tool = argparse.ArgumentParser(prog="shoal", description="Image inference on a cluster of your own machines.")
    commands = tool.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start a whole cluster on this machine, until SIGTERM or Ctrl-C")
    up.add_argument("--json", action="store_true", help="print one line of JSON when the cluster is ready")
    up.add_argument("--workers", type=int, default=2, metavar="N", help="how many")
    up.add_argument("--gateways", type=int, default=1, metavar="N", help="how many")
    up.add_argument(
        "--model", action="append", metavar="NAME", help="a model to serve; repeat it; 'none': as published"
    )
    up.add_argument("--discovery", default="", metavar="URL", help="default: files in the cluster's own folder")
    up.add_argument("--port", type=int, default=0, metavar="P", help="of the first gateway; default: a free one")
    up.add_argument("--no-auth", action="store_true", help="take requests without an API key (loopback only)")
    up.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"))
    for service in _SERVICES:
        up.add_argument(
            f"--{service}-setting",
            action="append",
            default=[],
            type=_setting,
            metavar="NAME=VALUE",
            help=f"any setting of every {service}; 'shoal settings {service}' lists them",
        )
    up.set_defaults(command=_up)

    predict = commands.add_parser("predict", help="classify image files")
    predict.add_argument("files", nargs="+", metavar="FILE")
    _client_options(predict)
    way = predict.add_mutually_exclusive_group()
    way.add_argument("--direct", dest="mode", action="store_const", const="direct", help="upload to a worker (default)")
    way.add_argument("--proxy", dest="mode", action="store_const", const="proxy", help="send through the gateway")
    predict.add_argument("--model", metavar="NAME", help="default: the cluster's first")
    which = predict.add_mutually_exclusive_group()
    which.add_argument("--version", metavar="N", help="a version of the model")
    which.add_argument("--label", metavar="NAME", help="a label of a version, such as stable")
    predict.add_argument("--key", metavar="TEXT", help="equal keys get equal versions where traffic is split")
    predict.add_argument(
        "--option",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="an option of the model's task, such as threshold=0.3; repeat it for several",
    )
    predict.add_argument("--top", type=int, metavar="K", help="how many classes to show")
    predict.add_argument("--priority", choices=("interactive", "bulk"), default="interactive", help="bulk waits")
    predict.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    predict.add_argument("--concurrency", type=int, default=8, metavar="N", help="files under way at once")
    predict.add_argument("--json", action="store_true", help="print one line of JSON for each file")
    predict.set_defaults(command=_predict, mode="direct")

    top.add_commands(commands, _client_options)
    commands.add_parser("models", help="publish models, and say which version serves whom ('shoal models --help')")
    commands.add_parser("serve", help="serve a model's file on this machine ('shoal serve --help')")
    commands.add_parser("cloud", help="what a host on AWS does, and its operator for it ('shoal cloud --help')")
    operations.add_commands(commands)
    key_commands.add_commands(commands)

    doctor = commands.add_parser("doctor", help="look at this machine in a role, and say what is wrong and what to do")
    doctor.add_argument("role", choices=(*_SERVICES, "client"))
    doctor.add_argument(
        "--config",
        default=os.environ.get("SHOAL_CONFIG", ""),
        metavar="FILE",
        help="the service's; default: $SHOAL_CONFIG",
    )
    doctor.add_argument(
        "--env-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="variables of the service, as in systemd's EnvironmentFile; repeat it",
    )
    _client_options(doctor)
    doctor.add_argument("--only", action="append", default=[], metavar="CHECK", help="make this check; repeat it")
    doctor.add_argument("--json", action="store_true", help="print everything as one JSON document")
    doctor.add_argument("--strict", action="store_true", help="exit code 1 for warnings too")
    doctor.set_defaults(command=_doctor)

    settings = commands.add_parser("settings", help="print the effective settings of a service")
    settings.add_argument("service", choices=_ALL_SERVICES)
    for service in _SERVICES:
        commands.add_parser(service, help=f"run one {service} ('shoal {service} --help' lists its settings)")
    commands.add_parser("nginx", help="write nginx's configuration, and keep it with the fleet ('shoal nginx --help')")
    return tool


def _client_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gateway",
        default=os.environ.get("SHOAL_GATEWAY", _DEFAULT_GATEWAY),
        metavar="URL",
        help="default: $SHOAL_GATEWAY, or " + _DEFAULT_GATEWAY,
    )
    parser.add_argument(
        "--api-key", default=os.environ.get("SHOAL_API_KEY"), metavar="KEY", help="default: $SHOAL_API_KEY"
    )
    parser.add_argument(
        "--ca", default=os.environ.get("SHOAL_CA"), metavar="FILE", help="trust only these (PEM); default: $SHOAL_CA"
    )


def _setting(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _complain(text: str, code: int = 1) -> int:
    sys.stderr.write(f"shoal: {text}\n")
    return code


def _missing(extra: str, module: str) -> str | None:
    """What to say when the servers' dependencies are not installed; the client comes without them."""
    return (
        None if importlib.util.find_spec(module) else f"this needs more than the client: pip install 'shoal[{extra}]'"
    )


def _become(program: str, arguments: list[str], *, extra: str = "", module: str = "pydantic_settings") -> int:
    """Become the program: the client does not import it."""
    if problem := _missing(extra or program, module):
        return _complain(problem)
    return os.execv(sys.executable, [sys.executable, "-m", program, *arguments])  # noqa: S606


def _doctor(options: argparse.Namespace) -> int:
    from shoal.doctor import command

    return command.run(options)


def _settings(service: str, arguments: list[str]) -> int:
    if problem := _missing(_EXTRAS.get(service, service), "pydantic_settings"):
        return _complain(problem)
    from shoal.nginx_settings import NginxSettings
    from shoal.settings import GatewaySettings, InvalidSettings, Read, WorkerSettings

    kinds: dict[str, type[Read]] = {"gateway": GatewaySettings, "worker": WorkerSettings, "nginx": NginxSettings}
    kind = kinds[service]
    try:
        effective = kind.load(arguments).effective()
    except InvalidSettings as error:
        for problem in error.problems:
            _complain(problem)
        return 2
    for name, value in effective.items():
        sys.stdout.write(f"{name} = {json.dumps(value)}\n")
    return 0


def _up(options: argparse.Namespace) -> int:
    if problem := _missing("cluster", "pydantic_settings") or _missing("cluster", "redis"):
        return _complain(problem)
    from shoal import launcher, logs, notify, service

    notifier = notify.Notifier.from_environment()

    async def run() -> int:
        stop = service.Stop()
        stop.listen()
        logs.configure(options.log_level, role="launcher")
        plan = launcher.Plan(
            workers=options.workers,
            gateways=options.gateways,
            models=tuple(model for model in options.model or ("lite0",) if model != "none"),
            discovery=options.discovery,
            port=options.port,
            authentication=not options.no_auth,
            log_level=options.log_level,
            gateway_settings=dict(options.gateway_setting),
            worker_settings=dict(options.worker_setting),
        )

        async def serve() -> None:
            async with launcher.cluster(plan) as running, service.background(notifier.keep_telling()):
                document = running.document()
                line = json.dumps(document, separators=(",", ":")) + "\n"
                sys.stdout.write(line if options.json else _instructions(document))
                sys.stdout.flush()
                notifier.ready("ready")
                await asyncio.Event().wait()

        serving = asyncio.create_task(serve())
        stopping = asyncio.create_task(stop.requested())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            serving.cancel()  # still starting, or told to stop: leaving the cluster stops it
        stopping.cancel()
        try:
            await serving
        except launcher.DidNotStart as error:
            return _complain(str(error))
        except asyncio.CancelledError:
            return 0
        return 0

    return service.run(run())


def _instructions(document: dict[str, Any]) -> str:
    return (
        f"{len(document['workers'])} workers and {len(document['gateways'])} gateways serve "
        f"{', '.join(document['models']) or 'no model yet'}. In another terminal:\n\n"
        f"  export SHOAL_GATEWAY={document['gateway']} SHOAL_API_KEY={document['api_key']}\n"
        f"  export SHOAL_CONTROL={document['control']}\n"
        f"  export SHOAL_DISCOVERY='{document['discovery']}' SHOAL_REPOSITORY={document['repository']}\n"
        "  shoal predict cat.jpg\n\nCtrl-C stops the cluster.\n"
    )


def _predict(options: argparse.Namespace) -> int:
    mode: Mode = options.mode

    async def run() -> int:
        failed = 0
        files = options.files
        async with AsyncClient(
            options.gateway, api_key=options.api_key, mode=mode, timeout=options.timeout, ca=options.ca
        ) as client:
            with Progress(len(files), sys.stderr) as progress:
                outcomes = client.predict_many(
                    [Path(name) for name in files],
                    model=options.model,
                    version=options.version,
                    label=options.label,
                    key=options.key,
                    top_k=options.top,
                    options=dict(options.option),
                    priority=options.priority,
                    concurrency=min(options.concurrency, len(files)),
                )
                async for outcome in outcomes:
                    failed += outcome.error is not None
                    progress.advance(_line(files[outcome.number], outcome, as_json=options.json))
        return 1 if failed else 0

    return asyncio.run(run())


class Progress:
    """A bar on a terminal, nothing elsewhere; results are printed above it."""

    _WIDTH = 30

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = total
        self._done = 0
        self._stream = stream
        self._shown = stream.isatty() and total > 1

    def __enter__(self) -> Progress:
        self._draw()
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear()

    def advance(self, line: str) -> None:
        self._done += 1
        self._clear()
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        self._draw()

    def _draw(self) -> None:
        if self._shown:
            filled = self._WIDTH * self._done // self._total
            self._stream.write(f"[{'#' * filled:<{self._WIDTH}}] {self._done}/{self._total}")
            self._stream.flush()

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _line(name: str, outcome: Outcome, *, as_json: bool) -> str:
    if outcome.error is not None:
        code = outcome.error.code if isinstance(outcome.error, ShoalError) else "unreadable_file"
        message = outcome.error.message if isinstance(outcome.error, ShoalError) else str(outcome.error)
        if as_json:
            return json.dumps({"file": name, "error": {"code": code, "message": message}})
        return f"{name}: {code}: {message}"
    assert outcome.answer is not None
    if as_json:
        return json.dumps({"file": name, "path": outcome.answer.path, **outcome.answer.document})
    return f"{name}: {_summary(outcome.answer)}   ({outcome.answer.path}, {outcome.answer.worker})"


def _summary(answer: Answer) -> str:
    if answer.predictions:
        separator = "; " if answer.predictions[0].box else ", "
        return separator.join(map(str, answer.predictions))
    if "predictions" in answer.document:
        return "nothing found"
    embedding = answer.document.get("embedding")
    if isinstance(embedding, list):
        return f"{len(embedding)} floats: " + " ".join(f"{value:.4f}" for value in embedding[:5]) + " ..."
    outputs = answer.document.get("outputs")
    if isinstance(outputs, dict):
        return ", ".join(f"{name} {output['dtype']} {output['shape']}" for name, output in outputs.items())
    return "answered"


if __name__ == "__main__":
    raise SystemExit(main())
