"""The command line: ``shoal cloud COMMAND``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cloud import boot, lifecycle, scaling, secrets
from cloud.aws import Group, Parameters, Wishes
from cloud.errors import CloudError
from cloud.instance import ADDRESS, Instance
from shoal import logs


def parser() -> argparse.ArgumentParser:
    tool = argparse.ArgumentParser(prog="shoal cloud", description="What a host on AWS does, and its operator for it.")
    commands = tool.add_subparsers(required=True, metavar="COMMAND")

    new = commands.add_parser("secrets", help="make the secrets of a cluster in a new folder; print its first API key")
    new.add_argument("folder", type=Path)
    new.add_argument("domain", help="the public name of the cluster")
    new.add_argument("--certificate", type=Path, metavar="FILE", help="of that name, with its chain; default: own CA's")
    new.add_argument("--certificate-key", type=Path, metavar="FILE", help="its key")
    new.set_defaults(command=_secrets)

    put = commands.add_parser("put", help="put each file below a folder into the Parameter Store, encrypted")
    put.add_argument("folder", type=Path, help="ROLE/NAME becomes the parameter PATH/ROLE/NAME")
    put.add_argument("path", help="such as /shoal/production: the output 'parameters' of Terraform")
    put.add_argument("--key", default="", metavar="ARN", help="of your own key; default: AWS's")
    put.add_argument("--region", default="", help="default: that of your AWS settings")
    put.set_defaults(command=_put)

    first = commands.add_parser("boot", help="make this instance a host of its cluster; print the units to start")
    fetch = commands.add_parser("fetch", help="fetch this host's secrets again")
    live = commands.add_parser("lifecycle", help="tell the group when this instance is useful, and leave when it must")
    live.add_argument("--ready", required=True, metavar="COMMAND", help="succeeds when the instance is useful")
    live.add_argument("--leave", required=True, metavar="COMMAND", help="returns when the instance has left")
    live.add_argument("--pause", type=float, default=5.0, metavar="SECONDS", help="between two looks")
    live.add_argument(
        "--heartbeat", type=float, default=60.0, metavar="SECONDS", help="between two signs while leaving"
    )
    scale = commands.add_parser("scale", help="have the workers' group be as large as the gateway suggests")
    scale.add_argument("--gateway", required=True, metavar="URL", help="the gateway of this host")
    scale.add_argument("--ca", default="", metavar="FILE", help="of its certificate; default: the system's")
    scale.add_argument("--name", default="", help="that its certificate must have; default: that of the URL")
    scale.add_argument("--api-key-file", type=Path, metavar="FILE", help="key for the gateway; default: none")
    scale.add_argument("--interval", type=float, default=60.0, metavar="SECONDS", help="between two looks")
    for command, does in ((first, _boot), (fetch, _fetch), (live, _lifecycle), (scale, _scale)):
        command.add_argument("--etc", type=Path, default=Path("/etc"), metavar="DIR", help="default: /etc")
        command.add_argument("--metadata", default=ADDRESS, metavar="HOST", help="the instance metadata service")
        command.set_defaults(command=does)
    return tool


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    logs.configure("info", role="cloud")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (CloudError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"shoal cloud: {error}\n")
        return 1


def _described(options: argparse.Namespace) -> boot.Described:
    return boot.Described.read(options.etc / "shoal" / "instance.json")


def _secrets(options: argparse.Namespace) -> int:
    given = (options.certificate, options.certificate_key)
    if (given[0] is None) != (given[1] is None):
        raise CloudError("--certificate and --certificate-key belong together")
    sys.stdout.write(secrets.make(options.folder, options.domain, given if given[0] else None) + "\n")
    return 0


def _put(options: argparse.Namespace) -> int:
    parameters = Parameters(options.region)
    roles = ("common", *boot.UNITS)  # and not the key of the CA
    files = sorted(path for role in roles for path in (options.folder / role).rglob("*") if path.is_file())
    if not files:
        raise CloudError(f"{options.folder} has no files in {', '.join(roles)}")
    for path in files:
        name = f"{options.path.rstrip('/')}/{path.relative_to(options.folder).as_posix()}"
        parameters.put(name, path.read_text(encoding="utf-8"), key=options.key)
        sys.stdout.write(f"{name}\n")
    return 0


def _boot(options: argparse.Namespace) -> int:
    described = _described(options)
    boot.fetch(described, Parameters(described.region), options.etc)
    boot.describe(described, Instance(options.metadata), options.etc)
    sys.stdout.write("".join(f"{unit}\n" for unit in boot.UNITS[described.role]))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    described = _described(options)
    for name in boot.fetch(described, Parameters(described.region), options.etc):
        sys.stdout.write(f"{name}\n")
    return 0


def _lifecycle(options: argparse.Namespace) -> int:
    described = _described(options)
    orders = lifecycle.Orders(
        shlex.split(options.ready), shlex.split(options.leave), pause=options.pause, heartbeat=options.heartbeat
    )
    return lifecycle.follow(Instance(options.metadata), Group(described.group, described.region), orders)


def _scale(options: argparse.Namespace) -> int:
    described = _described(options)
    group = described.settings["scaled_group"]
    key = options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else ""
    gateway = scaling.Gateway(options.gateway, float(described.settings["target"]), key, options.ca, options.name)
    scaling.keep(gateway, Wishes(group, described.region), Group(group, described.region), options.interval)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
