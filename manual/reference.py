"""Writes docs/reference out of the code: settings, errors, commands and the Python client.

``python -m manual.reference`` writes the pages, which are committed; a test holds them equal to the code.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo

import shoal
from shoal import calls, cli, client, errors
from shoal.errors import ShoalError
from shoal.nginx_settings import NginxSettings
from shoal.settings import MIB, GatewaySettings, Read, WorkerSettings
from worker.repository import arguments

__all__ = ["FOLDER", "pages", "write"]

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
_ORIGIN = "<!-- `make reference` writes this page out of the code: change it there. -->\n"


def pages() -> Mapping[str, str]:
    """The text of every page, by its file's name."""
    return {
        "settings.md": _settings(),
        "errors.md": _errors(),
        "commands.md": _commands(),
        "python.md": _python(),
    }


def write(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _table(*heads: str) -> str:
    return _row(*heads) + _row(*("---" for _ in heads))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


# Settings


def _settings() -> str:
    kinds: tuple[tuple[str, type[Read]], ...] = (
        ("Gateway", GatewaySettings),
        ("Worker", WorkerSettings),
        ("nginx", NginxSettings),
    )
    return f"""# Settings

{_ORIGIN}
A setting comes from the command line, or else the environment, or else the file that `--config` or `SHOAL_CONFIG`
names (TOML, with the tables `[gateway]`, `[worker]` and `[nginx]`), or else it has its default. On the command line
`max_body_bytes` is `--max-body-bytes`, and a setting that is true or false is `--public` or `--no-public`. A list is
separated by commas. A service that finds mistakes names them all and does not start. `shoal settings gateway`,
`shoal settings worker` and `shoal settings nginx` print what is in effect, and hide secrets.

{"".join(_of(name, kind) for name, kind in kinds).rstrip()}
"""


def _of(name: str, kind: type[Read]) -> str:
    prefix = kind.model_config["env_prefix"]
    rows = "".join(
        _row(_code(field), _code(prefix + field.upper()), _default(info), str(info.description))
        for field, info in kind.model_fields.items()
        if field != "lifeline"
    )
    return f"## {name}\n\n{_table('name', 'environment variable', 'default', 'meaning')}{rows}\n"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return _code(",".join(value)) or "empty"
    text = json.dumps(value) if isinstance(value, bool | float | int) else str(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= MIB and value % MIB == 0:
        return f"`{text}` ({value // MIB} MiB)"
    return "empty" if text in ("", "**********") else _code(text)


# Errors


def _errors() -> str:
    rows = "".join(
        _row(
            str(kind.status or "-"),
            _code(kind.code),
            "yes" if kind.retryable else "",
            _code(kind.__name__),
            kind.summary,
        )
        for kind in sorted(errors.every(), key=lambda kind: kind.status or 999)
    )
    return f"""# Errors

{_ORIGIN}
An error is `{{"success": false, "error": {{"code", "message", "request_id", "retryable"}}}}` with the status of this
table. A `code` never changes its meaning. *Retryable* means that the same request may succeed when it is sent again,
to another worker or after `Retry-After` seconds. The Python client raises the class; all of them are in
`shoal.errors`, and each is a `ShoalError`.

{_table("status", "code", "retryable", "class", "meaning")}{rows}
`connection_failed` is what the client says when no answer came, so it has no status.
"""


# Commands


def _commands() -> str:
    tool = cli.parser()
    verbs = dict(_subcommands(tool))
    theirs = {"models": arguments.models(), "serve": arguments.serve()}
    sections = []
    for name, (command, summary) in verbs.items():
        if name in ("gateway", "worker"):
            text = f"Its options are the [settings](settings.md#{name}): `shoal {name} --name VALUE`.\n"
            sections.append(f"## shoal {name}\n\n{_summary(summary)} {text}")
        elif name == "settings":
            text = "SERVICE is `gateway` or `worker`; any option of that service may follow.\n"
            sections.append(f"## shoal settings SERVICE\n\n{_summary(summary)} {text}")
        else:
            sections.append(_section(f"shoal {name}", theirs.get(name, command), summary, level=2))
    return f"""# Commands

{_ORIGIN}
Each command ends with 0 when it is done, 1 when it failed, and 2 when it was asked wrongly. `--help` after any of
them says the same as this page.

{chr(10).join(sections).rstrip()}
"""


def _section(name: str, parser: argparse.ArgumentParser, summary: str, *, level: int) -> str:
    text = f"{'#' * level} {name}{_operands(parser)}\n\n{_summary(summary)}\n"
    rows = "".join(_row(_code(_spelling(action)), _meaning(action)) for action in _described(parser))
    text += f"\n{_table('argument', 'meaning')}{rows}" if rows else ""
    text += f"\n{parser.epilog}\n" if parser.epilog else ""
    for verb, (command, meaning) in _subcommands(parser):
        text += "\n" + _section(f"{name} {verb}", command, meaning, level=level + 1)
    return text


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, tuple[argparse.ArgumentParser, str]]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: str(choice.help) for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, (command, summaries[name])


def _operands(parser: argparse.ArgumentParser) -> str:
    operands = []
    for action in parser._actions:
        if action.option_strings:
            continue
        name = f"{action.metavar or action.dest.upper()}"
        operands.append({"+": f"{name} …", "*": f"[{name} …]", "?": f"[{name}]"}.get(str(action.nargs), name))
    return "".join(f" {operand}" for operand in operands)


def _described(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options, and the operands that say more than their name."""
    return [
        action
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        and (action.option_strings or action.help)
    ]


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest.upper())
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    return f"{', '.join(action.option_strings)} {value}"


def _meaning(action: argparse.Action) -> str:
    said = action.help or ""
    plain = isinstance(action.default, str | int | float) and not isinstance(action.default, bool)
    if "default" in said or not plain or action.nargs == 0 or action.default in ("", 0):
        return said
    return f"{said}{'; ' if said else ''}default: {action.default}"


def _summary(text: str) -> str:
    """A sentence, without the hint that there is a ``--help``."""
    said = re.sub(r" \('shoal [^']*--help'[^)]*\)", "", text)
    return f"{said[:1].upper()}{said[1:]}."


# Python


def _python() -> str:
    sections = "\n".join(_class(name, getattr(shoal, name)) for name in shoal.__all__)
    return f"""# Python

{_ORIGIN}
`pip install .` in a clone of the repository installs the client with one dependency, aiohttp. Everything here is
`from shoal import …`. An `Image` is {_names(calls.Image)}; a `Priority` is {_names(calls.Priority)}; a `Mode` is
{_names(client.Mode)}.

{sections.rstrip()}
"""


def _names(union: Any) -> str:
    """The members of a union or of a literal."""
    *first, last = (f"`{getattr(one, '__name__', one)}`" for one in get_args(union))
    return f"{', '.join(first)} or {last}"


def _class(name: str, kind: type[Any]) -> str:
    shown = _signature(kind.__init__, skip=1) if issubclass(kind, ShoalError) or not _fields(kind) else _fields(kind)
    text = f"## {name}\n\n```text\n{name}{shown}\n```\n\n{_prose(kind)}\n"
    for method, function in vars(kind).items():
        if method.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        wait = "await " if inspect.iscoroutinefunction(function) else ""
        many = "async for … in " if inspect.isasyncgenfunction(function) else ""
        head = f"{many or wait}{method}{_signature(function, skip=1)}"
        text += f"\n### {name}.{method}\n\n```text\n{head}\n```\n\n{_prose(function)}\n"
    return text


def _fields(kind: type[Any]) -> str:
    names = [f"{name}: {_type(text)}" for name, text in getattr(kind, "__annotations__", {}).items()]
    return f"({', '.join(names)})" if hasattr(kind, "__dataclass_fields__") else ""


def _signature(function: Any, *, skip: int = 0) -> str:
    told, only = [], False
    signature = inspect.signature(function)
    for parameter in list(signature.parameters.values())[skip:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not only:
            told.append("*")
            only = True
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        told.append(f"{stars}{parameter.name}: {_type(parameter.annotation)}{default}")
    answer = signature.return_annotation
    arrow = "" if answer in ("None", signature.empty) else f" -> {_type(answer)}"
    line = f"({', '.join(told)}){arrow}"
    return line if len(line) < 90 else "(\n    " + ",\n    ".join(told) + f",\n){arrow}"


def _type(annotation: object) -> str:
    return str(annotation).replace("Unpack[Terms]", "the keywords of predict")


def _prose(thing: Any) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", inspect.getdoc(thing) or "")


if __name__ == "__main__":
    write()
