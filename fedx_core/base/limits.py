"""Limits of settings, refused in the same words everywhere, and those of files from outside.

Settings come by name: ``at_least(1, rounds=self.rounds)`` says ``rounds must be 1 or more, got 0``.
Several that share a limit are named together. What is not a number is refused too.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from fedx_core.base.errors import ConfigError

Interval = Literal["(0, 1)", "(0, 1]", "[0, 1)"]

# Of image files and archives, which may be made to fill memory or time. Scenes are read in tiles,
# and may be as large as they like.
FILE_BYTES = 1 << 28
"""Of a file as it is read, unpacked where it lay in an archive."""
IMAGE_PIXELS = 1 << 26
"""Of an image that is decoded as a whole: 8,192 x 8,192."""
IMAGE_BYTES = 1 << 28
"""Of its pixels in memory."""
BANDS = 1024
"""Of an image."""
DECODE_SECONDS = 60.0
"""Of a core's time for one image."""
ARCHIVE_BYTES = 1 << 30
"""Of all that is in an archive; large archives may hold ``ARCHIVE_RATIO`` times their own size."""
ARCHIVE_RATIO = 200


def at_least(least: float, **settings: float) -> None:
    """Refuse what is smaller."""
    _refuse_unless(lambda value: value >= least, f"be {least} or more", settings)


def at_most(most: float, **settings: float) -> None:
    """Refuse what is larger."""
    _refuse_unless(lambda value: value <= most, f"be {most} or less", settings)


def positive(**settings: float) -> None:
    """Refuse zero and less."""
    _refuse_unless(lambda value: value > 0, "be positive", settings)


def within(interval: Interval, **settings: float) -> None:
    """Refuse what lies outside of an interval; a round bracket leaves its end out."""
    open_below, open_above = interval.startswith("("), interval.endswith(")")

    def lies_in(value: float) -> bool:
        ends = (open_below and value == 0) or (open_above and value == 1)
        return 0 <= value <= 1 and not ends

    _refuse_unless(lies_in, f"lie in {interval}", settings)


def one_of(choices: Sequence[str], **settings: str) -> None:
    """Refuse names that are not among the choices."""
    said = " or ".join(choices) if len(choices) < 3 else f"one of {', '.join(choices)}"
    for name, value in settings.items():
        if value not in choices:
            raise ConfigError(f"{name} must be {said}, got {value!r}")


def _refuse_unless(holds: Callable[[float], bool], wanted: str, settings: dict[str, float]) -> None:
    if not all(map(holds, settings.values())):
        got = " and ".join(map(str, settings.values()))
        raise ConfigError(f"{' and '.join(settings)} must {wanted}, got {got}")
