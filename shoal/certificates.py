"""A small CA of one's own: so that the machines of a cluster know one another, with no other tool.

A folder holds ``ca.pem`` and ``ca.key``, and NAME.pem and NAME.key for each certificate. The key of the CA is needed
to issue certificates only: keep the folder where no service runs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal.files import write_whole
from shoal.tls import ROLES, name_of, roles_in

CA = "ca"
DAYS = 365
CA_DAYS = 3650
_CLOCKS_DIFFER = timedelta(minutes=5)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Wanted:
    """A certificate to issue: the names of its files, the roles of who holds it, and where it may be reached."""

    name: str
    roles: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Wanted:
        """``NAME[:ROLE[+ROLE…]][,ADDRESS…]``. Raises ``ValueError``."""
        first, *addresses = text.split(",")
        name, colon, roles = first.partition(":")
        chosen = tuple(roles.split("+")) if colon else ()
        if not _NAME.fullmatch(name) or name == CA or not all(addresses):
            raise ValueError(f"{text!r} is not NAME:ROLE or NAME:ROLE,ADDRESS,…")
        if strangers := [role for role in chosen if role not in ROLES]:
            raise ValueError(f"{text!r}: there is no role {', '.join(strangers)!r}; there are {', '.join(ROLES)}")
        if said := [address for address in (name, *addresses) if roles_in({"subjectAltName": [("DNS", address)]})]:
            raise ValueError(f"{text!r}: {', '.join(said)} says a role; write NAME:ROLE")
        return cls(name, chosen, tuple(addresses))

    def names(self) -> list[x509.GeneralName]:
        """What goes into it. Each is a DNS name or an IP address."""
        said = dict.fromkeys([*map(name_of, self.roles), self.name, *self.addresses])
        return [_general_name(address) for address in said]


def issue(folder: Path, wanted: Wanted, *, days: float = DAYS) -> datetime:
    """Write a certificate with a new key, in place of the last one of that name; a folder without a CA gets one.

    Returns when it expires, which is never after its CA. Raises ``ValueError`` when the CA in the folder is damaged.
    """
    ca, ca_key = _ca(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    expires = min(now + timedelta(days=days), ca.not_valid_after_utc)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        _builder(wanted.name, ca.subject, key, min(now - _CLOCKS_DIFFER, expires - _CLOCKS_DIFFER), expires)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(wanted.names()), critical=False)
        .add_extension(_authority(ca), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(folder, wanted.name, key, certificate)
    return expires


def _ca(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not (folder / f"{CA}.key").exists() and not (folder / f"{CA}.pem").exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_ca(folder)
    certificate = x509.load_pem_x509_certificate((folder / f"{CA}.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / f"{CA}.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError(f"{folder / CA}.key is not the key of {folder / CA}.pem")
    return certificate, key


def _make_ca(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Shoal internal CA")])
    certificate = (
        _builder("Shoal internal CA", name, key, now - _CLOCKS_DIFFER, now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, CA, key, certificate)


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    own = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _write(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """The key first: whoever follows the files sees that the two belong together again when both are there."""
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    write_whole(folder / f"{name}.key", secret.decode(), mode=0o600)
    write_whole(folder / f"{name}.pem", certificate.public_bytes(encoding).decode(), mode=0o644)
