"""Members as Prometheus's discovery by HTTP reads them; infra/prometheus/prometheus.yml gives the same labels."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from discovery import Member


def of(member: Member) -> dict[str, Any]:
    """What to scrape of a member."""
    return group(member.internal_url, service=member.role, instance=member.name, zone=member.zone)


def group(url: str, **labels: str) -> dict[str, Any]:
    """One target: the internal listener at ``url``."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return {"targets": [f"{host}:{port}"], "labels": {"__scheme__": parts.scheme, **labels}}
