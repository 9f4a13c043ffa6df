"""What a manifest's tables for tasks have in common: they never change, and an unknown key is an error."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Count", "Share", "Table"]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=1000)]


class Table(BaseModel):
    """A table of ``model.toml``. ``allow_inf_nan`` is off: TOML can write both, and neither is a setting."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
