"""What an operator may do to a publication: pure functions from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from shoal.publication import Publication, Published, Unpublished, highest, order

__all__ = [
    "NotAllowed",
    "add",
    "follow_newest",
    "label",
    "place",
    "remove",
    "remove_version",
    "rollback",
    "split",
    "unlabel",
    "what_gets_traffic",
]


class NotAllowed(ValueError):
    """What was asked would leave a publication that makes no sense, or take away what is in use."""


def add(publication: Publication, version: str, published: Published, *, keep: int = 1, name: str = "") -> Publication:
    """With one more version, which gets the label ``name``, and without old ones that nobody names.

    The newest 1 + ``keep`` stay, and whatever has a label or traffic. Adding the same folder again changes at most its
    source. Raises ``NotAllowed`` for a number that another folder has.
    """
    there = publication.versions.get(version)
    if there is not None and there.digest != published.digest:
        raise NotAllowed(f"{publication.model} has a version {version} already, with other files")
    versions = {**publication.versions, version: published}
    labels = {**publication.labels, name: version} if name else publication.labels
    added = replace(publication, versions=versions, labels=labels)
    kept = {version, *sorted(versions, key=order)[-1 - keep :], *_named(added)}
    return _checked(replace(added, versions={v: p for v, p in versions.items() if v in kept}))


def remove(publication: Publication, *, force: bool = False) -> None:
    """See that the whole model may go. Raises ``NotAllowed`` while traffic or a label names a version of it."""
    if (uses := _uses(publication)) and not force:
        raise NotAllowed(f"{publication.model} is in use: {'; '.join(uses)}. --force takes that away too")


def remove_version(publication: Publication, version: str, *, force: bool = False) -> Publication | None:
    """Without one version; None when it was the last. ``force`` takes its labels and its traffic away, too.

    Raises ``NotAllowed`` while traffic or a label names it.
    """
    _known(publication, version)
    if (uses := _uses(publication, version)) and not force:
        raise NotAllowed(f"{publication.model}@{version} is in use: {'; '.join(uses)}. --force takes that away too")
    versions = {v: published for v, published in publication.versions.items() if v != version}
    if not versions:
        return None
    traffic = {n: weight for n, weight in publication.traffic.items() if _version_of(publication, n) != version}
    return _checked(
        replace(
            publication,
            versions=versions,
            labels={name: v for name, v in publication.labels.items() if v != version},
            traffic=traffic if any(traffic.values()) else {},
        )
    )


def label(publication: Publication, name: str, version: str) -> Publication:
    """``name`` is for ``version`` from now on, a number or another label. Raises ``NotAllowed``."""
    number = _known(publication, version)
    return _checked(replace(publication, labels={**publication.labels, name: number}))


def unlabel(publication: Publication, name: str) -> Publication:
    """Raises ``NotAllowed`` when there is no such label, or when traffic goes by it."""
    if name not in publication.labels:
        raise NotAllowed(f"{publication.model} has no label {name!r}; it has {_listed(publication.labels)}")
    if name in publication.traffic:
        raise NotAllowed(f"traffic of {publication.model} goes by the label {name}: split it by versions first")
    return replace(publication, labels={n: version for n, version in publication.labels.items() if n != name})


def split(publication: Publication, weights: Mapping[str, float]) -> Publication:
    """Traffic by weights of versions or labels. Raises ``NotAllowed``."""
    for name in weights:
        _known(publication, name)
    return _checked(replace(publication, traffic=dict(weights)))


def follow_newest(publication: Publication) -> Publication:
    """No split: each worker serves the newest version that is ready on it."""
    return replace(publication, traffic={})


def rollback(publication: Publication) -> Publication:
    """All traffic to the version before the newest one that has some. Raises ``NotAllowed`` when there is none."""
    newest = highest(what_gets_traffic(publication))
    before = [version for version in publication.versions if order(version) < order(newest)]
    if not before:
        raise NotAllowed(f"{publication.model} has no version before {newest}, which has the traffic")
    return _checked(replace(publication, traffic={highest(before): 1.0}))


def place(publication: Publication, where: Sequence[str]) -> Publication:
    """Only these workers or zones load the model; all do when ``where`` is empty."""
    return _checked(replace(publication, placement=list(where)))


def what_gets_traffic(publication: Publication) -> list[str]:
    """The versions that requests without a version reach, by number; the newest when there is no split."""
    if not publication.traffic:
        return [highest(publication.versions)]
    shares = {_version_of(publication, name) for name, weight in publication.traffic.items() if weight > 0}
    return sorted(shares, key=order)


def _version_of(publication: Publication, name: str) -> str:
    return publication.labels.get(name, name)


def _known(publication: Publication, name: str) -> str:
    try:
        return publication.version_of(name)
    except Unpublished as error:
        there_are = _listed(sorted(publication.versions, key=order))
        raise NotAllowed(f"{error.args[0]}; its versions are {there_are}") from error


def _named(publication: Publication) -> set[str]:
    return {*publication.labels.values(), *(_version_of(publication, name) for name in publication.traffic)}


def _uses(publication: Publication, version: str | None = None) -> list[str]:
    """What names a version, or any."""
    labels = [f"the label {n} is for version {v}" for n, v in publication.labels.items() if version in (None, v)]
    traffic = [n for n in publication.traffic if version in (None, _version_of(publication, n))]
    return labels + [f"traffic goes to {name}" for name in traffic]


def _listed(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _checked(publication: Publication) -> Publication:
    if problems := publication.problems():
        raise NotAllowed("; ".join(problems))
    return publication
