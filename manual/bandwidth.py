"""The arithmetic of docs/direct-upload.md: what goes through the middle by proxy and by lookup.

``python -m manual.bandwidth`` prints the tables; a test holds the page equal to them, and the sizes to a real cluster.
"""

from __future__ import annotations

__all__ = ["ANSWER_BYTES", "LOOKUP_BYTES", "by_lookup", "by_proxy", "limits", "loads"]

LOOKUP_BYTES = 1200  # a lookup and its answer, with their heads
ANSWER_BYTES = 1500  # the heads of a proxied prediction, and its answer

_IMAGES = (("20 kB", 20e3), ("100 kB", 100e3), ("500 kB", 500e3), ("3 MB", 3e6), ("12 MB", 12e6))
_LINKS = (("1 Gbit/s", 1e9 / 8), ("10 Gbit/s", 10e9 / 8), ("25 Gbit/s", 25e9 / 8))
_RATES = (10, 100, 1000)
_USABLE = 0.94  # of a link's rate, with Ethernet's, IP's and TCP's own bytes taken off


def by_proxy(image: float, rate: float) -> float:
    """Bytes a second that a gateway receives, and as many that it sends: the image comes in, and goes on."""
    return (image + ANSWER_BYTES) * rate


def by_lookup(rate: float) -> float:
    """Bytes a second in and out together, when each image has a lookup of its own."""
    return LOOKUP_BYTES * rate


def _size(value: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:,.3g} {unit}"
    return f"{value:.0f} B"


def _count(value: float) -> str:
    digits = max(0, len(str(int(value))) - 2)
    return f"{int(value // 10**digits * 10**digits):,}"


def loads() -> str:
    """What the middle carries, by image size and rate."""
    heads = " | ".join(f"{rate:,} images/s" for rate in _RATES)
    rows = [f"| through the middle | {heads} |", "| --- |" + " ---: |" * len(_RATES)]
    for name, image in _IMAGES:
        cells = " | ".join(f"{_size(by_proxy(image, rate))}/s" for rate in _RATES)
        rows.append(f"| {name}, by proxy | {cells} |")
    cells = " | ".join(f"{_size(by_lookup(rate))}/s" for rate in _RATES)
    rows.append(f"| any size, by lookup | {cells} |")
    return "\n".join(rows) + "\n"


def limits() -> str:
    """The images a second at which a gateway's network is full."""
    heads = " | ".join(name for name, _ in _LINKS)
    rows = [f"| full at, images/s | {heads} |", "| --- |" + " ---: |" * len(_LINKS)]
    for name, image in _IMAGES:
        cells = " | ".join(_count(link * _USABLE / by_proxy(image, 1)) for _, link in _LINKS)
        rows.append(f"| {name}, by proxy | {cells} |")
    cells = " | ".join(_count(link * _USABLE / by_lookup(1)) for _, link in _LINKS)
    rows.append(f"| any size, by lookup | {cells} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(loads(), limits(), sep="\n")
