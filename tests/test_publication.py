"""What is published of a model: its labels, its split, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from discovery.values import check_key
from shoal.publication import PREFIX, Publication, Published, Unpublished, decode, encode, highest, order

KEYS = [f"user-{number}" for number in range(2000)]


def digits(
    *versions: str, labels: Mapping[str, str] | None = None, traffic: Mapping[str, float] | None = None
) -> Publication:
    published = {version: Published(f"/models/digits/{version}", f"{int(version):064x}") for version in versions}
    return Publication("digits", published, dict(labels or {}), dict(traffic or {}))


def shares(publication: Publication, *ready: str) -> dict[str, str | None]:
    return {key: publication.share(key, ready) for key in KEYS}


def test_a_split_is_kept_within_two_points() -> None:
    counts = Counter(shares(digits("1", "2", traffic={"1": 90, "2": 10}), "1", "2").values())
    assert abs(counts["2"] / len(KEYS) - 0.10) < 0.02
    assert set(counts) == {"1", "2"}


def test_a_split_of_three_is_kept_within_two_points() -> None:
    counts = Counter(shares(digits("1", "2", "3", traffic={"1": 0.5, "2": 0.2, "3": 0.3}), "1", "2", "3").values())
    assert [abs(counts[v] / len(KEYS) - share) < 0.02 for v, share in (("1", 0.5), ("2", 0.2), ("3", 0.3))] == [
        True
    ] * 3


weights = st.dictionaries(st.sampled_from("123456"), st.floats(0.01, 100), min_size=1)


@given(weights, st.sampled_from("123456"), st.floats(1.01, 100))
def test_a_version_that_gets_more_takes_keys_and_gives_none(
    before: dict[str, float], version: str, factor: float
) -> None:
    assume(version in before)
    old, new = digits(*before, traffic=before), digits(*before, traffic=before | {version: before[version] * factor})
    for key in KEYS[:50]:
        was, now = old.share(key, before), new.share(key, before)
        assert now in (was, version)


@given(weights, st.sets(st.sampled_from("123456")), st.text(max_size=20))
def test_what_is_not_ready_gets_nothing_and_only_its_keys_move(
    split: dict[str, float], ready: set[str], key: str
) -> None:
    publication = digits(*split, traffic=split)
    chosen, of_all = publication.share(key, ready), publication.share(key, split)
    if of_all in ready:
        assert chosen == of_all
    elif ready & split.keys():
        assert chosen in ready & split.keys()
    else:
        assert chosen is None


def test_a_weight_of_nothing_and_no_split_at_all() -> None:
    assert set(shares(digits("1", "2", traffic={"1": 0, "2": 1}), "1", "2").values()) == {"2"}
    assert digits("1", "2", traffic={"1": 0, "2": 1}).share("key", ["1"]) is None
    assert digits("1").share("key", ["1"]) is None


def test_a_split_by_labels_follows_them() -> None:
    split = {"stable": 90.0, "canary": 10.0}
    before = digits("1", "2", "3", labels={"stable": "1", "canary": "2"}, traffic=split)
    after = digits("1", "2", "3", labels={"stable": "1", "canary": "3"}, traffic=split)
    old, new = shares(before, "1", "2", "3"), shares(after, "1", "2", "3")
    assert set(new.values()) == {"1", "3"}
    counts = Counter(new.values())
    assert abs(counts["3"] / len(KEYS) - 0.10) < 0.02
    promoted = digits("1", "2", labels={"stable": "2", "canary": "2"}, traffic=split)
    assert set(shares(promoted, "1", "2").values()) == {"2"}
    assert set(old.values()) == {"1", "2"}


def test_two_models_split_their_keys_differently() -> None:
    one = digits("1", "2", traffic={"1": 1, "2": 1})
    other = Publication("cats", one.versions, traffic=one.traffic)
    assert 0.4 < sum(one.share(k, "12") == other.share(k, "12") for k in KEYS) / len(KEYS) < 0.6


def test_what_a_version_or_a_label_names() -> None:
    publication = digits("1", "2", labels={"stable": "1"})
    assert (publication.version_of("stable"), publication.version_of("2")) == ("1", "2")
    with pytest.raises(Unpublished, match="digits has no version or label 'canary'"):
        publication.version_of("canary")


def test_versions_are_in_the_order_of_numbers() -> None:
    assert sorted(["10", "9", "beta", "1"], key=order) == ["beta", "1", "9", "10"]
    assert highest({"9": 0, "10": 0}) == "10"


def test_it_comes_back_as_it_was() -> None:
    publication = digits("1", "12", labels={"stable": "12"}, traffic={"stable": 1, "1": 0.5})
    assert decode(encode(publication)) == publication
    assert decode(encode(publication).replace("{", '{"later":[1],', 1)) == publication, "unknown fields are ignored"


@pytest.mark.parametrize("name", ["a", "A.b_c-d", "x" * 64, "..", "a..b", "a/b", "", ".a", "ü", "a\n", "x" * 65, "~a"])
def test_a_models_name_is_a_key_of_discovery(name: str) -> None:
    wrong = Publication(name).problems()
    try:
        check_key(f"{PREFIX}{name}")
    except ValueError:
        assert wrong
    assert bool(wrong) == (name not in ("a", "A.b_c-d", "x" * 64))


@pytest.mark.parametrize(
    ("publication", "problem"),
    [
        (digits("1", labels={"stable": "2"}), "the label stable is for version 2, which is not published"),
        (digits("1", labels={"1st": "1"}), "'1st' is not a label"),
        (digits("1", labels={"2": "1"}), "'2' is not a label"),
        (digits("1", traffic={"2": 1}), "traffic for 2, which is neither"),
        (digits("1", traffic={"1": -1}), "traffic for 1 is -1"),
        (digits("1", traffic={"1": float("nan")}), "traffic for 1 is nan"),
        (digits("1", traffic={"1": float("inf")}), "traffic for 1 is inf"),
        (digits("1", traffic={"1": 0}), "no version gets any traffic"),
        (Publication("digits", {"0": Published("", "")}), "'0' is not a version"),
        (Publication("digits", {"01": Published("", "")}), "'01' is not a version"),
        (Publication("digits", {"v1": Published("", "")}), "'v1' is not a version"),
    ],
)
def test_what_is_wrong_is_said(publication: Publication, problem: str) -> None:
    assert any(line.startswith(problem) for line in publication.problems()), publication.problems()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"model":1}',
        '{"model":"a/b"}',
        '{"model":"a","labels":{"x":"1"}}',
        "\ud800",
        '{"x":' + "[" * 100_000,
    ],
)
def test_what_is_no_publication_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        decode(text)
