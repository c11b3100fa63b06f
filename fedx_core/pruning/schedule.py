"""When a mask is made and how much it removes."""

from dataclasses import dataclass

from fedx_core.base.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """One pruning event after the warm-up, or several with a rising rate.

    Args:
        pruning_rate: share of units that are dead after the last event, in [0, 1).
        warmup_rounds: completed rounds before the first event (v in the paper).
        recompute_every: rounds between events; 0 makes one event only.
        recompute_times: events in all, 2 or more where ``recompute_every`` is set, else 1.
    """

    pruning_rate: float
    warmup_rounds: int
    recompute_every: int = 0
    recompute_times: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.pruning_rate < 1:
            raise ConfigError(
                f"pruning_rate must lie in [0, 1), got {self.pruning_rate}; it is a share, "
                "not a percentage"
            )
        if self.warmup_rounds < 1:
            raise ConfigError(f"warmup_rounds must be 1 or more, got {self.warmup_rounds}")
        if self.recompute_every < 0 or self.recompute_times < 1:
            raise ConfigError(
                "recompute_every must be 0 or more and recompute_times 1 or more, got "
                f"{self.recompute_every} and {self.recompute_times}"
            )
        if (self.recompute_every > 0) != (self.recompute_times > 1):
            raise ConfigError(
                "recompute_every is the rounds between events and recompute_times how many events "
                "there are, and one says nothing without the other: got "
                f"{self.recompute_every} and {self.recompute_times}; set recompute_every to 1 or "
                "more and recompute_times to 2 or more, or leave both out"
            )

    @property
    def last_round(self) -> int:
        """After which round the last event takes place; 0 where there is none."""
        if self.pruning_rate == 0:
            return 0
        return self.warmup_rounds + (self.recompute_times - 1) * self.recompute_every

    def rate_after(self, round_index: int, *, rising: bool = True) -> float | None:
        """Return the rate of the event after a completed round, or None if there is none.

        Args:
            round_index: from 1.
            rising: grow evenly to the full rate over the events; else the full rate each time.
        """
        since = round_index - self.warmup_rounds
        if self.pruning_rate == 0 or since < 0:
            return None
        if self.recompute_every == 0:
            return self.pruning_rate if since == 0 else None
        event, rest = divmod(since, self.recompute_every)
        if rest or event >= self.recompute_times:
            return None
        return self.pruning_rate * ((event + 1) / self.recompute_times if rising else 1.0)
