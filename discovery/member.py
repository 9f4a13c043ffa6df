"""What discovery knows of an instance (a ``Member``), and what it knows of them all (a ``Directory``)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

Role = Literal["gateway", "worker"]


@dataclass(frozen=True)
class Member:
    """One running gateway or worker, as the others see it.

    ``incarnation`` is new at every start. ``internal_url`` is for gateways, checks and metrics;
    ``public_url`` is for clients, and a worker without one is only proxied to. ``models`` maps
    ``model@version`` to its status there. Numbers that change fast are never in it.
    """

    role: Role
    name: str
    incarnation: str
    internal_url: str
    public_url: str | None = None
    zone: str = ""
    version: str = ""
    models: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        return f"<Member {self.role} {self.name} at {self.internal_url}, models {dict(self.models)}>"

    @property
    def slug(self) -> str:
        """The name in at most 160 characters that are safe in a file name and in a URL's path; unique."""
        safe = quote(self.name, safe="", errors="surrogatepass").replace("~", "%7E").replace("%", "~")
        return safe if len(safe) <= 160 else f"{safe[:128]}~{sha256(safe.encode()).hexdigest()[:30]}"

    def to_json(self) -> str:
        document = {item.name: getattr(self, item.name) for item in fields(self)}
        return json.dumps(document | {"models": dict(self.models)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Member:
        """Unknown fields are ignored. Raises ``ValueError`` for anything that is not a member."""
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("a member is a JSON object")
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Member:
        role, public_url = document.get("role"), document.get("public_url")
        models = document.get("models") or {}
        texts = {name: document.get(name) for name in ("name", "incarnation", "internal_url")}
        if role not in ("gateway", "worker") or not all(isinstance(t, str) and t for t in texts.values()):
            raise ValueError("a member has a role, a name, an incarnation and an internal_url")
        if not isinstance(models, Mapping) or not isinstance(public_url, str | None):
            raise ValueError("a member's models are an object, its public_url is text")
        return cls(
            role=role,
            name=str(texts["name"]),
            incarnation=str(texts["incarnation"]),
            internal_url=str(texts["internal_url"]),
            public_url=public_url or None,
            zone=str(document.get("zone") or ""),
            version=str(document.get("version") or ""),
            models=MappingProxyType({str(k): str(v) for k, v in models.items()}),
        )


@dataclass(frozen=True)
class Directory:
    """An immutable snapshot of the ready members of one role; a new one replaces it whole.

    ``index`` grows with every change that the watching process saw.
    """

    role: Role
    members: tuple[Member, ...] = ()
    index: int = 0

    def __repr__(self) -> str:
        return f"<Directory {self.role}: {len(self.members)} ready, index {self.index}>"

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)
