"""The files that a service reads: its settings, keys and certificates; whether they are right, and whose they are."""

from __future__ import annotations

import json
import ssl
import stat
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from shoal import tls
from shoal.doctor.finding import Finding, ok, problem, warning
from shoal.doctor.subject import Subject, last_line

_SOON = timedelta(days=14)


async def settings(subject: Subject) -> list[Finding]:
    """All that is wrong with the settings, and what they name and is not there."""
    problems = list(subject.problems)
    if not problems and subject.role == "worker":
        problems = await _worker_problems(subject)
    return [judge_settings(subject.role, problems)]


async def _worker_problems(subject: Subject) -> list[str]:
    ran = await subject.host.run(sys.executable, "-m", "worker.doctor", *subject.arguments)
    try:
        return list(json.loads(ran.output if ran else "")["problems"])
    except ValueError:
        return [last_line(ran.complaint if ran else "")]


def judge_settings(role: str, problems: Iterable[str]) -> Finding:
    if text := "; ".join(problems):
        return problem(text, f"'shoal {role} --help' lists the settings, docs/reference/settings.md explains them")
    return ok("valid")


# Keys

_SECRET = ("ticket_key", "api_keys", "webhook_secret", "certificate_key", "internal_key")
_PUBLIC = ("ticket_keys", "certificate", "internal_certificate", "internal_ca")


async def keys(subject: Subject) -> list[Finding]:
    """Each file of keys can be read, is one, and nobody else may read or replace it."""
    findings = []
    for name in (*_SECRET, *_PUBLIC):
        path = getattr(subject.settings, name, None)
        if path is not None:
            findings.append(judge_file(name, path, mode_of(path), _unusable(name, path), is_secret=name in _SECRET))
    return [f for f in findings if f.level != "ok"] or [ok(f"{len(findings)} files, each readable by whom it should")]


def mode_of(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None


def judge_file(name: str, path: Path, mode: int | None, unusable: str, *, is_secret: bool) -> Finding:
    if mode is None:
        return problem(f"{name}: {path} is not there", "put it there, readable by the service's user")
    if unusable:
        return problem(f"{name}: {unusable}", "see docs/secure.md for how it is made")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return problem(f"{name}: others may change {path} ({mode:04o})", f"chmod go-w {path}")
    if is_secret and mode & stat.S_IRWXO:
        return problem(f"{name}: everyone may read {path} ({mode:04o})", f"chmod o= {path}")
    return ok(f"{name}: {path}")


def _unusable(name: str, path: Path) -> str:
    """What is wrong with what the file holds."""
    try:
        _READERS.get(name, _read)(path)
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _read(path: Path) -> object:
    return path.read_bytes()


def _ticket_key(path: Path) -> object:
    from shoal.tickets import Signer

    return Signer.load(path)


def _ticket_keys(path: Path) -> object:
    from shoal.tickets import Verifier

    return Verifier(path, "")


def _api_keys(path: Path) -> None:
    from shoal.keys import parse

    if not parse(path.read_text(encoding="utf-8")):
        raise ValueError(f"{path} has no key: nobody may ask")


_READERS: dict[str, Callable[[Path], object]] = {
    "ticket_key": _ticket_key,
    "ticket_keys": _ticket_keys,
    "api_keys": _api_keys,
}


# Certificates

_CERTIFICATES = (
    ("public", ("certificate", "certificate_key")),
    ("internal", ("internal_certificate", "internal_key", "internal_ca")),
)


async def certificates(subject: Subject) -> list[Finding]:
    """Of both listeners: they fit their keys, are valid for a while, and say the role."""
    found = []
    for listener, names in _CERTIFICATES:
        if files := subject.files(*names):
            found.append(judge_certificate(listener, subject.role, *files))
    return found or [ok("none: plain HTTP")]


def judge_certificate(
    listener: str, role: str, certificate: Path, key: Path, ca: Path | None = None, *, now: datetime | None = None
) -> Finding:
    """``ca`` is that of the internal listener: it must have signed the certificate, and know the role in it."""
    from cryptography import x509

    where = f"{listener}: {certificate}"
    renew = "have it made again, and see docs/secure.md; it is taken without a restart"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        authorities = x509.load_pem_x509_certificates(ca.read_bytes()) if ca else []
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return problem(f"{where} and {key} are not a certificate and its key: {error}", renew)
    now = now or datetime.now(UTC)
    first = chain[0]
    if first.not_valid_before_utc > now:
        return problem(f"{where} is valid from {first.not_valid_before_utc:%F %H:%M} UTC on", "see the clock")
    if first.not_valid_after_utc < now:
        return problem(f"{where} has expired on {first.not_valid_after_utc:%F}", renew)
    if ca is not None and (wrong := _unfit(first, chain[1:], authorities, tls.name_of(role))):
        return problem(f"{where} {wrong}", renew)
    soon = min(_SOON, (first.not_valid_after_utc - first.not_valid_before_utc) / 5)
    until = f"{where} is valid until {first.not_valid_after_utc:%F}"
    return warning(until, renew) if first.not_valid_after_utc - now < soon else ok(until)


def _unfit(first: Any, between: list[Any], authorities: list[Any], name: str) -> str:
    """What the other services would refuse in it."""
    from cryptography import x509

    try:
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        said = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        said = []
    if name not in said:
        return f"does not name {name}"
    holders = [first, *between]
    signed = any(_signed(holder, authority) for holder in holders for authority in authorities)
    return "" if signed else "is not signed by internal_ca"


def _signed(certificate: Any, authority: Any) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
