"""What tests of hours share: how much of them is done, and where their figures go."""

import os
from typing import Any

SHARE = float(os.environ.get("LONG_SHARE", "1"))
"""1 does all; a smaller number that share of the rounds, kills and draws."""


def times(number: int) -> int:
    """Say how often to do what the whole test does so many times."""
    return max(1, round(number * SHARE))


def measured(what: str, **figures: Any) -> None:
    """Print figures for docs/reliability.md; `make test-long` shows them."""
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
    print(f"measured: {what} (share {SHARE:g}): {said}")
