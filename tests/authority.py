"""Certificates for tests: a CA in a folder, what it issues, and what a TLS connection shows."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from cryptography import x509

from shoal import certificates, tls


class Authority:
    """A CA of the product's own kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"<Authority {self.folder}>"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def issue(self, *wanted: str, days: float = 1) -> None:
        for text in wanted:
            certificates.issue(self.folder, certificates.Wanted.parse(text), days=days)

    def internal(self, name: str) -> tls.Files:
        return tls.Files(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.ca)

    def public(self, name: str) -> tls.Files:
        return tls.Files(self.folder / f"{name}.pem", self.folder / f"{name}.key")

    def settings(self, *, internal: str, public: str = "") -> dict[str, str]:
        """The settings of a service."""
        files = self.internal(internal)
        found = {"internal-certificate": files.certificate, "internal-key": files.key, "internal-ca": files.all[2]}
        if public:
            found |= {"certificate": self.public(public).certificate, "certificate-key": self.public(public).key}
        return {name: str(path) for name, path in found.items()}

    def serial(self, name: str) -> int:
        return x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes()).serial_number


async def shown_serial(url: str, context: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    host, port = url.removeprefix("https://").rsplit(":", 1)
    context.check_hostname = False
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(certificate).serial_number
    finally:
        writer.close()
