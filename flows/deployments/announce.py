"""What a run tells Prefect while it goes: artifacts to look at, and events to act on.

Artifacts, on the flow run's page and under *Artifacts*, where <run> is the run's name in small
letters, digits and dashes:

    fedx-<run>-progress   share of the rounds that are done
    fedx-<run>-rounds     a table with one line per round
    fedx-<run>-links      MLflow, the report, and how to go on

Each is there once and changes in place, since Prefect shows versions side by side. Only a retry,
which is another process, makes new ones.

Events, of the resource ``fedx.run.<name>`` and with numbers in the payload, for automations:

    fedx.round.completed  a round is committed
    fedx.run.completed    all of them are
    fedx.quorum.lost      too few clients reported: which, why, and what to do

A thread of its own sends them. What it can't send is forgotten: the next round brings all that is
to be seen, and the record is in the run's folder.

The thread listens, too. *Cancel* on a flow run's page reaches the worker that has started it. A run
that a shell has started has none, so it asks every few seconds and interrupts itself, as Ctrl-C
does.
"""

import math
import re
import signal
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from fedx_core.base import strict_json
from fedx_core.base.errors import QuorumError
from fedx_core.wire.messages import RoundReport
from flows.deployments import links
from flows.prefect.prompt import Prompt
from flows.runs.live import HEADLINES, Beside
from flows.runs.rows import MIB
from flows.runs.run_folder import RunFolder

WAIT_SECONDS = 5.0
"""How long a run waits at its end for what is still being sent."""

ASK_SECONDS = 3.0
"""How often a run that no worker has started asks whether it was cancelled."""

_LONGEST_TABLE = 100
_MOST_EVENTS = 100
_MOST_CLIENTS = 50
_LONGEST_REASON = 300


@dataclass
class Announced(Beside):
    """A display that tells Prefect, too.

    Args:
        shown: the display for people.
        folder: of the run.
        wait: seconds that the end of the run may be held up.
        cancelled: whether somebody has cancelled the flow run, which was interrupted then.
    """

    folder: RunFolder
    wait: float = WAIT_SECONDS
    cancelled: bool = False
    _reports: tuple[RoundReport, ...] = ()
    _events: deque[tuple[str, dict[str, Any]]] = field(
        default_factory=lambda: deque(maxlen=_MOST_EVENTS)
    )
    _over: bool = False
    _trouble: str = ""
    _warned: bool = False
    _news: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        """Begin to show, and start the thread."""
        super().__enter__()
        self._in_main = threading.current_thread() is threading.main_thread()
        # Made here, since it copies the context of the flow run.
        self._thread = threading.Thread(
            target=self._work, args=(Prompt(),), name="announcer", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say how it ended, and wait a little for the thread."""
        if isinstance(error, QuorumError):
            self._events.append(("fedx.quorum.lost", lost_payload(error, self.folder.name)))
        elif error is None and self._reports:
            self._events.append(("fedx.run.completed", round_payload(self._reports)))
        self._over = True
        self._news.set()
        self._thread.join(self.wait)
        self._warn_once(at_the_end=True)
        super().__exit__(kind, error, trace)

    def began(self, run: str, rounds: int, done: int) -> None:
        """Put up the first links."""
        super().began(run, rounds, done)
        self._news.set()

    def finished_round(self, reports: Sequence[RoundReport]) -> None:
        """Leave the round to the thread."""
        super().finished_round(reports)
        self._reports = tuple(reports)
        self._events.append(("fedx.round.completed", round_payload(reports)))
        self._news.set()
        self._warn_once()

    def _warn_once(self, *, at_the_end: bool = False) -> None:
        late = "it is slow" if at_the_end and self._thread.is_alive() else ""
        if (reason := self._trouble or late) and not self._warned:
            self._warned = True
            self.shown.warn(
                f"Prefect's pages do not show all of this run ({reason}); the run goes on, and "
                "its numbers are in results/rounds.json"
            )

    def _work(self, prompt: Prompt) -> None:
        sender, is_open, over = _Sender(self.folder, prompt), False, False
        with ExitStack() as client:
            while not over:
                self._news.wait(ASK_SECONDS)
                self._news.clear()
                over = self._over
                try:
                    if not is_open:  # it can fail, and costs more than what is sent
                        client.enter_context(prompt)
                        is_open = True
                    while self._events:
                        sender.event(*self._events.popleft())
                    sender.artifacts(self._reports)
                    listens = self._in_main and not (over or self.cancelled)
                    if listens and sender.is_cancelled():
                        self.cancelled = True
                        # A signal, since nothing else ends the waiting of a main thread.
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    self._trouble = ""
                except Exception as error:  # whatever Prefect meets, the run matters more
                    self._trouble = (str(error).splitlines() or [""])[0] or type(error).__name__


@dataclass
class _Sender:
    """Sends to one server what it does not have yet."""

    folder: RunFolder
    ask: Prompt
    _rounds: int = 0
    _links: str = ""
    _made: dict[str, UUID] = field(default_factory=dict)

    def event(self, name: str, payload: Mapping[str, Any]) -> None:
        """Hand an event to Prefect's own queue."""
        from prefect.events import emit_event

        run = self.folder.name
        resource = {
            "prefect.resource.id": f"fedx.run.{run}",
            "prefect.resource.name": run,
        }
        self.ask(emit_event, name, resource=resource, payload=dict(payload))

    def artifacts(self, reports: Sequence[RoundReport]) -> None:
        """Send what has changed."""
        if reports and (last := reports[-1]).round_index != self._rounds:
            share = 100.0 if last.stopped else 100 * last.round_index / last.rounds
            self._put("progress", "progress", share, PROGRESS_SAYS)
            table = strict_json.dumps(rows(reports[-_LONGEST_TABLE:]))
            self._put("rounds", "table", table, TABLE_SAYS)
            self._rounds = last.round_index
        text = links.text(self.folder)
        if text != self._links:
            self._put("links", "markdown", text, LINKS_SAY)
            self._links = text

    @cached_property
    def _unattended(self) -> UUID | None:
        """Id of the flow run, if no worker has started it."""
        from prefect.runtime import deployment, flow_run

        run, started_by = self.ask(lambda: (flow_run.id, deployment.id))
        return None if run is None or started_by is not None else UUID(str(run))

    def is_cancelled(self) -> bool:
        """Say whether the flow run was cancelled and no worker sees to it."""
        if self._unattended is None:
            return False
        state = self.ask(self.ask.client.read_flow_run, self._unattended).state
        return state is not None and (state.is_cancelling() or state.is_cancelled())

    def _put(self, name: str, kind: str, data: float | str, says: str) -> None:
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
        from prefect.runtime import flow_run

        if name in self._made:
            self.ask(self.ask.client.update_artifact, self._made[name], ArtifactUpdate(data=data))
            return
        artifact = ArtifactCreate(
            key=f"{key_of(self.folder.name)}-{name}",
            type=kind,
            description=says,
            data=data,
            flow_run_id=self.ask(lambda: flow_run.id),
        )
        self._made[name] = self.ask(self.ask.client.create_artifact, artifact).id


PROGRESS_SAYS = "Rounds done, in percent."
TABLE_SAYS = "One line per round; all of them, and more columns, are in results/rounds.csv."
LINKS_SAY = "Where else to look, and how to go on."


def key_of(run: str) -> str:
    """Return the first part of a run's keys; Prefect takes small letters, digits and dashes."""
    return "fedx-" + re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")


def rows(reports: Sequence[RoundReport]) -> list[dict[str, Any]]:
    """Return one line per round, in units for people: percent and MiB."""
    found = []
    for report in reports:
        name = next((n for n in HEADLINES if n in report.metrics), None)
        score = {f"{HEADLINES[name]} %": _percent(report.metrics[name])} if name else {}
        found.append(
            {
                "round": report.round_index,
                **score,
                "sparsity %": _percent(report.sparsity),
                "MiB down": round((report.downlink_bytes + report.mask_bytes) / MIB, 3),
                "MiB up": round(report.uplink_bytes / MIB, 3),
                "clients": len(report.cohort),
                "lost": len(report.failures),
                "pruned": "yes" if report.pruned else "",
                "seconds": round(sum(report.seconds.values()), 1),
            }
        )
    return found


def round_payload(reports: Sequence[RoundReport]) -> dict[str, float]:
    """Return the last round's numbers, for automations: shares in [0, 1], MiB, seconds."""
    last = reports[-1]
    numbers: dict[str, float] = {
        **last.metrics,
        "round": last.round_index,
        "rounds": last.rounds,
        "train_loss": last.train_loss,
        "sparsity": last.sparsity,
        "pruned": int(last.pruned),
        "clients": len(last.cohort),
        "lost": len(last.failures),
        "wire_mib": last.wire_bytes / MIB,
        "total_mib": sum(report.wire_bytes for report in reports) / MIB,
        "seconds": sum(last.seconds.values()),
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def lost_payload(error: QuorumError, run: str) -> dict[str, Any]:
    """Say which clients a round has lost, why, and how to go on."""
    some = dict(list(error.lost.items())[:_MOST_CLIENTS])
    return {
        "lost": len(error.lost),
        "clients": {client: reason[:_LONGEST_REASON] for client, reason in some.items()},
        "next": f"mend the cause, then retry this flow run, or `fedx resume {run}`",
    }


def _percent(share: float) -> float | None:
    return round(100 * share, 2) if math.isfinite(share) else None
