"""``shoal keys``: make and remove API keys, ticket keys, the secrets of webhooks, and certificates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from shoal.operations import NotPossible

_WANTED = (
    "NAME.pem and NAME.key; a role (worker, gateway, nginx, prometheus, consul or admin) is for internal listeners, "
    "none for public ones; addresses are names and IP addresses by which it is reached"
)


def add_commands(commands: Any) -> None:
    """Add ``keys`` to the subcommands of ``shoal``."""
    keys = commands.add_parser(
        "keys", help="make and remove API keys, ticket keys, certificates and the secrets of webhooks"
    )
    verbs = keys.add_subparsers(required=True, metavar="VERB")
    add = verbs.add_parser("add", help="add an API key and print it, once")
    add.add_argument("name")
    add.add_argument("--file", type=Path, required=True, help="the gateways' api_keys file")
    add.add_argument("--admin", action="store_true", help="it may also drain workers")
    add.set_defaults(command=_add)
    remove = verbs.add_parser("remove", help="take an API key back; gateways follow within a second")
    remove.add_argument("name")
    remove.add_argument("--file", type=Path, required=True, help="the gateways' api_keys file")
    remove.set_defaults(command=_remove)
    tickets = verbs.add_parser("tickets", help="make a key that signs tickets")
    tickets.add_argument("--private", type=Path, required=True, help="for the gateways; kept secret")
    tickets.add_argument("--public", type=Path, required=True, help="for the workers; new keys are added to it")
    tickets.set_defaults(command=_tickets)
    webhook = verbs.add_parser("webhook", help="make a secret that signs webhooks, and print it for their receiver")
    webhook.add_argument("--file", type=Path, required=True, help="the workers' webhook_secret file; it is added there")
    webhook.set_defaults(command=_webhook)
    certificates = verbs.add_parser("certificates", help="issue certificates by a CA of one's own, or renew them")
    certificates.add_argument("wanted", nargs="+", metavar="NAME[:ROLE[+ROLE]][,ADDRESS…]", help=_WANTED)
    certificates.add_argument("--folder", type=Path, required=True, help="of the CA and all it issues; made if need be")
    certificates.add_argument(
        "--days", type=float, default=365, metavar="N", help="how long they are good; default: 365"
    )
    certificates.set_defaults(command=_certificates)


def _add(options: argparse.Namespace) -> int:
    from shoal import keys

    try:
        key = keys.add(options.file, options.name, is_admin=options.admin)
    except ValueError as error:
        raise NotPossible(str(error)) from error
    sys.stdout.write(key + "\n")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from shoal import keys

    try:
        keys.remove(options.file, options.name)
    except ValueError as error:
        raise NotPossible(str(error)) from error
    return 0


def _tickets(options: argparse.Namespace) -> int:
    try:
        from shoal import tickets
    except ImportError as error:
        raise NotPossible("this needs more than the client: pip install 'shoal[gateway]'") from error
    try:
        kid = tickets.generate(options.private, options.public)
    except (ValueError, KeyError) as error:
        raise NotPossible(f"{options.public} is not a set of ticket keys: {error}") from error
    sys.stdout.write(f"{kid}\n")
    return 0


def _webhook(options: argparse.Namespace) -> int:
    from shoal import keys

    sys.stdout.write(keys.add_webhook_secret(options.file) + "\n")
    return 0


def _certificates(options: argparse.Namespace) -> int:
    try:
        from shoal import certificates
    except ImportError as error:
        raise NotPossible("this needs more than the client: pip install 'shoal[service]'") from error
    if options.days <= 0:
        raise NotPossible("--days is more than 0")
    try:
        for wanted in [certificates.Wanted.parse(text) for text in options.wanted]:
            expires = certificates.issue(options.folder, wanted, days=options.days)
            sys.stdout.write(f"{options.folder / wanted.name}.pem until {expires:%Y-%m-%d %H:%M} UTC\n")
    except ValueError as error:
        raise NotPossible(str(error)) from error
    return 0
