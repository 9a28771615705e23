"""In which form a model takes pictures: how many channels, and which values are black and white. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PixelForm:
    """What a file's or an array's pixels become: (H, W, channels) uint8.

    Attributes:
        channels: 3 is RGB, 1 is grey; any other number is taken as it is stored.
        value_range: stored values (low, high) that become 0 and 255, those outside are cut off; None takes 16 bits by
            their high byte, and floats as 0 to 1, or as 0 to 255 where one is above 1. 8 bits are taken as they are.

    Example:
        >>> PixelForm(4).takes
        'pictures of 4 channels'
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None

    @property
    def photographic(self) -> bool:
        """Whether any photograph can be brought to it: it is RGB or grey."""
        return self.channels in (1, 3)

    @property
    def takes(self) -> str:
        """What it takes, for a message."""
        return {1: "grey pictures", 3: "RGB pictures"}.get(
            self.channels, f"pictures of {self.channels} channels"
        )


RGB = PixelForm()
