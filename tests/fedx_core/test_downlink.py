"""Changes of what clients hold: who misses some catches up, and who holds something else asks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from bed import Bed, tiny, tiny_resnet6
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.clients.client import Place
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate, final_model
from fedx_core.rounds.inventory import contents
from fedx_core.rounds.retention import forget
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, RoundReport

CODED: dict[str, Any] = {
    "method__name": "fedavg",
    "codec": {"name": "deadzone"},
    "federation__rounds": 4,
    "federation__attempts": 1,
    "federation__min_reports": 2,
}


@dataclass
class Watching(InProcess):
    """Keeps jobs and outcomes, loses a client in some rounds, and may spoil what it keeps."""

    lost: tuple[int, ...] = ()
    spoilt: int = 0
    jobs: dict[tuple[str, int], ClientJob] = field(default_factory=dict)
    refetched: list[tuple[str, int]] = field(default_factory=list)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        if job.purpose != "train":
            return super().do(job, place)
        self.jobs[job.client, job.round_index] = job
        if job.client == "client-01" and job.round_index in self.lost:
            return ClientFailure(client=job.client, attempt=job.attempt, reason="away")
        if job.client == "client-01" and job.round_index == self.spoilt and job.memory:
            memories = open_store(place.memory)
            kept, _ = checkpoint.unpack_state(memories.get(job.memory))
            kept = {n: v + 1 if n.startswith("held/") else v for n, v in kept.items()}
            ref = memories.put(job.memory.key, checkpoint.pack_state(kept))
            job = ClientJob(**{**vars(job), "memory": ref})  # its hash is the client's own
        outcome = super().do(job, place)
        if getattr(outcome, "refetched", False):
            self.refetched.append((job.client, job.round_index))
        return outcome


def run(bed: Bed, name: str, runtime: Watching, **settings: Any) -> list[RoundReport]:
    return list(federate(tiny(**{**CODED, **settings}), bed.setting(name), runtime))


def test_one_change_follows_the_first_whole_model(bed: Bed) -> None:
    watching = Watching()
    reports = run(bed, "run", watching, model={"name": "resnet6"})
    whole = reports[0].traffic["client-00"].downlink
    for client in ("client-00", "client-01", "client-02"):
        assert watching.jobs[client, 1].changes is None
        for round_index in (2, 3, 4):
            (change,) = watching.jobs[client, round_index].changes or ()
            assert change.size < whole / 15
            assert reports[round_index - 1].traffic[client].downlink == change.size


@pytest.mark.parametrize("lost", [(2,), (2, 3)])
def test_a_client_that_was_away_fetches_the_changes_that_it_missed_and_is_charged_for_them(
    lost: tuple[int, ...], bed: Bed
) -> None:
    watching = Watching(lost=lost)
    reports = run(bed, "run", watching)
    back = lost[-1] + 1
    mine, others = (watching.jobs[c, back].changes for c in ("client-01", "client-00"))
    assert mine is not None
    assert others is not None
    assert len(mine) == len(lost) + 1
    assert mine[-1:] == others
    assert reports[back - 1].traffic["client-01"].downlink == sum(ref.size for ref in mine)
    assert not watching.refetched
    # What was left out before it was lost is sent once it is back.
    journal = Journal(open_store(bed.setting().place.store))
    holding = journal.commits()[-1].holdings["client-01"]
    assert holding.base == 4


def test_whoever_comes_late_is_sent_the_whole_model_or_draws_the_first_from_the_seed(
    bed: Bed,
) -> None:
    watching = Watching(lost=(1, 2))
    run(bed, "run", watching)
    assert watching.jobs["client-01", 3].changes is None
    seeded = Watching(lost=(1, 2))
    reports = run(bed, "seeded", seeded, federation__first_model="seed")
    assert len(seeded.jobs["client-01", 3].changes or ()) == 2
    assert reports[0].downlink_bytes == 0
    assert not seeded.refetched


def test_a_client_that_holds_something_else_fetches_the_whole_and_is_charged_for_it(
    bed: Bed,
) -> None:
    plain, spoilt = Watching(), Watching(spoilt=3)
    run(bed, "plain", plain)
    reports = run(bed, "spoilt", spoilt)
    assert spoilt.refetched == [("client-01", 3)]
    job = spoilt.jobs["client-01", 3]
    assert job.base is not None
    assert reports[2].traffic["client-01"].downlink == job.fetched + job.base.size
    models = [final_model(open_store(bed.setting(n).place.store)) for n in ("plain", "spoilt")]
    assert state.equal(*models)


def test_a_first_model_that_comes_out_otherwise_is_fetched(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedx_core.clients import exchange

    drawn = exchange.first

    def other(*arguments: Any) -> Any:
        return {name: value + 1e-7 for name, value in drawn(*arguments).items()}

    reports = run(bed, "plain", Watching(), federation__first_model="seed")
    monkeypatch.setattr(exchange, "first", other)
    watching = Watching()
    refetched = run(bed, "other", watching, federation__first_model="seed")
    assert [round_index for _, round_index in watching.refetched] == [1, 1, 1]
    assert reports[0].downlink_bytes == 0
    whole = [job.base.size for (_, r), job in watching.jobs.items() if r == 1 and job.base]
    assert refetched[0].downlink_bytes == sum(whole)
    models = [final_model(open_store(bed.setting(n).place.store)) for n in ("plain", "other")]
    assert state.equal(*models)


def test_a_seed_can_not_draw_weights_from_a_file(bed: Bed, tmp_path: Any) -> None:
    settings = tiny(
        **{**CODED, "federation__first_model": "seed", "model__weights": str(tmp_path / "a")}
    )
    with pytest.raises(ConfigError, match=r"federation\.first_model"):
        next(federate(settings, bed.setting(), InProcess(1)))


def test_what_the_server_holds_back_is_in_the_next_change(bed: Bed) -> None:
    run(bed, "run", Watching(), codec={"down": {"name": "topk"}, "up": {"name": "dense"}})
    store = open_store(bed.setting().place.store)
    commits = Journal(store).commits()
    before, after = (checkpoint.unpack_server_state(store.get(c.state)) for c in commits[-2:])
    name = "layer3.0.conv1.weight" if "layer3.0.conv1.weight" in after.model else "fc.weight"
    moved = after.held[f"model/{name}"] - before.held[f"model/{name}"]
    wanted = before.model[name] - before.held[f"model/{name}"]
    sent = moved != 0
    assert 0 < int(sent.sum()) < sent.numel()
    assert torch.equal(torch.sign(moved[sent]), torch.sign(wanted[sent]))
    assert float(wanted[sent].abs().min()) >= float(wanted[~sent].abs().max()) - 1e-6


def test_statistics_that_the_server_measures_do_not_travel_but_to_whoever_scores(
    bed: Bed,
) -> None:
    found = {}
    for norm in ("aggregate", "recalibrate"):
        settings = tiny_resnet6(
            method__name="fedavg", training__batch_norm=norm, codec__name="dense"
        )
        found[norm] = list(federate(settings, bed.setting(norm), InProcess(1)))[-1]
    buffers = 4 * 2 * 576 + 8 * 6  # ResNet6's means and variances, and its counts of batches
    sent, kept = found["aggregate"], found["recalibrate"]
    assert sent.uplink_bytes - kept.uplink_bytes == 3 * buffers
    assert sent.downlink_bytes - kept.downlink_bytes == 3 * buffers
    assert sent.evaluation_bytes == kept.evaluation_bytes
    assert kept.per_client  # scored with the statistics that were measured


def test_a_change_that_a_copy_of_the_run_lacks_is_made_up_for_by_the_whole(bed: Bed) -> None:
    @dataclass
    class Losing(Watching):
        def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
            if jobs[0].round_index == 3 and jobs[0].purpose == "train":
                (gone, _) = next(job.changes for job in jobs if len(job.changes or ()) == 2) or ()
                open_store(place.store).delete(gone.key)
            super().send(jobs, place)

    losing = Losing(lost=(2,))
    reports = run(bed, "run", losing)
    assert losing.refetched == [("client-01", 3)]
    assert not reports[2].failures


def test_changes_are_part_of_a_backup_and_go_when_nobody_can_follow_them(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(bed, "run", Watching())
    store = open_store(bed.setting().place.store)
    journal = Journal(store)
    named = [opened.change for r in range(1, 5) if (opened := journal.opened(r))]
    assert named[0] is None
    kept = {key for key, _ in contents(store)}
    assert {ref.key for ref in named[1:] if ref} <= kept
    monkeypatch.setattr("fedx_core.rounds.retention.MOST_CHANGES", 2)
    commits = journal.commits()
    forget(journal, bed.setting().place, commits, 3, late=False)
    missing = [ref is None or store.read(ref.key) is None for ref in named]
    assert missing == [True, False, True, False]  # the third of four, for whoever missed two
