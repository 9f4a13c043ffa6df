"""Equal images go to the same worker, as long as it is not much busier than the others."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.balancers import by_content

DIGESTS = [sha256(str(number).encode()).hexdigest() for number in range(300)]


@dataclass(frozen=True)
class Waits:
    name: str
    expected_wait: float = 0.0


workers = st.dictionaries(st.text("abcdef0123", min_size=1, max_size=8), st.floats(0, 1e6), min_size=1, max_size=20)
digests = st.binary(max_size=8).map(lambda data: sha256(data).hexdigest())


@given(workers, digests)
def test_nobody_waits_much_longer_than_on_average(waits: dict[str, float], digest: str) -> None:
    chosen = by_content([Waits(*item) for item in waits.items()], digest)
    assert chosen.expected_wait <= 1.25 * sum(waits.values()) / len(waits) + 0.05


@given(workers, digests, st.randoms())
def test_the_order_of_the_workers_does_not_matter(waits: dict[str, float], digest: str, random: Random) -> None:
    candidates = [Waits(*item) for item in waits.items()]
    shuffled = sorted(candidates, key=lambda _: random.random())
    assert by_content(candidates, digest) == by_content(shuffled, digest)


@given(st.sets(st.text("abcdef0123", min_size=1, max_size=8), min_size=2, max_size=20), digests)
def test_a_worker_that_goes_moves_only_what_it_had(names: set[str], digest: str) -> None:
    idle = [Waits(name) for name in sorted(names)]
    chosen = by_content(idle, digest)
    for gone in idle:
        left = [worker for worker in idle if worker != gone]
        assert (by_content(left, digest) == chosen) == (gone != chosen)


def test_images_are_spread_over_all_workers() -> None:
    idle = [Waits(name) for name in "abc"]
    chosen = [by_content(idle, digest).name for digest in DIGESTS]
    assert all(60 < chosen.count(name) < 140 for name in "abc"), {name: chosen.count(name) for name in "abc"}


def test_a_busy_worker_gives_way_and_has_its_images_back_later() -> None:
    chosen = {digest: by_content([Waits("a"), Waits("b")], digest).name for digest in DIGESTS}
    assert {by_content([Waits("a", 0.2), Waits("b")], digest).name for digest in DIGESTS} == {"b"}
    assert {by_content([Waits("a", 0.1), Waits("b", 0.1)], d).name == name for d, name in chosen.items()} == {True}
