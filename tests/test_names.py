"""Host names as addresses: the same order everywhere, and what was known stays while nobody answers."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from shoal import names
from shoal.names import Names


class Resolver:
    """What the machine knows of names, and how often it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, tuple[str, ...]] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self._say)

    def _say(self, host: str, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            for address in self.known[host]
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


async def test_a_name_has_its_addresses_in_one_order(resolver: Resolver) -> None:
    resolver.known["a"] = "fd00::9", "10.0.0.9", "10.0.0.10", "10.0.0.9"
    known = Names()
    assert await asyncio.gather(*(known.addresses("a") for _ in range(3))) == [("10.0.0.10", "10.0.0.9", "fd00::9")] * 3
    assert resolver.asked == ["a"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a:8602", "http://10.0.0.9:8602"),
        ("https://six", "https://[fd00::9]"),
        ("http://10.0.0.1:8602", "http://10.0.0.1:8602"),
        ("http://[fd00::1]:8602", "http://[fd00::1]:8602"),
        ("http://nobody:1", "http://nobody:1"),
    ],
)
async def test_a_url_has_an_address(resolver: Resolver, url: str, expected: str) -> None:
    resolver.known |= {"a": ("fd00::9", "10.0.0.9"), "six": ("fd00::9",)}
    assert await Names().with_address(url) == expected


async def test_what_was_known_stays(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(names, "_KNOWN_SECONDS", -1.0)
    resolver.known["a"] = ("10.0.0.9",)
    known = Names()
    assert await known.addresses("a") == ("10.0.0.9",)
    resolver.known["a"] = ("10.0.0.8",)
    assert await known.addresses("a") == ("10.0.0.8",)
    del resolver.known["a"]
    with caplog.at_level(logging.WARNING):
        assert [await known.addresses("a") for _ in range(3)] == [("10.0.0.8",)] * 3
    assert len(caplog.records) == 1  # and not each time


async def test_who_is_not_known_has_none(resolver: Resolver) -> None:
    known = Names()
    assert [await known.addresses("nobody") for _ in range(3)] == [()] * 3
    assert resolver.asked == ["nobody"]
    assert await known.addresses("x" * 300) == ()
