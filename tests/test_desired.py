"""What a node is to serve, by what is published."""

from __future__ import annotations

import pytest

from discovery.publications import Publications
from shoal.publication import Publication, Published, encode
from worker.desired import Desired, desired, may_go, oldest_first, placed


def published(*versions: str, model: str = "digits", placement: list[str] | None = None) -> str:
    return encode(
        Publication(
            model=model,
            versions={v: Published(source=f"file:///r/{model}/{v}", digest=f"d{v}") for v in versions},
            placement=placement or [],
        )
    )


def known(**texts: str) -> Publications:
    publications = Publications()
    publications.settle({f"models/{model}": text for model, text in texts.items()})
    return publications


def test_every_published_version_is_desired() -> None:
    found = desired(known(digits=published("1", "2"), cats=published("7", model="cats")), "worker1", "")
    assert sorted(found) == ["cats@7", "digits@1", "digits@2"]
    assert found["digits@2"] == Desired("digits", "2", "file:///r/digits/2", "d2")


@pytest.mark.parametrize(
    ("placement", "is_here"),
    [
        ([], True),
        (["worker1"], True),
        (["worker2"], False),
        (["worker*"], True),
        (["eu-?"], True),
        (["us-1", "eu-1"], True),
        (["WORKER1"], False),
    ],
)
def test_placement_names_workers_and_zones(placement: list[str], is_here: bool) -> None:
    assert placed(placement, "worker1", "eu-1") is is_here
    assert bool(desired(known(digits=published("1", placement=placement)), "worker1", "eu-1")) is is_here


@pytest.mark.parametrize(
    ("key", "others", "ready", "goes"),
    [
        ("digits@1", ["digits@2"], [], False),
        ("digits@1", ["digits@2"], ["digits@1"], False),
        ("digits@1", ["digits@2"], ["digits@1", "digits@2"], True),
        ("digits@1", ["digits@2", "digits@3"], ["digits@2"], True),
        ("digits@1", ["cats@2"], ["digits@1"], True),
        ("digits@1", [], ["digits@1"], True),
        ("digits@1", ["digits@2"], ["cats@2"], False),
    ],
)
def test_a_version_goes_when_another_of_its_model_is_ready(
    key: str, others: list[str], ready: list[str], goes: bool
) -> None:
    wanted = {k: Desired(k.split("@")[0], k.split("@")[1], "s", "d") for k in others}
    assert may_go(key, wanted, ready) is goes


def test_versions_start_in_order() -> None:
    assert oldest_first({"b@2", "a@10", "a@9", "b@1"}) == ["a@9", "a@10", "b@1", "b@2"]
