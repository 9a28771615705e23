"""The base of every section of the configuration, which parts declare beside themselves."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Base of every section: immutable, and no key goes unread."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
