"""What a run shows while it goes: a moving bar on a terminal, plain lines or JSON elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from fedx_core.base import strict_json
from fedx_core.clients.client import Place
from fedx_core.learning.evaluation import NO_LABEL, left_out
from fedx_core.rounds.carrier import Carrier, Outcome
from fedx_core.wire.messages import ClientJob, RoundReport
from flows.runs import under_way
from flows.runs.rows import MIB, rows
from flows.settings.choices import Show

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

T = TypeVar("T")

HEADLINES = {"overall_accuracy": "accuracy", "micro_map": "mAP", "mean_iou": "mIoU"}


class Display(Protocol):
    """Is told what happens; changes nothing."""

    def __enter__(self) -> "Display":
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""

    def began(self, run: str, rounds: int, done: int) -> None:
        """Say which run goes on, how far, and how many rounds are done."""

    def doing(self, what: str) -> None:
        """Say what is being done now."""

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Show the last of these rounds."""

    def warn(self, line: str) -> None:
        """Show what somebody may want to mend while the run goes on."""

    def mention(self, line: str) -> None:
        """Show what somebody may want to know."""


@dataclass
class Beside:
    """A display that passes everything on to another; what stands beside it overrides a part.

    Args:
        shown: the display for people.
    """

    shown: Display

    def __enter__(self) -> Self:
        """Begin to show."""
        self.shown.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.shown.__exit__(kind, error, trace)

    def began(self, run: str, rounds: int, done: int) -> None:
        """Pass it on."""
        self.shown.began(run, rounds, done)

    def doing(self, what: str) -> None:
        """Pass it on."""
        self.shown.doing(what)

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Pass it on."""
        self.shown.finished_round(reports)

    def warn(self, line: str) -> None:
        """Pass it on."""
        self.shown.warn(line)

    def mention(self, line: str) -> None:
        """Pass it on."""
        self.shown.mention(line)


@dataclass
class Both(Beside):
    """A display and lines of another place, such as a log.

    Args:
        lines: writes what the display shows.
    """

    lines: "Lines"

    def began(self, run: str, rounds: int, done: int) -> None:
        """Say it twice."""
        super().began(run, rounds, done)
        self.lines.began(run, rounds, done)

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Say it twice."""
        super().finished_round(reports)
        self.lines.finished_round(reports)

    def warn(self, line: str) -> None:
        """Say it twice."""
        super().warn(line)
        self.lines.warn(line)

    def mention(self, line: str) -> None:
        """Say it twice."""
        super().mention(line)
        self.lines.mention(line)


@dataclass
class Watched:
    """A carrier that tells a display what it carries."""

    carrier: Carrier
    display: Display
    _what: str = field(default="", init=False)
    _asked: set[str] = field(default_factory=set, init=False)
    _under_way: set[str] = field(default_factory=set, init=False)

    @property
    def workers(self) -> int:
        """As the carrier's."""
        return self.carrier.workers

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Name the step, then let it run."""
        self.display.doing(name)
        return self.carrier.server_step(name, step, *arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Count the clients that are asked."""
        clients, attempt = {job.client for job in jobs}, jobs[0].attempt
        self._what = jobs[0].purpose
        self._asked = self._asked | clients if attempt else clients
        self._under_way |= clients
        self._count(f", attempt {attempt + 1}" if attempt else "")
        self.carrier.send(jobs, place)

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        """Count the clients that are done."""
        outcomes = self.carrier.heard(timeout)
        for outcome in outcomes:
            self._under_way.discard(outcome.client)
            self._count()
        return outcomes

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        """Count them no more."""
        self._under_way -= {job.client for job in jobs}
        self.carrier.drop(jobs)

    def _count(self, again: str = "") -> None:
        done = len(self._asked) - len(self._under_way)
        self.display.doing(f"{self._what} {done}/{len(self._asked)} clients{again}")


class Lines:
    """One line per round.

    Args:
        write: takes a line.
        page: address of the run on Prefect's pages; empty where it has none.
    """

    def __init__(self, write: Callable[[str], None], page: str = "") -> None:
        self._write = write
        self._page = page
        self._rounds = self._done = 0

    def __enter__(self) -> "Lines":
        """Nothing to prepare."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to put back."""

    def began(self, run: str, rounds: int, done: int) -> None:
        """Name the run."""
        self._rounds, self._done = rounds, done
        self.say(
            f"run {run}: "
            + (
                f"on from round {done} of {rounds}"
                if done
                else f"{rounds} round{'s' * (rounds != 1)}"
            )
        )
        if self._page:
            self.say(f"in Prefect: {self._page}")

    def doing(self, what: str) -> None:
        """Steps are too many for lines."""

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Write the round's line."""
        self._done = reports[-1].round_index
        self.say(line(reports))
        for failure in reports[-1].failures:
            self.say(f"      lost {failure.client}: {failure.reason}")
        if reports[-1].stopped:
            self.say(f"stopped early: {reports[-1].stopped}")

    def say(self, text: str) -> None:
        """Write a line."""
        self._write(text)

    def warn(self, line: str) -> None:
        """Write it among the others."""
        self.say(f"warning: {line}")

    def mention(self, line: str) -> None:
        """Write it among the others."""
        self.say(line)


class Terminal(Lines):
    """The same lines, and below them a bar, what is being done and when the run may end."""

    def __init__(self, console: "Console", page: str = "") -> None:
        # Lines wrap as the terminal does, so that an address in one can still be clicked.
        super().__init__(
            lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True), page
        )
        self._console = console
        self._live: Live | None = None
        self._run = ""
        self._seconds: float | None = None
        self._step, self._since = "starting", time.time()

    def __enter__(self) -> "Terminal":
        """Draw what moves."""
        from rich.live import Live

        self._live = Live(
            console=self._console,
            get_renderable=self._below,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it away, so that nothing is printed over."""
        if self._live is not None:
            self._live.stop()

    def began(self, run: str, rounds: int, done: int) -> None:
        """Name the run."""
        self._run = run
        super().began(run, rounds, done)

    def doing(self, what: str) -> None:
        """Change what moves."""
        self._step, self._since = what, time.time()

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Write the round's line."""
        self._seconds = under_way.seconds_a_round(reports)
        super().finished_round(reports)

    def _below(self) -> "RenderableType":
        clock = time.time()
        doing = f"{self._step}, for {under_way.duration(max(clock - self._since, 0))}"
        left = max(self._rounds - self._done, 0)
        words = under_way.said(doing, self._seconds, left, clock)
        return under_way.drawn(self._run, self._done, self._rounds, words) if self._run else words


class Json(Lines):
    """One JSON object per round on stdout; nothing else."""

    def began(self, run: str, rounds: int, done: int) -> None:
        """Programs read rounds only."""

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Write the round's row."""
        self._write(strict_json.dumps({"event": "round", **rows(reports)[-1]}))

    def warn(self, line: str) -> None:
        """Keep it off stdout."""
        print(f"warning: {line}", file=sys.stderr, flush=True)

    def mention(self, line: str) -> None:
        """Keep it off stdout."""
        print(line, file=sys.stderr, flush=True)


def display(show: Show, log: Callable[[str], None] | None = None, page: str = "") -> Display:
    """Open a display.

    Args:
        show: which one.
        log: takes the lines for ``log``, and beside any other display for people.
        page: address of the run on Prefect's pages, if it has one.
    """
    if log is not None and show != "log":
        return Both(display(show, page=page), Lines(log))
    if show == "json":
        return Json(lambda text: print(text, flush=True))
    if show == "nothing":
        return Lines(lambda text: None)
    if show == "log" and log is not None:
        return Lines(log)
    if sys.stderr.isatty():
        from rich.console import Console

        return Terminal(Console(stderr=True), page)
    return Lines(lambda text: print(text, file=sys.stderr, flush=True), page)


def line(reports: Sequence[RoundReport]) -> str:
    """Say in one line what the last round brought.

    Args:
        reports: of the run so far; bytes are this round's and all rounds'.
    """
    last = reports[-1]
    width = len(str(last.rounds))
    words = [f"round {last.round_index:>{width}}/{last.rounds}"]
    name = next((n for n in HEADLINES if n in last.metrics), None)
    if name is not None:
        words.append(f"{HEADLINES[name]} {100 * last.metrics[name]:5.1f} %")
        if name in last.metrics_before_pruning:
            words.append(f"(pruned; {100 * last.metrics_before_pruning[name]:.1f} % before)")
    elif last.metrics:
        words.append(f"no {', '.join(left_out(last.metrics))}, {NO_LABEL}")
    if name is not None and name in last.validation:
        best = " (best)" if last.best_round == last.round_index else ""
        words.append(f"validation {100 * last.validation[name]:5.1f} %{best}")
    words.append(f"loss {last.train_loss:.3f}")
    words.append(f"sparsity {100 * last.sparsity:.1f} %")
    total = sum(report.wire_bytes for report in reports)
    words.append(f"{last.wire_bytes / MIB:.2f} MiB, {total / MIB:.2f} in all")
    words.append(f"{sum(last.seconds.values()):.1f} s")
    return "  ".join(words)
