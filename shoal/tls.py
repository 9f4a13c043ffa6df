"""Certificates in use: which files, which TLS contexts they make, and how a renewed one comes in without a restart."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good


@dataclass(frozen=True)
class Files:
    """PEM files: a certificate with those between it and its CA, its key, and, for mutual TLS, the CA of the others."""

    certificate: Path
    key: Path
    ca: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.certificate, self.key) if self.ca is None else (self.certificate, self.key, self.ca)

    def serving(self) -> ssl.SSLContext:
        """For a listener. With a CA, who connects must have a certificate of it. Raises ``ValueError``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.options |= ssl.OP_NO_TICKET  # nobody comes back on the word of a CA that is trusted no more
        return self._loaded(context)

    def calling(self) -> ssl.SSLContext:
        """For connections to those who have a certificate of the CA. Raises ``ValueError``."""
        return self._loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        for path in self.all:
            try:
                path.open("rb").close()
            except OSError as error:
                raise ValueError(f"{path}: {error.strerror}") from error
        try:
            context.load_cert_chain(self.certificate, self.key, password="")  # or it would ask a terminal
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(f"{self.certificate} and {self.key} are not a certificate and its key: {error}") from error
        if self.ca is not None:
            try:
                context.load_verify_locations(self.ca)
            except ssl.SSLError as error:
                raise ValueError(f"{self.ca} has no certificate of a CA: {error}") from error
        return context
