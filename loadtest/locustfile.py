"""What Locust loads: ``python -m locust -f loadtest/locustfile.py --headless …``. See docs/load.md."""

from __future__ import annotations

import sys
from typing import Any

from locust import events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtest.options import add_options
from loadtest.roles import Leader, Worker, role_of
from loadtest.users import DirectUser, ProxyUser

__all__ = ["DirectUser", "ProxyUser"]


class Entry:
    """Ties this process's role to Locust's events."""

    def __init__(self) -> None:
        self._role: Leader | Worker | None = None
        events.init_command_line_parser.add_listener(self.on_parser)
        events.init.add_listener(self.on_init)
        # Quitting calls the last listener first, so Locust's own, which stops the test, comes before this one.
        events.quitting.add_listener(self.on_quitting)

    def on_parser(self, parser: LocustArgumentParser, **_: Any) -> None:
        add_options(parser)

    def on_init(self, environment: Environment, **_: Any) -> None:
        try:
            self._role = role_of(environment)
        except ValueError as error:
            sys.exit(f"load test: {error}")

    def on_quitting(self, **_: Any) -> None:
        if isinstance(self._role, Leader):
            self._role.judge()


Entry()
