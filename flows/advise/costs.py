"""What runs cost in bytes and in seconds, and how many of their rounds fit into a budget.

Seconds of a round are those of its slowest part, all clients at once, each on a link of its own:

    down / rate down + up / rate up + 2 · latency + compute

with the most bytes that one client is sent and sends, and compute measured: the slowest client's,
and the server's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedx_core.base.errors import ConfigError
from fedx_core.rounds.forecast import Forecast
from fedx_core.wire.messages import RoundReport

MIB = 2**20
AT_CLIENTS = "train"
"""The step of a round that clients work in; on one machine they may do so one after another."""

_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"s": 1, "sec": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, kw_only=True)
class Link:
    """What lies between a client and the server.

    Args:
        down: to the client, in Mbit/s.
        up: from it, in Mbit/s.
        latency: one way, in ms.
    """

    down: float
    up: float
    latency: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round costs; retries and evaluation are apart.

    Args:
        sent: bytes of all clients in both directions.
        down: the most bytes that one client is sent.
        up: the most bytes that one client sends.
        compute: seconds of the slowest client and of the server; 0 before it is measured.
    """

    sent: int
    down: int
    up: int
    compute: float = 0.0

    def seconds(self, link: Link | None) -> float:
        """Return how long the round takes; without a link, its compute."""
        if link is None:
            return self.compute
        moved = self.down / link.down + self.up / link.up
        return 8 * moved / 1e6 + 2 * link.latency / 1e3 + self.compute


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may cost: either bytes of all clients in both directions, or seconds.

    Args:
        said: as it was given.
        sent: bytes; None where time is short.
        seconds: None where bytes are.
    """

    said: str
    sent: int | None = None
    seconds: float | None = None

    def holds(self, rounds: Sequence[Round], link: Link | None) -> bool:
        """Whether rounds together cost no more."""
        if self.sent is not None:
            return sum(each.sent for each in rounds) <= self.sent
        assert self.seconds is not None
        return sum(each.seconds(link) for each in rounds) <= self.seconds


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a run's rounds cost, whatever their number.

    Args:
        first: the first round.
        later: those after it, as they were in a trial or are forecast; at least one. A longer run
            takes each as often as that makes its number, in their order.
    """

    first: Round
    later: tuple[Round, ...]

    def rounds(self, number: int) -> list[Round]:
        """Return the rounds of a run."""
        known, to_come = len(self.later), number - 1
        return [self.first, *(self.later[n * known // to_come] for n in range(to_come))]

    def fitting(self, most: int, budget: Budget, link: Link | None) -> int:
        """Return the largest number of rounds that the budget holds, at most ``most``; or 0."""
        return next(
            (n for n in range(most, 0, -1) if budget.holds(self.rounds(n), link)),
            0,
        )


def budget_of(text: str) -> Budget:
    """Read a budget such as ``50MiB``, ``1.5 GB``, ``90s``, ``30min`` or ``2h``.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*", text)
    unit = found[2].lower() if found else ""
    if found and float(found[1]) > 0:
        if unit in _BYTES:
            return Budget(said=text.strip(), sent=int(float(found[1]) * _BYTES[unit]))
        if unit in _SECONDS:
            return Budget(said=text.strip(), seconds=float(found[1]) * _SECONDS[unit])
    raise ConfigError(
        f"--budget {text!r} is neither bytes nor time; write a number above 0 and a unit, as in "
        "50MiB, 800KiB, 2GB, 90s, 30min or 2h"
    )


def forecast_course(found: Forecast) -> Course:
    """Return what rounds are forecast to cost, compute left out."""
    first, later = (
        Round(sent=found.clients * (down + found.up), down=down, up=found.up)
        for down in (found.first_down, found.down)
    )
    return Course(first=first, later=(later,))


def measured_course(reports: Sequence[RoundReport], forecast: Course) -> Course:
    """Return what rounds cost in a trial.

    Args:
        reports: of its rounds, at least one.
        forecast: gives later rounds their bytes where the trial had but one.
    """
    first, *later = map(_measured, reports)
    if not later:
        (known,) = forecast.later
        later = [Round(sent=known.sent, down=known.down, up=known.up, compute=first.compute)]
    return Course(first=first, later=tuple(later))


def _measured(report: RoundReport) -> Round:
    traffic = report.traffic.values()
    down = [each.downlink + each.mask for each in traffic]
    up = [each.uplink for each in traffic]
    server = sum(spent for step, spent in report.seconds.items() if step != AT_CLIENTS)
    clients = [said["seconds"] for said in report.client_metrics.values() if "seconds" in said]
    return Round(
        sent=sum(down) + sum(up),
        down=max(down, default=0),
        up=max(up, default=0),
        compute=server + max(clients, default=0.0),
    )
