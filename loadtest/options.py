"""The command line's options, and the plan of a test that they make."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from loadtest import profiles
from loadtest.profiles import Profile
from loadtest.thresholds import Failures, Thresholds, share

_SHAPES = ("ramp", "steps", "spike", "soak", "origin")
_SHAPE_SECONDS = {"soak": 3600.0}
_OTHER_SHAPE_SECONDS = 60.0
_PATIENCE = 4.0  # seconds of arrivals that an open loop has users for, unless --users says how many
_FEWEST_USERS, _MOST_USERS = 10, 2000

Loop = Literal["closed", "open"]


class Parser(Protocol):
    """Locust's parser: argparse's, with the names of environment variables."""

    def add_argument(self, *names: str, **settings: Any) -> object: ...


@dataclass(frozen=True)
class Plan:
    """What every process of a load test knows: what is sent, where to, and what must come of it."""

    gateways: list[str]
    api_key: str
    mode: str
    models: list[str]
    sizes: list[tuple[int, int]]
    pictures: int
    folder: Path | None
    priority: str
    timeout: float
    wait: float
    loop: Loop
    thresholds: Thresholds


@dataclass(frozen=True)
class Load:
    """How much of it, which only the process that leads the test knows.

    ``profile`` is None where Locust's own users and run time say it all. In an open loop ``users`` are the
    requests that may be under way at once.
    """

    profile: Profile | None
    users: int


def add_options(parser: Parser) -> None:
    """Values stay texts and numbers, for Locust sends them to its workers."""
    add = parser.add_argument
    add("--gateway", env_var="SHOAL_GATEWAY", default="", type=_urls, help="one URL or several, separated by commas")
    # Locust's page has the values of its options in its source, and no login.
    add("--api-key", env_var="SHOAL_API_KEY", default="", include_in_web_ui=False, help="sent to the gateways")
    add("--mode", choices=("proxy", "direct", "both"), default="both", help="through the gateway, or lookup and upload")
    add("--models", default="", metavar="NAME,…", help="asked in turn; by default the cluster's first")
    add("--sizes", default="640x480", type=_sizes, metavar="WxH,…", help="of the generated pictures")
    add("--pictures", default=16, type=_count, metavar="N", help="how many of each size are generated")
    add("--images", default="", metavar="DIR", help="upload the images of this folder instead")
    add("--priority", choices=("interactive", "bulk"), default="interactive", help="of every request")
    add("--timeout", default=30.0, type=_positive, metavar="SECONDS", help="how long a request waits for its answer")
    add("--wait", default=0.0, type=_seconds, metavar="SECONDS", help="between the requests of a closed-loop user")
    add("--rate", default=None, type=_positive, metavar="RPS", help="an open loop with so many arrivals a second")
    add("--shape", choices=_SHAPES, default=None, help="how the load changes; the peak is --users, or --rate")
    add("--base", default=None, type=_seconds, metavar="LEVEL", help="of ramp (0) and spike (a tenth of the peak)")
    add("--steps", default=5, type=_count, metavar="N", help="of the shape steps")
    add("--spike-at", default=None, type=_seconds, metavar="SECONDS", help="default: after a third of the run")
    add("--spike-for", default=None, type=_seconds, metavar="SECONDS", help="default: a sixth of the run")
    add("--rise", default=None, type=_seconds, metavar="SECONDS", help="of soak; default: a tenth, at most 60 s")
    add("--count", default=500, type=_count, metavar="N", help="requests of the shape origin")
    add("--interval", default=0.05, type=_positive, metavar="SECONDS", help="between the requests of origin")
    add("--max-failures", default="0", type=_failures, metavar="N|P%", help="a count, or a share of all (0)")
    add("--max-p95", default=None, type=_positive, metavar="SECONDS", help="of whole requests")
    add("--min-goodput", default=None, type=_positive, metavar="RPS", help="good answers a second")
    add("--max-refused", default=None, type=_share, metavar="RATIO", help="share of all that got 429: 0.05 or 5%%")


def plan_of(options: argparse.Namespace) -> Plan:
    """Raises ``ValueError`` when there is no gateway."""
    return Plan(
        gateways=_gateways(options.gateway or options.host or ""),
        api_key=options.api_key,
        mode=options.mode,
        models=[name for name in options.models.split(",") if name],
        sizes=[_size(text) for text in options.sizes.split(",")],
        pictures=options.pictures,
        folder=Path(options.images) if options.images else None,
        priority=options.priority,
        timeout=options.timeout,
        wait=options.wait,
        loop="closed" if options.rate is None and options.shape != "origin" else "open",
        thresholds=Thresholds(
            Failures.parse(options.max_failures), options.max_p95, options.min_goodput, options.max_refused
        ),
    )


def load_of(options: argparse.Namespace) -> Load:
    """Raises ``ValueError`` for a shape without its peak."""
    if options.shape not in (None, "origin") and options.rate is None and options.num_users is None:
        raise ValueError("a shape needs its peak: --users for a closed loop, --rate for an open one")
    profile = _profile(options)
    return Load(profile, options.num_users or _users_for(options, profile))


def _profile(options: argparse.Namespace) -> Profile | None:
    peak = options.rate or options.num_users or 0
    default = _SHAPE_SECONDS.get(options.shape, _OTHER_SHAPE_SECONDS) if options.shape else math.inf
    seconds = float(options.run_time or default)
    match options.shape:
        case "ramp":
            return profiles.ramp(peak, seconds, options.base or 0)
        case "steps":
            return profiles.steps(peak, seconds, options.steps)
        case "spike":
            base = _or(options.base, peak / 10)
            at, length = _or(options.spike_at, seconds / 3), _or(options.spike_for, seconds / 6)
            return profiles.spike(peak, seconds, base, at, length)
        case "soak":
            return profiles.soak(peak, seconds, _or(options.rise, min(60.0, seconds / 10)))
        case "origin":
            return profiles.origin(options.count, options.interval)
    return profiles.constant(peak, seconds) if options.rate else None


def _users_for(options: argparse.Namespace, profile: Profile | None) -> int:
    """How many requests an open loop may have under way. The origin's never wait for one another."""
    if options.shape == "origin":
        return int(options.count)
    wanted = math.ceil(_PATIENCE * profile.peak) if profile else 1
    return max(_FEWEST_USERS, min(_MOST_USERS, wanted)) if profile else wanted


def _gateways(text: str) -> list[str]:
    urls = [url.strip().rstrip("/") for url in text.split(",") if url.strip()]
    if not urls:
        raise ValueError("no gateway: give --gateway URL, or set SHOAL_GATEWAY")
    return urls


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.strip().partition("x")
    if not (width.isdecimal() and height.isdecimal() and 0 < int(width) <= 20_000 and 0 < int(height) <= 20_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 640x480")
    return int(width), int(height)


def _sizes(text: str) -> str:
    return ",".join(f"{width}x{height}" for width, height in map(_size, text.split(",")))


def _urls(text: str) -> str:
    for url in filter(None, text.split(",")):
        if urlsplit(url.strip()).scheme not in ("http", "https"):
            raise argparse.ArgumentTypeError(f"{url!r} is not a URL like http://127.0.0.1:8080")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value


def _positive(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _failures(text: str) -> str:
    Failures.parse(text)
    return text


def _share(text: str) -> float:
    return share(text)
