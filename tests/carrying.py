"""What every carrier must keep to, whoever does the jobs; and jobs to do."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import pytest

from bed import tiny
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import QuorumError
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.rounds import dispatching
from fedx_core.rounds.carrier import Carrier, InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport, ServerState

STRANGER = "nobody"
"""A client that has no images, and no site."""


@dataclass
class Noting(InProcess):
    """A carrier that keeps what the first round asks of its clients, and trains nobody."""

    jobs: list[ClientJob] = field(default_factory=list)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        self.jobs.append(job)
        return ClientFailure(client=job.client, attempt=job.attempt, reason="nobody asked")


def first_jobs(setting: Setting, settings: ExperimentConfig) -> dict[str, ClientJob]:
    """Begin a run, and return what its first round asks of each client."""
    noting = Noting()
    with pytest.raises(QuorumError):
        list(federate(settings, setting, noting))
    return {job.client: job for job in noting.jobs if job.attempt == 0}


def keeps_to_the_rules(carrier: Carrier, place: Place, jobs: Sequence[ClientJob]) -> None:
    """Check a carrier.

    Args:
        carrier: with nothing under way.
        place: where clients find things.
        jobs: of three clients.
    """
    first, second, third = jobs
    stranger = replace(first, client=STRANGER, uplink_key=f"uplink/0001/{STRANGER}.0")
    assert not carrier.heard(0.0), "nothing was sent"

    carrier.send([first], place)
    carrier.send([second, stranger], place)  # while another one is under way
    found = _heard(carrier, 3)
    assert sorted(found) == sorted((first.client, second.client, STRANGER)), "each once"
    for job in (first, second):
        report = found[job.client]
        assert isinstance(report, ClientReport), report
        assert (report.attempt, report.purpose) == (0, "train")
        assert report.uplink is not None
        assert report.uplink.key == job.uplink_key
    lost = found[STRANGER]
    assert isinstance(lost, ClientFailure)
    assert (lost.attempt, lost.late) == (0, False)
    assert lost.reason
    assert not carrier.heard(0.0), "all was said"

    carrier.send([third], place)
    carrier.drop([third])
    assert not carrier.heard(0.0), "who was dropped is not heard"
    carrier.drop([third])  # once more is no more
    again = dispatching.next_attempt(third)
    carrier.send([again], place)
    assert _heard(carrier, 1)[third.client].attempt == 1

    state = ServerState(round_index=1, model={})
    assert carrier.server_step("prune", lambda given: given is state, state)


def begins_nothing_that_was_dropped(
    carrier: Carrier, place: Place, jobs: Sequence[ClientJob]
) -> None:
    """Check a carrier with one worker, on which jobs wait for each other.

    Args:
        carrier: with nothing under way.
        place: where clients find things.
        jobs: of three clients, in the order in which they are begun.
    """
    first, second, third = jobs
    carrier.send(jobs, place)
    assert list(_heard(carrier, 1)) == [first.client]
    carrier.drop([second, third])
    carrier.send([dispatching.next_attempt(second)], place)
    assert _heard(carrier, 1)[second.client].attempt == 1
    store = open_store(place.store)
    assert store.read(first.report_key)
    assert store.read(third.report_key) is None


def counts_late_updates(
    carrier: Callable[[], Carrier],
    there: Setting,
    here: Setting,
    at_work: Callable[[Collection[str]], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> None:
    """Check that late updates count as on one worker of this process, and after a resume, too.

    Args:
        carrier: for a server that has just started; on one worker, or none that is at work.
        there: of a run on it.
        here: of a run in this process.
        at_work: has these clients do what they are asked; not needed where one worker does all, in
            the order in which they are sent.
    """
    settings = tiny(
        federation__close_at=2, federation__staleness=1, federation__rounds=4,
        federation__clip="none",
    )  # fmt: skip
    first, second, third = (f"client-0{number}" for number in range(3))
    expected = federate(settings, here, InProcess(1))
    for _ in range(3):
        next(expected)
    expected.close()

    going = federate(settings, there, carrier())
    with at_work((first, second)):
        assert {f.client: f.since for f in next(going).failures} == {third: 1}
    with at_work((first, third)):
        report = next(going)
    assert report.client_metrics[third]["staleness"] == 1
    assert report.method_metrics["late_updates"] == 1
    going.close()
    resumed = federate(settings, there, carrier(), resume=True)
    with at_work((first, second)):
        assert next(resumed).client_metrics[second]["staleness"] == 1
    resumed.close()

    ran, asked = (Journal(open_store(setting.place.store)).commits() for setting in (there, here))
    assert [commit.state for commit in ran] == [commit.state for commit in asked]
    assert [c.report.traffic for c in ran] == [c.report.traffic for c in asked]


def _heard(carrier: Carrier, wanted: int) -> dict[str, Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < wanted:
        outcomes += carrier.heard(None)
    assert len(outcomes) == wanted
    return {outcome.client: outcome for outcome in outcomes}
