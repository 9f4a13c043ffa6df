"""A new secret of a kind that Shoal takes: ``lookup('shoal_secret', 'api_key')``. Each call makes another."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

DOCUMENTATION = """
name: shoal_secret
author: Shoal
short_description: a new secret of a kind that Shoal takes
description:
  - Makes a new secret on the controller at each call.
options:
  _terms:
    description: C(api_key), C(ticket_key) (a private JSON Web Key), C(gossip_key), C(token) (a UUID) or C(password).
    required: true
"""

RETURN = """
_raw:
  description: a secret for each term
  type: list
"""


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _ticket_key() -> dict[str, Any]:
    """What ``shoal keys tickets`` writes: an Ed25519 key by RFC 8037."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    kind = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": uuid.uuid4().hex[:8]}
    return {**kind, "x": _base64url(public), "d": _base64url(private)}


KINDS: dict[str, Callable[[], Any]] = {
    "api_key": lambda: "shoal_" + secrets.token_urlsafe(32),
    "ticket_key": _ticket_key,
    "gossip_key": lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
    "token": lambda: str(uuid.uuid4()),
    "password": lambda: secrets.token_urlsafe(32),
}


class LookupModule(LookupBase):  # type: ignore[misc]
    """What Ansible calls."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[Any]:
        if unknown := sorted(set(terms) - set(KINDS)):
            raise AnsibleError(f"shoal_secret: there is no {', '.join(unknown)}; there are {', '.join(KINDS)}")
        return [KINDS[term]() for term in terms]
