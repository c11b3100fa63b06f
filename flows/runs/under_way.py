"""What moves below the lines of a run on a terminal: how far it is, what it does, until when."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedx_core.wire.messages import RoundReport

if TYPE_CHECKING:
    from rich.console import RenderableType

RECENT = 5
"""Rounds from which the duration of the next ones is guessed."""


def seconds_a_round(reports: Sequence[RoundReport]) -> float | None:
    """Return the mean of the last few rounds; None before the first."""
    spent = [sum(report.seconds.values()) for report in reports[-RECENT:]]
    return sum(spent) / len(spent) if spent else None


def said(doing: str, each: float | None, rounds_left: int, clock: float) -> str:
    """Say what a run does, how long a round takes, and when it may end.

    Args:
        doing: the step, with what is to be said of it.
        each: seconds that a round takes; None before the first.
        rounds_left: that are still to be done; 0 where the run does not go on.
        clock: seconds since 1970.
    """
    words = [doing] if doing else []
    if each is not None:
        words.append(f"{each:.1f} s per round")
        if left := each * rounds_left:
            ends = time.strftime("%H:%M", time.localtime(clock + left))
            words.append(f"about {duration(left)} left, until {ends}")
    return "; ".join(words)


def drawn(name: str, done: int, rounds: int, words: str) -> "RenderableType":
    """Draw the bar of a run, and below it what :func:`said` says."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(
        Text(f"{name}  {done}/{rounds} rounds"),
        ProgressBar(total=max(rounds, 1), completed=done, width=24),
    )
    return Group("", grid, Text(words))


def duration(seconds: float) -> str:
    """Say a time in its two largest units, such as ``3 min 20 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
