"""What may be done to a publication: one table for what is allowed, one for what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.publication import Publication, Published, decode, encode
from worker.repository import editing
from worker.repository.editing import NotAllowed


def published(number: str) -> Published:
    return Published(f"file:///repository/digits/{number}", f"{int(number):064x}")


def digits(
    *versions: int, labels: dict[str, str] | None = None, traffic: dict[str, float] | None = None
) -> Publication:
    there = {str(number): published(str(number)) for number in versions}
    return Publication("digits", there, labels or {}, traffic or {})


Edit = Callable[[Publication], Publication | None]

ALLOWED: list[tuple[str, Publication, Edit, Publication | None]] = [
    ("the first version", digits(), lambda p: editing.add(p, "1", published("1")), digits(1)),
    ("the same again", digits(1), lambda p: editing.add(p, "1", published("1")), digits(1)),
    ("the one before stays", digits(1), lambda p: editing.add(p, "2", published("2")), digits(1, 2)),
    ("the oldest goes", digits(1, 2), lambda p: editing.add(p, "3", published("3")), digits(2, 3)),
    ("numbers, not texts", digits(8, 9), lambda p: editing.add(p, "10", published("10")), digits(9, 10)),
    ("keep none", digits(1), lambda p: editing.add(p, "2", published("2"), keep=0), digits(2)),
    ("keep three", digits(1, 2), lambda p: editing.add(p, "3", published("3"), keep=3), digits(1, 2, 3)),
    ("an old one comes back", digits(4, 5), lambda p: editing.add(p, "1", published("1"), keep=0), digits(1, 5)),
    (
        "labels and traffic stay",
        digits(1, 2, 3, labels={"stable": "1"}, traffic={"stable": 9, "2": 1}),
        lambda p: editing.add(p, "4", published("4"), keep=0),
        digits(1, 2, 4, labels={"stable": "1"}, traffic={"stable": 9, "2": 1}),
    ),
    (
        "a new label moves",
        digits(1, labels={"canary": "1"}),
        lambda p: editing.add(p, "2", published("2"), keep=0, name="canary"),
        digits(2, labels={"canary": "2"}),
    ),
    ("an unused one", digits(1, 2), lambda p: editing.remove_version(p, "1"), digits(2)),
    ("the last one", digits(1), lambda p: editing.remove_version(p, "1"), None),
    (
        "by force",
        digits(1, 2, labels={"stable": "1", "canary": "2"}, traffic={"stable": 90, "2": 10}),
        lambda p: editing.remove_version(p, "1", force=True),
        digits(2, labels={"canary": "2"}, traffic={"2": 10}),
    ),
    (
        "by force, with all the traffic",
        digits(1, 2, traffic={"1": 1, "2": 0}),
        lambda p: editing.remove_version(p, "1", force=True),
        digits(2),
    ),
    ("label", digits(1), lambda p: editing.label(p, "stable", "1"), digits(1, labels={"stable": "1"})),
    (
        "label like a label",
        digits(1, 2, labels={"canary": "2"}),
        lambda p: editing.label(p, "stable", "canary"),
        digits(1, 2, labels={"canary": "2", "stable": "2"}),
    ),
    ("unlabel", digits(1, labels={"stable": "1"}), lambda p: editing.unlabel(p, "stable"), digits(1)),
    ("split", digits(1, 2), lambda p: editing.split(p, {"1": 90, "2": 10}), digits(1, 2, traffic={"1": 90, "2": 10})),
    ("newest", digits(1, 2, traffic={"1": 1}), editing.follow_newest, digits(1, 2)),
    ("back from the newest", digits(8, 9, 10), editing.rollback, digits(8, 9, 10, traffic={"9": 1})),
    (
        "back from a canary",
        digits(1, 2, 3, traffic={"1": 90, "2": 10}),
        editing.rollback,
        digits(1, 2, 3, traffic={"1": 1}),
    ),
    (
        "back from a label",
        digits(1, 2, 3, labels={"stable": "3"}, traffic={"stable": 1, "1": 0}),
        editing.rollback,
        digits(1, 2, 3, labels={"stable": "3"}, traffic={"2": 1}),
    ),
]

REFUSED: list[tuple[Publication, Edit, str]] = [
    (digits(1), lambda p: editing.add(p, "1", Published("s", "other")), "has a version 1 already, with other files"),
    (digits(), lambda p: editing.add(p, "01", published("1")), "'01' is not a version"),
    (digits(), lambda p: editing.add(p, "1", published("1"), name="1st"), "'1st' is not a label"),
    (Publication("a/b"), lambda p: editing.add(p, "1", published("1")), "'a/b' is not a model's name"),
    (digits(1), lambda p: editing.remove_version(p, "2"), "no version or label '2'; its versions are 1"),
    (digits(1, labels={"stable": "1"}), lambda p: editing.remove_version(p, "1"), "the label stable is for version 1"),
    (digits(1, 2, traffic={"1": 1}), lambda p: editing.remove_version(p, "1"), "traffic goes to 1"),
    (
        digits(1, 2, labels={"stable": "1"}, traffic={"stable": 1}),
        lambda p: editing.remove_version(p, "1"),
        "traffic goes to stable",
    ),
    (digits(1), lambda p: editing.label(p, "stable", "7"), "no version or label '7'"),
    (digits(1), lambda p: editing.label(p, "1", "1"), "'1' is not a label"),
    (digits(1), lambda p: editing.unlabel(p, "stable"), "no label 'stable'; it has none"),
    (
        digits(1, labels={"stable": "1"}, traffic={"stable": 1}),
        lambda p: editing.unlabel(p, "stable"),
        "goes by the label stable",
    ),
    (digits(1), lambda p: editing.split(p, {"2": 1}), "no version or label '2'"),
    (digits(1), lambda p: editing.split(p, {"1": -1}), "traffic for 1 is -1"),
    (digits(1), lambda p: editing.split(p, {"1": 0}), "no version gets any traffic"),
    (digits(1), lambda p: editing.split(p, {"1": float("nan")}), "traffic for 1 is nan"),
    (digits(2, 3, traffic={"2": 1}), editing.rollback, "no version before 2"),
]


@pytest.mark.parametrize(("before", "edit", "after"), [row[1:] for row in ALLOWED], ids=[row[0] for row in ALLOWED])
def test_what_is_allowed(before: Publication, edit: Edit, after: Publication | None) -> None:
    assert edit(before) == after


@pytest.mark.parametrize(("before", "edit", "reason"), REFUSED)
def test_what_is_refused(before: Publication, edit: Edit, reason: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        edit(before)
    assert reason in str(refused.value)


def test_a_whole_model_goes_only_when_nothing_names_it() -> None:
    editing.remove(digits(1, 2))
    used = digits(1, labels={"stable": "1"}, traffic={"1": 1})
    editing.remove(used, force=True)
    with pytest.raises(NotAllowed, match=r"digits is in use: the label stable is for version 1; traffic goes to 1"):
        editing.remove(used)


def test_placement() -> None:
    placed = editing.place(digits(1), ["gpu-*", "zone-a"])
    assert placed.placement == ["gpu-*", "zone-a"]
    assert editing.place(placed, []) == digits(1)


_NAMES = st.sampled_from(["1", "2", "3", "9", "stable", "canary", "0", "no such", ""])
_WEIGHTS = st.dictionaries(_NAMES, st.floats(allow_nan=True), max_size=3)
_EDITS: st.SearchStrategy[Edit] = st.one_of(
    st.builds(lambda v, keep: lambda p: editing.add(p, v, published("7"), keep=keep), _NAMES, st.integers(0, 3)),
    st.builds(lambda v, force: lambda p: editing.remove_version(p, v, force=force), _NAMES, st.booleans()),
    st.builds(lambda n, v: lambda p: editing.label(p, n, v), _NAMES, _NAMES),
    st.builds(lambda n: lambda p: editing.unlabel(p, n), _NAMES),
    st.builds(lambda weights: lambda p: editing.split(p, weights), _WEIGHTS),
    st.just(editing.follow_newest),
    st.just(editing.rollback),
)


@given(st.lists(_EDITS, max_size=12))
def test_whatever_is_done_in_a_row_leaves_something_sound(edits: list[Edit]) -> None:
    """Each edit is refused as a whole, or leaves what every reader takes."""
    current = digits(1, 2)
    for edit in edits:
        try:
            after = edit(current)
        except NotAllowed:
            continue
        if after is None:
            return
        assert decode(encode(after)) == after
        current = after
