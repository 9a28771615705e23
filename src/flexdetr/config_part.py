"""The base of every section of the configuration, which parts declare beside themselves."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

_SHOWN = 120  # characters of a value in a message


class Part(BaseModel):
    """Base of every section: immutable, no key goes unread, every number is finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def shown(value: object) -> str:
    """A value for a message: what would fill the screen is cut, and numbers beyond all use are not written out."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # Python writes out no number of more than 4,300 digits
        return f"a {type(value).__name__} with a number beyond all use"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
