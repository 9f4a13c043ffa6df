"""A member as a Consul service and back: pure, and within Consul's limits.

Meta: ``proto`` (of this mapping), ``role``, ``name``, ``incarnation``, ``internal_url``, ``public_url``,
``zone``, ``version``; ``models``, ``models-1``, … each hold a JSON object with some of the models, because a
value has at most 512 bytes. Tags, for Consul's DNS: ``v<major>``, ``model-<name>`` (ready ones), ``zone-<z>``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from discovery.backend import DiscoveryUnavailable
from discovery.member import Member, Role

PROTO = "1"
LONGEST_META_VALUE = 512
MOST_META_PAIRS = 64
DEREGISTER_AFTER = "30m"  # much longer than any outage to recover from


@dataclass(frozen=True)
class CheckTerms:
    """How agents check: the seconds between checks, and the name that they expect in a certificate.

    Without a name an agent expects what it does by itself: its node's, or in current versions the checked address.
    """

    interval: float = 1.0
    name: str = ""


def service_name(prefix: str, role: Role) -> str:
    return f"{prefix}-{role}"


def service_id(prefix: str, member: Member) -> str:
    return f"{service_name(prefix, member.role)}-{member.slug}"


def check_id(prefix: str, member: Member) -> str:
    return f"service:{service_id(prefix, member)}"


def definition(prefix: str, member: Member, terms: CheckTerms) -> dict[str, Any]:
    """What to register, as the arguments of py-consul. Raises ``DiscoveryUnavailable`` if it does not fit."""
    internal = urlsplit(member.internal_url)
    return {
        "name": service_name(prefix, member.role),
        "service_id": service_id(prefix, member),
        "address": internal.hostname,
        "port": internal.port or (443 if internal.scheme == "https" else 80),
        "tags": tags(member),
        "meta": meta(member),
        "tagged_addresses": tagged_addresses(member),
        "check": {
            "CheckID": check_id(prefix, member),
            "Name": "readiness",
            "HTTP": f"{member.internal_url.rstrip('/')}/readyz",
            "Interval": f"{terms.interval:g}s",
            "Timeout": f"{max(2.0, terms.interval):g}s",
            # Not routed to before the first check; Consul keeps the status of a check that it has already.
            "Status": "critical",
            "SuccessBeforePassing": 1,
            "FailuresBeforeCritical": 1,
            "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
            **({"TLSServerName": terms.name} if terms.name else {}),
        },
    }


def tags(member: Member) -> list[str]:
    words = [f"v{member.version.split('.')[0]}"] if member.version else []
    words += [f"zone-{member.zone}"] if member.zone else []
    words += [f"model-{key.rpartition('@')[0] or key}" for key, status in member.models.items() if status == "ready"]
    return sorted({_dns_label(word) for word in words})


def meta(member: Member) -> dict[str, str]:
    values = {
        "proto": PROTO,
        "role": member.role,
        "name": member.name,
        "incarnation": member.incarnation,
        "internal_url": member.internal_url,
        "public_url": member.public_url or "",
        "zone": member.zone,
        "version": member.version,
    }
    pairs = {key: value for key, value in values.items() if value} | _split_models(member.models)
    too_long = sorted(key for key, value in pairs.items() if len(value.encode()) > LONGEST_META_VALUE)
    if too_long or len(pairs) > MOST_META_PAIRS:
        reason = f"{', '.join(too_long)} too long" if too_long else "too many models"
        raise DiscoveryUnavailable(f"{member.role} {member.name[:64]} does not fit into Consul's Meta: {reason}")
    return pairs


def tagged_addresses(member: Member) -> dict[str, dict[str, str | int]]:
    public = urlsplit(member.public_url or "")
    if not public.hostname or public.port is None:
        return {}
    return {"wan": {"address": public.hostname, "port": public.port}}


def holds(service: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether an agent's record of a service says what ``wanted`` does."""
    if service is None:
        return False
    wan = (service.get("TaggedAddresses") or {}).get("wan") or {}
    wanted_wan = wanted["tagged_addresses"].get("wan", {})
    return (
        service.get("Service") == wanted["name"]
        and service.get("Address") == wanted["address"]
        and service.get("Port") == wanted["port"]
        and sorted(service.get("Tags") or ()) == wanted["tags"]
        and service.get("Meta") == wanted["meta"]
        and (not wanted_wan or (wan.get("Address"), wan.get("Port")) == (wanted_wan["address"], wanted_wan["port"]))
    )


def member_from(service: Mapping[str, Any]) -> Member:
    """The member that a service was registered for. Raises ``ValueError`` for somebody else's service."""
    pairs = service.get("Meta") or {}
    models: dict[str, Any] = {}
    for key in pairs:
        if re.fullmatch(r"models(-\d+)?", key):
            part = json.loads(pairs[key])
            if not isinstance(part, dict):
                raise ValueError(f"{key} in its Meta is no object")
            models |= part
    return Member.from_document({**pairs, "models": models})


def _split_models(models: Mapping[str, str]) -> dict[str, str]:
    parts: list[dict[str, str]] = []
    for key, status in sorted(models.items()):
        longer = (parts[-1] if parts else {}) | {key: status}
        if parts and len(_json(longer)) <= LONGEST_META_VALUE:
            parts[-1] = longer
        else:
            parts.append({key: status})
    return {f"models-{n}" if n else "models": _json(part) for n, part in enumerate(parts)}


def _json(part: Mapping[str, str]) -> str:
    return json.dumps(part, separators=(",", ":"))


def _dns_label(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", word.lower())[:63].strip("-")
