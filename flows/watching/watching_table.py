"""The lines of ``fedx watch``: a table with a line per round, and what goes on below it."""

from collections.abc import Iterator, Sequence

from fedx_core.learning.evaluation import NO_LABEL
from fedx_core.wire.messages import RoundReport
from flows.runs.live import HEADLINES
from flows.runs.rows import MIB
from flows.runs.under_way import duration, said
from flows.watching.watch import Seen

# Together below 80 characters.
WIDTHS = {
    "round": 5, "score": 9, "unpruned": 9, "loss": 8, "sparsity": 9, "MiB": 9, "in all": 10,
    "seconds": 8, "lost": 5,
}  # fmt: skip


def title(seen: Seen) -> str:
    """Name the columns.

    Args:
        seen: with one round or more.
    """
    score = HEADLINES.get(_metric(seen.reports[-1]), "score")
    return "".join(f"{score if n == 'score' else n:>{width}}" for n, width in WIDTHS.items())


def lines(reports: Sequence[RoundReport], done: int) -> Iterator[str]:
    """Write the rounds after the first ``done``, each with the clients that it lost."""
    total = sum(report.wire_bytes for report in reports[:done])
    for report in reports[done:]:
        total += report.wire_bytes
        name = _metric(report)
        before = report.metrics_before_pruning.get(name)
        cells = (
            str(report.round_index),
            _percent(report.metrics.get(name)),
            _percent(before) if report.pruned else "",
            f"{report.train_loss:.3f}",
            _percent(report.sparsity),
            f"{report.wire_bytes / MIB:.2f}",
            f"{total / MIB:.2f}",
            f"{sum(report.seconds.values()):.1f}",
            str(len(report.failures) or ""),
        )
        yield "".join(f"{c:>{w}}" for c, w in zip(cells, WIDTHS.values(), strict=True)).rstrip()
        for failure in report.failures:
            yield f"      lost {failure.client}: {failure.reason}"


def step(seen: Seen, clock: float) -> str:
    """Say what the run does, how long a round takes, and when it may end.

    Args:
        seen: of the run.
        clock: seconds since 1970.
    """
    doing = ""
    if seen.state == "stopped":
        doing = "stopped"
    elif seen.now is not None:
        doing = f"{seen.now.doing}, for {duration(max(clock - seen.now.time, 0))}"
    return said(doing, seen.seconds_a_round, seen.rounds_left, clock)


def end(seen: Seen) -> str:
    """Say what came of a finished run."""
    last = seen.reports[-1]
    name = _metric(last)
    total = sum(report.wire_bytes for report in seen.reports) / MIB
    spent = duration(sum(sum(report.seconds.values()) for report in seen.reports))
    why = f" (stopped early: {last.stopped})" if last.stopped else ""
    score = (
        f"{HEADLINES[name]} {_percent(last.metrics[name])}" if name else f"no score, {NO_LABEL},"
    )
    return (
        f"finished{why}: {score} after "
        f"{last.round_index} rounds, {total:.2f} MiB and {spent}; {seen.folder.path}"
    )


def _metric(report: RoundReport) -> str:
    return next((name for name in HEADLINES if name in report.metrics), "")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
