"""Tickets: the gateway's signed word that a caller may upload to one worker, verified there without a call home.

A ticket is a JSON Web Token signed with Ed25519 (RFC 8037). Gateways hold the private key, workers only the
public ones, as a JSON Web Key Set, so several keys can be valid while one replaces another.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shoal.errors import ExpiredTicket, InvalidTicket, WrongWorker
from shoal.files import write_whole
from shoal.wire import Priority

_ALGORITHM = "EdDSA"
_CLAIMS = ("aud", "exp", "jti", "sub", "mdl", "max")
_ORDER_CLAIMS = ("aud", "exp", "jti", "sub", "do")
_SKEW_SECONDS = 2.0  # between the clocks of a gateway and a worker
_CACHED = 1024


@dataclass(frozen=True)
class Ticket:
    """What a ticket permits: ``uses`` uploads of at most ``max_bytes`` for ``model`` (``name@version``) on the
    worker incarnation ``audience``, started within ``expires`` (seconds since the epoch). ``uses`` 0 is any
    number, which only a gateway gets for the requests it proxies. ``gateway`` is the one that signed."""

    audience: str
    model: str
    subject: str
    max_bytes: int
    uses: int
    expires: float
    id: str
    gateway: str
    priority: Priority

    @property
    def way(self) -> Literal["direct", "proxied"]:
        """How what it permits comes: from a client, or through the gateway."""
        return "direct" if self.uses else "proxied"


class Signer:
    """Signs tickets. Construct with ``Signer.load``."""

    def __init__(self, key: jwt.PyJWK) -> None:
        self._key = key

    def __repr__(self) -> str:
        return f"<Signer {self._key.key_id}>"

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Raises ``OSError`` or ``ValueError`` when ``path`` is not a private Ed25519 key."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            key = jwt.PyJWK(document, _ALGORITHM)
        except (jwt.PyJWTError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is not a ticket key: {error}") from error
        if "d" not in document:
            raise ValueError(f"{path} is a public key; tickets are signed with the private one")
        return cls(key)

    def sign(
        self,
        *,
        audience: str,
        model: str,
        subject: str,
        max_bytes: int,
        uses: int,
        lifetime: float,
        gateway: str = "",
        priority: Priority = "interactive",
    ) -> str:
        """A new ticket that permits what ``Ticket`` says and may be used for ``lifetime`` seconds."""
        claims = {
            "aud": audience,
            "exp": int(time.time() + lifetime) + 1,
            "jti": uuid.uuid4().hex,
            "sub": subject,
            "mdl": model,
            "max": max_bytes,
            "use": uses,
            "iss": gateway,
            "pri": priority,
        }
        return self._signed(claims)

    def sign_order(self, order: str, *, audience: str, subject: str, lifetime: float) -> str:
        """An operator's order to one worker, such as ``drain``. It permits no upload, and no ticket is an order."""
        expires = int(time.time() + lifetime) + 1
        return self._signed({"aud": audience, "exp": expires, "jti": uuid.uuid4().hex, "sub": subject, "do": order})

    def _signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._key.key_id})


class Verifier:
    """Verifies tickets for one worker incarnation. A ticket of many uses is verified once and remembered.

    The key file is read again when it changes, so keys are replaced without a restart.
    """

    def __init__(self, path: Path, audience: str) -> None:
        self._path = path
        self._audience = audience
        self._stamp: tuple[int, int] | None = None
        self._checked = float("-inf")
        self._keys: dict[str, jwt.PyJWK] = {}
        self._verified: OrderedDict[str, Ticket] = OrderedDict()
        self.reload()

    def __repr__(self) -> str:
        return f"<Verifier for {self._audience}: keys {', '.join(self._keys)}>"

    def reload(self) -> None:
        """Read the key set if its file changed. Raises ``OSError`` or ``ValueError`` when it is unusable."""
        stat = self._path.stat()
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp == self._stamp:
            return
        try:
            keys = jwt.PyJWKSet.from_json(self._path.read_text(encoding="utf-8")).keys
            self._keys = {key.key_id: key for key in keys if key.key_id}
        except (jwt.PyJWTError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{self._path} is not a set of ticket keys: {error}") from error
        self._stamp = stamp
        self._verified.clear()

    def verify(self, token: str) -> Ticket:
        """The ticket. Raises ``ExpiredTicket``, ``WrongWorker`` or ``InvalidTicket``."""
        self._follow()
        ticket = self._verified.get(token)
        if ticket is None:
            ticket = self._decode(token)
            self._verified[token] = ticket
            if len(self._verified) > _CACHED:
                self._verified.popitem(last=False)
        self._check(ticket.audience, ticket.expires)
        return ticket

    def verify_order(self, token: str, order: str) -> str:
        """Who gives the ``order`` to this worker. Raises as ``verify``."""
        self._follow()
        try:
            claims = self._claims(token, _ORDER_CLAIMS)
            expires = float(claims["exp"])
        except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
            raise InvalidTicket from error
        if claims["do"] != order:
            raise InvalidTicket
        self._check(str(claims["aud"]), expires)
        return str(claims["sub"])

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._checked > 1:
            self._checked = now
            try:
                self.reload()
            except (OSError, ValueError):
                if not self._keys:
                    raise

    def _check(self, audience: str, expires: float) -> None:
        if expires + _SKEW_SECONDS < time.time():
            raise ExpiredTicket
        if audience != self._audience:
            raise WrongWorker

    def _claims(self, token: str, required: Sequence[str]) -> dict[str, Any]:
        key = self._keys[jwt.get_unverified_header(token)["kid"]]
        options: Any = {"require": list(required), "verify_exp": False, "verify_aud": False}
        claims: dict[str, Any] = jwt.decode(token, key, algorithms=[_ALGORITHM], options=options)
        return claims

    def _decode(self, token: str) -> Ticket:
        try:
            claims = self._claims(token, _CLAIMS)
            if "do" in claims:
                raise InvalidTicket
            return Ticket(
                audience=str(claims["aud"]),
                model=str(claims["mdl"]),
                subject=str(claims["sub"]),
                max_bytes=int(claims["max"]),
                uses=int(claims.get("use", 1)),
                expires=float(claims["exp"]),
                id=str(claims["jti"]),
                gateway=str(claims.get("iss", "")),
                priority="bulk" if claims.get("pri") == "bulk" else "interactive",
            )
        except (jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
            raise InvalidTicket from error


def generate(private: Path, public: Path) -> str:
    """Write a new private key and add its public half to the set in ``public``. Returns the key id."""
    key = Ed25519PrivateKey.generate()
    document = jwt.algorithms.OKPAlgorithm.to_jwk(key, as_dict=True)
    kid = uuid.uuid4().hex[:8]
    document |= {"kid": kid, "use": "sig", "alg": _ALGORITHM}
    open_part = {name: value for name, value in document.items() if name not in ("d", "key_ops")}
    known = json.loads(public.read_text(encoding="utf-8"))["keys"] if public.exists() else []
    write_whole(private, json.dumps(document), mode=0o600)
    write_whole(public, json.dumps({"keys": [*known, open_part]}), mode=0o644)
    return kid
