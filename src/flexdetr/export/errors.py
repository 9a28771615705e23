"""What an export refuses with; apart, so that it can be named without torch."""

from __future__ import annotations


class ExportError(ValueError):
    """An export that cannot be made, or that does not do what the model does; the message says why."""
