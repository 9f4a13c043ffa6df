"""Tickets: only the gateway's word counts, for one incarnation of one worker, until it expires."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal import tickets
from shoal.errors import ExpiredTicket, InvalidTicket, WrongWorker
from shoal.tickets import Signer, Ticket, Verifier

TERMS: dict[str, Any] = {
    "audience": "worker-1-a",
    "model": "digits@1",
    "subject": "alice",
    "max_bytes": 1000,
    "uses": 3,
    "lifetime": 15.0,
}
CLAIMS: dict[str, Any] = {
    "aud": "worker-1-a",
    "exp": int(time.time()) + 3600,
    "jti": "ticket-1",
    "sub": "alice",
    "mdl": "digits@1",
    "max": 1000,
    "use": 3,
}


@dataclass(frozen=True)
class Keys:
    """A gateway's private key, the workers' set of public ones, and both ends of a ticket."""

    private: Path
    public: Path
    signer: Signer
    verifier: Verifier

    @property
    def kid(self) -> str:
        return str(json.loads(self.private.read_text())["kid"])

    def encode(self, claims: dict[str, Any], **headers: str) -> str:
        """Any claims, properly signed."""
        key = jwt.PyJWK(json.loads(self.private.read_text()))
        return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": self.kid} | headers)


def make(folder: Path) -> Keys:
    private, public = folder / "ticket.key", folder / "ticket-keys.json"
    tickets.generate(private, public)
    return Keys(private, public, Signer.load(private), Verifier(public, "worker-1-a"))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return make(tmp_path)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make(tmp_path_factory.mktemp("keys"))


def b64(data: bytes | dict[str, Any]) -> str:
    plain = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(plain).rstrip(b"=").decode()


def test_a_ticket_says_what_was_signed(keys: Keys) -> None:
    before = time.time()
    token = keys.signer.sign(**TERMS)
    ticket = keys.verifier.verify(token)
    assert ticket == Ticket("worker-1-a", "digits@1", "alice", 1000, 3, ticket.expires, ticket.id, "", "interactive")
    assert before + 15 <= ticket.expires <= time.time() + 16
    assert keys.verifier.verify(token) is ticket  # verified once, remembered


def test_every_ticket_has_its_own_id(keys: Keys) -> None:
    ids = {keys.verifier.verify(keys.signer.sign(**TERMS)).id for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({}, None),
        ({"lifetime": -2.0}, None),  # the clocks of two machines may differ by two seconds
        ({"lifetime": -4.0}, ExpiredTicket),
        ({"lifetime": -3600.0}, ExpiredTicket),
        ({"audience": "worker-1-b"}, WrongWorker),
        ({"audience": "worker-2-a"}, WrongWorker),
        ({"audience": ""}, WrongWorker),
    ],
)
def test_when_and_where_a_ticket_counts(keys: Keys, terms: dict[str, Any], error: type[Exception] | None) -> None:
    token = keys.signer.sign(**(TERMS | terms))
    for _ in range(2):  # the second time, it is remembered
        if error is None:
            assert keys.verifier.verify(token).subject == "alice"
        else:
            with pytest.raises(error):
                keys.verifier.verify(token)


def test_a_remembered_ticket_expires_too(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    token = keys.signer.sign(**TERMS)
    keys.verifier.verify(token)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 20)
    with pytest.raises(ExpiredTicket):
        keys.verifier.verify(token)


def test_more_tickets_than_are_remembered_still_count(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "_CACHED", 4)
    tokens = [keys.signer.sign(**TERMS) for _ in range(10)]
    assert len({keys.verifier.verify(token).id for token in tokens + tokens}) == 10


def flip(text: str, position: int) -> str:
    """Another character at ``position``; not the last, whose low bits base64 ignores."""
    return text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.9])
def test_an_altered_ticket_is_invalid(keys: Keys, part: int, where: float) -> None:
    parts = keys.signer.sign(**TERMS).split(".")
    parts[part] = flip(parts[part], int(where * len(parts[part])))
    with pytest.raises(InvalidTicket):
        keys.verifier.verify(".".join(parts))


def hs256(keys: Keys, secret: bytes) -> str:
    """A ticket signed symmetrically with something that everybody knows: the classic confusion of keys."""
    signed = f"{b64({'alg': 'HS256', 'typ': 'JWT', 'kid': keys.kid})}.{b64(CLAIMS)}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def public_bytes(keys: Keys) -> bytes:
    text = json.loads(keys.public.read_text())["keys"][0]["x"]
    return base64.urlsafe_b64decode(text + "=")


def signed_by_a_stranger(keys: Keys) -> str:
    other = make(keys.private.parent / "..")
    return other.encode(CLAIMS, kid=keys.kid)


FORGERIES: dict[str, Callable[[Keys], str]] = {
    "no algorithm": lambda k: f"{b64({'alg': 'none', 'kid': k.kid})}.{b64(CLAIMS)}.",
    "no algorithm, old signature": lambda k: (
        f"{b64({'alg': 'none', 'kid': k.kid})}.{b64(CLAIMS)}.{k.encode(CLAIMS).split('.')[2]}"
    ),
    "no signature": lambda k: k.encode(CLAIMS).rpartition(".")[0] + ".",
    "two parts": lambda k: k.encode(CLAIMS).rpartition(".")[0],
    "four parts": lambda k: k.encode(CLAIMS) + ".AAAA",
    "the public key as a secret": lambda k: hs256(k, public_bytes(k)),
    "the public key file as a secret": lambda k: hs256(k, k.public.read_bytes()),
    "an empty secret": lambda k: hs256(k, b""),
    "another key, the same name": signed_by_a_stranger,
    "an unknown key": lambda k: k.encode(CLAIMS, kid="unknown"),
    "a header that is a list": lambda k: f"{b64(b'[]')}.{b64(CLAIMS)}.AAAA",
    "a bottomless header": lambda k: f"{b64(b'[' * 5000)}.{b64(CLAIMS)}.AAAA",
    "a surrogate": lambda k: "\udcff" + k.encode(CLAIMS),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_invalid(tmp_path: Path, forgery: str) -> None:
    (tmp_path / "a").mkdir()
    keys = make(tmp_path / "a")
    assert keys.verifier.verify(keys.encode(CLAIMS)).id == "ticket-1"  # the claims themselves are good
    with pytest.raises(InvalidTicket):
        keys.verifier.verify(FORGERIES[forgery](keys))


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"use": None}, True),  # once, then
        ({"from_the_future": {"a": 1}}, True),
        *(({name: None}, False) for name in ("aud", "exp", "jti", "sub", "mdl", "max")),
        ({"max": "much"}, False),
        ({"max": [1]}, False),
        ({"exp": "soon"}, False),
        ({"use": {}}, False),
    ],
)
def test_every_claim_is_needed_and_has_its_type(lasting: Keys, change: dict[str, Any], valid: bool) -> None:
    claims = {name: value for name, value in (CLAIMS | change).items() if value is not None}
    if valid:
        assert lasting.verifier.verify(lasting.encode(claims)).uses == claims.get("use", 1)
    else:
        with pytest.raises(InvalidTicket):
            lasting.verifier.verify(lasting.encode(claims))


def eventually_verified(verifier: Verifier, token: str) -> Ticket:
    """The key file is looked at once a second."""
    give_up = time.monotonic() + 5
    while True:
        try:
            return verifier.verify(token)
        except InvalidTicket:
            assert time.monotonic() < give_up
            time.sleep(0.02)


def test_keys_are_replaced_without_a_restart(keys: Keys) -> None:
    # Given a running worker, and a second key that is added to its file
    old = keys.signer.sign(**TERMS)
    keys.verifier.verify(old)
    tickets.generate(keys.private, keys.public)
    # When a gateway signs with the new one
    new = Signer.load(keys.private).sign(**TERMS)
    # Then both count
    eventually_verified(keys.verifier, new)
    keys.verifier.verify(old)
    # And when the old key is taken out, only the new one does, remembered or not
    keys.public.write_text(json.dumps({"keys": json.loads(keys.public.read_text())["keys"][1:]}))
    keys.verifier.reload()
    keys.verifier.verify(new)
    with pytest.raises(InvalidTicket):
        keys.verifier.verify(old)


BROKEN = [
    "",
    "{",
    "[]",
    "7",
    "{}",
    '{"keys": []}',
    '{"keys": 7}',
    '{"keys": [7]}',
    '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": 7, "kid": "a"}]}',
    '{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "kid": "a"}]}',
    json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43, "kid": ["a"]}]}),
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_key_file_keeps_the_old_keys(keys: Keys, text: str) -> None:
    token = keys.signer.sign(**TERMS)
    keys.public.write_text(text)
    with pytest.raises(ValueError, match="is not a set of ticket keys"):
        keys.verifier.reload()
    assert keys.verifier.verify(token).subject == "alice"
    with pytest.raises(ValueError, match="is not a set of ticket keys"):
        Verifier(keys.public, "worker-1-a")


def test_a_missing_key_file_keeps_the_old_keys(keys: Keys) -> None:
    token = keys.signer.sign(**TERMS)
    keys.public.unlink()
    assert keys.verifier.verify(token).subject == "alice"
    with pytest.raises(FileNotFoundError):
        Verifier(keys.public, "worker-1-a")


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"kty": "OKP"}', '{"kty": "oct", "k": "AAAA", "d": "x"}'])
def test_a_broken_private_key_is_refused(keys: Keys, text: str) -> None:
    keys.private.write_text(text)
    with pytest.raises(ValueError, match="is not a ticket key"):
        Signer.load(keys.private)


def test_a_public_key_does_not_sign(keys: Keys) -> None:
    keys.private.write_text(json.dumps(json.loads(keys.public.read_text())["keys"][0]))
    with pytest.raises(ValueError, match="is a public key"):
        Signer.load(keys.private)


def test_the_private_key_is_private(keys: Keys) -> None:
    assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600
    secret = json.loads(keys.private.read_text())["d"]
    assert secret not in keys.public.read_text()
    assert secret not in repr(keys.signer) + repr(keys.verifier)


@settings(deadline=None)
@given(st.one_of(st.text(), st.from_regex(r"\A[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\Z")))
@example("")
@example("..")
@example("\ud800.\ud800.\ud800")
def test_no_text_does_worse_than_being_invalid(lasting: Keys, text: str) -> None:
    with pytest.raises(InvalidTicket):
        lasting.verifier.verify(text)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_no_header_does_worse_than_being_invalid(lasting: Keys, kid: object) -> None:
    with pytest.raises(InvalidTicket):
        lasting.verifier.verify(f"{b64({'alg': 'EdDSA', 'kid': kid})}.{b64(CLAIMS)}.{b64(bytes(64))}")
