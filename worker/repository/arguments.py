"""The arguments of ``shoal models`` and ``shoal serve``."""

from __future__ import annotations

import argparse
import os
import tomllib
from pathlib import Path
from typing import Any

from worker.models.inference import merged
from worker.repository.archives import ENDINGS

__all__ = ["models", "serve"]

_ARTEFACT = "a .keras, .h5, .onnx or TorchScript .pt file, a SavedModel's folder, or file.py:Class"
_SOURCE = f"{_ARTEFACT}; a folder with a model.toml, or an archive of one ({', '.join(ENDINGS)})"


def models() -> argparse.ArgumentParser:
    """``shoal models VERB …``. The verb's name is ``verb``."""
    parser = argparse.ArgumentParser(
        prog="shoal models", description="Prepare models, publish them, and say which version serves whom."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")

    init = verbs.add_parser("init", help="write the model.toml of an artefact, as far as it can be told from it")
    init.add_argument("source", metavar="ARTEFACT", help=_ARTEFACT)
    init.add_argument("--output", type=Path, metavar="DIR", help="where to write it; default: beside the artefact")
    init.add_argument("--force", action="store_true", help="write over one that is there")
    _wishes(init, photos=False)

    check = verbs.add_parser("check", help="see whether a model could be published, and change nothing")
    check.add_argument("source", metavar="SOURCE", help=_SOURCE)
    _wishes(check)
    _json(check)

    convert = verbs.add_parser("convert", help="write a Keras model or a SavedModel as ONNX, when that gives the same")
    convert.add_argument("source", metavar="SOURCE", help=_SOURCE)
    convert.add_argument("target", type=Path, metavar="TARGET.onnx")
    _wishes(convert)

    add = verbs.add_parser("add", help="prepare a version in the repository, and publish it to the workers")
    add.add_argument("source", metavar="SOURCE", help=_SOURCE + "; or a URL of one, which workers fetch themselves")
    add.add_argument("--name", metavar="N", help="of the model; default: as the manifest, the file or the folder says")
    add.add_argument("--version", metavar="V", help="default: the next free number")
    add.add_argument("--label", default="", metavar="L", help="a label that moves to this version")
    add.add_argument("--keep", type=_count, default=1, metavar="K", help="older versions that stay, beside named ones")
    add.add_argument("--sha256", default="", metavar="D", help="of the file SOURCE, or the digest of the folder in it")
    add.add_argument(
        "--wait", type=float, metavar="SECONDS", help="for it to be ready on every worker of the gateway that loads it"
    )
    _wishes(add)
    _discovery(add)
    _repository(add)
    _gateway(add)
    _json(add)

    shown = verbs.add_parser("list", help="show all published models")
    _discovery(shown)
    _json(shown)

    show = verbs.add_parser("show", help="show the versions of a model, and how they fare on the workers")
    show.add_argument("name", metavar="NAME")
    _discovery(show)
    _gateway(show)
    _json(show)

    remove = verbs.add_parser("remove", help="take a model or one version of it out of service; its files stay")
    remove.add_argument("name", metavar="NAME[@VERSION]")
    remove.add_argument("--force", action="store_true", help="and the labels and the traffic that name it")
    _discovery(remove)

    label = verbs.add_parser("label", help="give a version a name that clients may ask for")
    label.add_argument("name", metavar="NAME")
    label.add_argument("label", metavar="LABEL")
    label.add_argument("version", nargs="?", metavar="VERSION")
    label.add_argument("--remove", action="store_true", help="take the label away")
    _discovery(label)

    traffic = verbs.add_parser("traffic", help="split requests that name no version, or let the newest have them all")
    traffic.add_argument("name", metavar="NAME")
    traffic.add_argument("shares", nargs="+", type=_share, metavar="VERSION=WEIGHT", help="…, or the word 'latest'")
    _discovery(traffic)

    rollback = verbs.add_parser("rollback", help="send all traffic to the version before the newest that has some")
    rollback.add_argument("name", metavar="NAME")
    _discovery(rollback)

    place = verbs.add_parser("place", help="say which workers load a model")
    place.add_argument("name", metavar="NAME")
    place.add_argument("where", nargs="+", metavar="WORKER-OR-ZONE", help="with * and ?; or the word 'everywhere'")
    _discovery(place)
    return parser


def serve() -> argparse.ArgumentParser:
    """``shoal serve SOURCE …``; what it does not know is for ``shoal up``."""
    parser = argparse.ArgumentParser(
        prog="shoal serve",
        description="Serve one model on this machine, without a manifest, until SIGTERM or Ctrl-C.",
        epilog="Every option of 'shoal up' may follow; there is one worker by default.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE", help=_SOURCE)
    parser.add_argument(
        "--name", metavar="N", help="of the model; default: as the manifest, the file or the folder says"
    )
    _wishes(parser)
    return parser


def _wishes(parser: argparse.ArgumentParser, *, photos: bool = True) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_part,
        metavar="KEY=VALUE",
        help="of model.toml, such as input.scale=0.5 or task=embedding; repeat it for several",
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="one a line; default: labels.txt beside an artefact"
    )
    if photos:
        parser.add_argument(
            "--golden", action="append", default=[], type=Path, metavar="PHOTO", help="to compare every worker by"
        )
        parser.add_argument("--no-convert", dest="convert", action="store_false", help="no copy as ONNX")


def _discovery(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--discovery", default=os.environ.get("SHOAL_DISCOVERY"), metavar="URL", help="default: $SHOAL_DISCOVERY"
    )


def _repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repository", default=os.environ.get("SHOAL_REPOSITORY"), metavar="DIR", help="default: $SHOAL_REPOSITORY"
    )


def _gateway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gateway", default=os.environ.get("SHOAL_GATEWAY"), metavar="URL", help="default: $SHOAL_GATEWAY"
    )
    parser.add_argument(
        "--api-key", default=os.environ.get("SHOAL_API_KEY"), metavar="KEY", help="default: $SHOAL_API_KEY"
    )
    parser.add_argument(
        "--ca", default=os.environ.get("SHOAL_CA"), metavar="FILE", help="trust only these (PEM); default: $SHOAL_CA"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _share(text: str) -> tuple[str, float] | None:
    """A version or a label, and its weight; None for ``latest``."""
    if text == "latest":
        return None
    name, _, weight = text.rpartition("=")
    try:
        return name, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither VERSION=WEIGHT nor 'latest'") from None


def _part(text: str) -> dict[str, Any]:
    """A document with one value: what TOML understands, else a text."""
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        read: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        read = value
    for name in reversed(key.split(".")):
        read = {name: read}
    return merged(read)
