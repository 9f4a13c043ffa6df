"""What a process does for a test: lead it alone, lead workers, or be led. One class for each of Locust's runners."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping
from typing import Any

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.exception import StopTest
from locust.runners import STATE_MISSING, MasterRunner, Runner, WorkerRunner
from locust.stats import CSV_STATS_INTERVAL_SEC, RequestStats

from loadtest.options import Plan, load_of, plan_of
from loadtest.profiles import Profile
from loadtest.run import Part, Run
from loadtest.shape import Shape
from loadtest.tally import Tally
from loadtest.thresholds import Outcome, check, verdict
from loadtest.users import DirectUser, ProxyUser, ShoalUser

_PART, _DRAIN, _DRAINED = "shoal_part", "shoal_drain", "shoal_drained"
_DRAIN_MARGIN = 5.0  # seconds beyond the timeout of a worker's last requests
_WHOLE = ("PROXY", "DIRECT")
_MODES: dict[str, tuple[type[ShoalUser], ...]] = {
    "proxy": (ProxyUser,),
    "direct": (DirectUser,),
    "both": (ProxyUser, DirectUser),
}


class Leader:
    """The process that knows how much load there is, stops it, and gives the verdict."""

    def __init__(self, environment: Environment, runner: Runner) -> None:
        self.environment = environment
        self.runner = runner
        self.plan = plan_of(_options(environment))
        self.load = load_of(_options(environment))
        self.shape = Shape(self.load, self.plan.loop) if self.load.profile else None
        self._judged = False
        environment.host = environment.host or self.plan.gateways[0]
        environment.stop_timeout = environment.stop_timeout or self.plan.timeout  # of a shape that goes down
        _choose_users(environment, self.plan)
        if self.shape:
            environment.shape_class = self.shape
            self.shape.runner = runner
            gevent.signal_handler(signal.SIGTERM, runner.quit)  # Locust listens to it only when a shape is over
        listen = environment.events
        listen.test_start.add_listener(self.on_test_start)
        listen.spawning_complete.add_listener(self.on_spawning_complete)
        listen.test_stopping.add_listener(self.on_test_stopping)

    def on_test_start(self, **_: Any) -> None:
        self._judged = False
        if self.shape:
            self.shape.rewind()
            if self.plan.loop == "closed":
                self.shape.begin()

    def on_spawning_complete(self, **_: Any) -> None:
        if self.shape and not self.shape.begun:
            self.shape.begin()
            self.environment.stats.reset_all()  # their clock ran while the users of an open loop came

    def on_test_stopping(self, **_: Any) -> None:
        if self.shape:
            self.shape.end()

    def tallies(self) -> list[Mapping[str, Any]]:
        raise NotImplementedError

    @property
    def lost(self) -> int:
        """Processes that did not report to the end."""
        return 0

    @property
    def elapsed(self) -> float:
        return self.shape.elapsed if self.shape else math.inf

    def judge(self) -> None:
        """Print the verdict and set the exit code, once for each test."""
        if self._judged:
            return
        self._judged = True
        exceptions = sum(row["count"] for row in self.runner.exceptions.values())
        outcome = outcome_of(
            self.environment.stats,
            Tally.merged(self.tallies()),
            due=self.shape.due if self.shape else None,
            lost=self.lost,
            exceptions=exceptions,
        )
        checks = list(check(outcome, self.plan.thresholds))
        print(f"\n{verdict(outcome, checks)}\n", flush=True)
        self.environment.process_exit_code = 0 if all(line.passed for line in checks) else 1
        if _options(self.environment).csv_prefix:
            gevent.sleep(1.2 * CSV_STATS_INTERVAL_SEC)  # Locust writes the files now and then, and not at the end


class Alone(Leader):
    """One process that leads and sends."""

    def __init__(self, environment: Environment, runner: Runner) -> None:
        super().__init__(environment, runner)
        self._run: Run | None = None

    def on_test_start(self, **_: Any) -> None:
        super().on_test_start()
        profile = self.load.profile if self.plan.loop == "open" else None
        self._run = _install(self.environment, self.plan, Part(profile) if profile else None)
        self.environment.stats.reset_all()  # its clock ran while the pictures were made

    def on_spawning_complete(self, **_: Any) -> None:
        super().on_spawning_complete()
        if self._run:
            self._run.begin()

    def on_test_stopping(self, **_: Any) -> None:
        super().on_test_stopping()
        if self._run:
            self._run.drain(self.elapsed)

    def judge(self) -> None:
        self.runner.quit()  # a signal comes here while the test runs; a master's runner does it itself
        super().judge()

    def tallies(self) -> list[Mapping[str, Any]]:
        return [self._run.tally.report()] if self._run else []


class Master(Leader):
    """Leads Locust's workers: each gets its part of the arrivals, and all are waited for at the end."""

    def __init__(self, environment: Environment, runner: MasterRunner) -> None:
        super().__init__(environment, runner)
        self._master = runner
        self._tallies: dict[str, Mapping[str, Any]] = {}
        self._waiting: set[str] = set()
        self._lost: set[str] = set()
        self._all_drained = Event()
        runner.register_message(_DRAINED, self._on_drained)
        environment.events.worker_report.add_listener(self._on_report)

    @property
    def lost(self) -> int:
        return len(self._lost)

    def tallies(self) -> list[Mapping[str, Any]]:
        return list(self._tallies.values())

    def on_test_start(self, **_: Any) -> None:
        super().on_test_start()
        clients = self._present()
        rows = self.load.profile.rows if self.load.profile and self.plan.loop == "open" else None
        self._tallies, self._waiting, self._lost = {}, set(clients), set()
        for number, client in enumerate(clients):
            self._master.send_message(_PART, {"rows": rows, "number": number, "of": len(clients)}, client_id=client)

    def on_test_stopping(self, **_: Any) -> None:
        """A worker that is asked to quit while it waits for answers would have half a second to tell of them."""
        super().on_test_stopping()
        self._all_drained.clear()
        self._master.send_message(_DRAIN, {"until": self.elapsed})
        deadline = time.monotonic() + self.plan.timeout + _DRAIN_MARGIN
        while self._waiting and time.monotonic() < deadline and self._waiting & set(self._present()):
            self._all_drained.wait(1.0)
        self._lost, self._waiting = self._waiting, set()

    def _present(self) -> list[str]:
        return [client.id for client in self._master.clients.all if client.state != STATE_MISSING]

    def _on_report(self, client_id: str, data: Mapping[str, Any], **_: Any) -> None:
        if "shoal" in data:
            self._tallies[client_id] = data["shoal"]

    def _on_drained(self, msg: Any, **_: Any) -> None:
        self._waiting.discard(msg.node_id)
        if not self._waiting:
            self._all_drained.set()


class Worker:
    """Sends what the master says. It judges nothing."""

    def __init__(self, environment: Environment, runner: WorkerRunner) -> None:
        self._environment = environment
        self._runner = runner
        self._part: Part | None = None
        self._run: Run | None = None
        runner.register_message(_PART, self._on_part)
        runner.register_message(_DRAIN, self._on_drain, concurrent=True)
        listen = environment.events
        listen.test_start.add_listener(self._on_test_start)
        listen.spawning_complete.add_listener(self._on_spawning_complete)
        listen.report_to_master.add_listener(self._on_report)

    def _on_part(self, msg: Any, **_: Any) -> None:
        rows = msg.data["rows"]
        self._part = Part(Profile.of(rows), msg.data["number"], msg.data["of"]) if rows else None

    def _on_test_start(self, **_: Any) -> None:
        if _options(self._environment).processes:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the master too, which asks us to drain
        self._run = _install(self._environment, plan_of(_options(self._environment)), self._part)
        self._part = None  # one that joins later, or again, has none

    def _on_spawning_complete(self, **_: Any) -> None:
        if self._run and not self._run.begun:
            self._environment.stats.reset_all()
            self._run.begin()

    def _on_report(self, data: dict[str, Any], **_: Any) -> None:
        if self._run:
            data["shoal"] = self._run.tally.report()

    def _on_drain(self, msg: Any, **_: Any) -> None:
        if self._run:
            self._run.drain(msg.data["until"])
        data: dict[str, Any] = {}
        self._environment.events.report_to_master.fire(client_id=self._runner.client_id, data=data)
        self._runner.send_message("stats", data)  # on the same connection, so the master has it first
        self._runner.send_message(_DRAINED)
        if _options(self._environment).processes:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def role_of(environment: Environment) -> Leader | Worker:
    """The role of this process. Raises ``ValueError`` for options that do not fit together."""
    match environment.runner:
        case WorkerRunner() as runner:
            return Worker(environment, runner)
        case MasterRunner() as runner:
            return Master(environment, runner)
        case Runner() as runner:
            return Alone(environment, runner)
    raise ValueError("Locust has made no runner")


def outcome_of(stats: RequestStats, tally: Tally, *, due: int | None, lost: int, exceptions: int) -> Outcome:
    """A direct request counts once: as a whole, not as its lookup and its upload."""
    whole = [entry for (_, kind), entry in stats.entries.items() if kind in _WHOLE]
    failed = sum(entry.num_failures for entry in whole)
    histogram: dict[float, int] = {}
    for entry in whole:
        for milliseconds, count in entry.response_times.items():
            histogram[milliseconds] = histogram.get(milliseconds, 0) + count
    return Outcome(
        answered=sum(entry.num_requests for entry in whole) - failed,
        failed=failed,
        refused=sum(entry.num_requests for (_, kind), entry in stats.entries.items() if kind == "REFUSED"),
        histogram=histogram,
        tally=tally,
        due=due,
        lost_processes=lost,
        exceptions=exceptions,
    )


def _install(environment: Environment, plan: Plan, part: Part | None) -> Run:
    try:
        run = Run(environment, plan, part)
    except (OSError, ValueError) as error:  # the folder of images
        raise StopTest(f"load test: {error}") from error
    ShoalUser.run_ = run
    ShoalUser.network_timeout = plan.timeout + 1  # the cluster's own 504 comes first
    ShoalUser.connection_timeout = plan.timeout
    return run


def _choose_users(environment: Environment, plan: Plan) -> None:
    wanted = [kind for kind in environment.user_classes if kind in _MODES[plan.mode]]
    if not wanted:
        raise ValueError(f"--mode {plan.mode} leaves none of the users that were named")
    environment.user_classes[:] = wanted


def _options(environment: Environment) -> Any:
    assert environment.parsed_options is not None
    return environment.parsed_options
