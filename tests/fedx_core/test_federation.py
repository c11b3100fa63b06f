import gc
import itertools
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bed import Bed, tiny, tiny_resnet6
from fedx_core.base import config, seeding, state
from fedx_core.base.errors import (
    ConfigError,
    DataError,
    LostRaceError,
    PayloadError,
    QuorumError,
    RunError,
    RunExistsError,
    VersionError,
)
from fedx_core.base.frozen_json import parse
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.clients.plan import Plan, set_up
from fedx_core.images import moments, set_folder
from fedx_core.learning.training import batches
from fedx_core.methods import base
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Closed, Evidence
from fedx_core.rounds import setting as rounds_setting
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess, Outcome, attempt
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.rounds.retention import collect_garbage
from fedx_core.rounds.start import Setting, load
from fedx_core.store import FileStore, open_store
from fedx_core.wire.messages import (
    POOLED,
    ClientFailure,
    ClientJob,
    ClientReport,
    RoundReport,
    Traffic,
)


def model_digest(setting: Setting) -> str:
    return state.digest(final_model(open_store(setting.place.store)))


def evidence(setting: Setting) -> list[Evidence | None]:
    """What led to each round's pruning, by hash."""
    commits = Journal(open_store(setting.place.store)).commits()
    return [commit.evidence for commit in commits]


def numbers(reports: Sequence[RoundReport]) -> list[dict[str, Any]]:
    """All of the reports but wall times."""
    return [
        {
            **vars(replace(report, seconds={}, client_metrics={})),
            "failures": [f.client for f in report.failures],
        }
        for report in reports
    ]


class Killed(BaseException):
    """Stands for kill -9: nothing in the core may catch it."""


@pytest.fixture(scope="module")
def unkilled(
    tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Evidence | None], int]:
    """Digest of the whole run's model, what it pruned by, and how many things it wrote."""
    bed = Bed(tiny_data, tmp_path_factory.mktemp("unkilled"))
    writes = 0
    original = FileStore._write_beside

    def counted(self: FileStore, path: Path, data: Any) -> Path:
        nonlocal writes
        writes += 1
        return original(self, path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileStore, "_write_beside", counted)
        list(federate(tiny(), bed.setting(), InProcess(1)))
    return model_digest(bed.setting()), evidence(bed.setting()), writes


@pytest.mark.parametrize("share", [0.02, 0.15, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0])
def test_a_run_killed_at_any_write_resumes_to_the_bytes_of_an_unkilled_one(
    share: float,
    bed: Bed,
    unkilled: tuple[str, list[Evidence | None], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest, pruned_by, writes = unkilled
    count = itertools.count(1)
    original = FileStore._write_beside
    fatal = max(2, round(share * writes))

    def deadly(self: FileStore, path: Path, data: Any) -> Path:
        if next(count) == fatal:
            raise Killed
        return original(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "_write_beside", deadly)
        with pytest.raises(Killed):
            list(federate(tiny(), bed.setting(), InProcess(1)))
    list(federate(tiny(), bed.setting(), InProcess(1), resume=True))
    assert model_digest(bed.setting()) == digest
    assert evidence(bed.setting()) == pruned_by
    assert len(history(open_store(bed.setting().place.store))) == 3


def test_a_killed_run_does_not_train_again_the_clients_that_had_reported(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    @dataclass
    class DiesAfterTwo(InProcess):
        def do(self, job: ClientJob, place: Place) -> Outcome:
            if job.client == "client-02":
                raise Killed
            return super().do(job, place)

    with pytest.raises(Killed):
        list(federate(tiny(), bed.setting(), DiesAfterTwo()))
    original = client._train
    monkeypatch.setattr(
        client, "_train", lambda job, *rest: trained.append(job.client) or original(job, *rest)
    )
    stopped = federate(tiny(), bed.setting(), InProcess(1), resume=True)
    next(stopped)
    assert trained == ["client-02"]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("lost", ["uplink", "report", "half an uplink", "half of both"])
def test_what_a_machine_that_went_down_took_along_is_trained_again_to_the_same_bytes(
    lost: str, closed: bool, bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(federation__rounds=1, federation__attempts=1)
    undisturbed = Bed(bed.data, tmp_path / "undisturbed")
    list(federate(settings, undisturbed.setting(), InProcess(1)))
    original = FileStore._write_beside
    fatal = "commit" if closed else "closed"

    def deadly(self: FileStore, path: Path, data: Any) -> Path:
        if path.parent.name == "0001" and path.name == fatal:
            raise Killed
        return original(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "_write_beside", deadly)
        with pytest.raises(Killed):
            list(federate(settings, bed.setting(), InProcess(1)))
    folder = Path(bed.setting().place.store)
    uplink, report = folder / "uplink/0001/client-01.0", folder / "uplink/0001/client-01.0.report"
    assert (folder / "journal/0001/closed").exists() is closed
    for path in {"uplink": [uplink], "report": [report]}.get(lost, []):
        path.unlink()
    for path in {"half an uplink": [uplink], "half of both": [uplink, report]}.get(lost, []):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    trained: list[str] = []
    train_once = client._train
    monkeypatch.setattr(
        client, "_train", lambda job, *rest: trained.append(job.client) or train_once(job, *rest)
    )
    (again,) = federate(settings, bed.setting(), InProcess(1), resume=True)
    assert again.failures == ()
    # What `closed` holds of a report is all that is needed of it.
    assert trained == ([] if closed and lost == "report" else ["client-01"])
    assert model_digest(bed.setting()) == model_digest(undisturbed.setting())


def test_a_branch_equals_the_run_that_computed_its_first_rounds_itself(bed: Bed) -> None:
    base, whole, branch = bed.setting("base"), bed.setting("whole"), bed.setting("branch")
    list(
        federate(
            tiny(method__name="fedavg", federation__rounds=2, federation__keep_states=5),
            base,
            InProcess(1),
        )
    )
    list(federate(tiny(), whole, InProcess(1)))
    list(
        federate(tiny(), branch, InProcess(1), branch=Branch(store=base.place.store, round_index=2))
    )
    assert model_digest(whole) == model_digest(branch)
    assert evidence(whole) == evidence(branch)
    assert [found is not None for found in evidence(whole)] == [False, False, True, False]
    stores = [open_store(s.place.store) for s in (whole, branch)]
    first, second = (numbers(history(store)) for store in stores)
    for report in (*first, *second):
        report["per_client"], report["rounds"] = {}, 3
        report["per_class"] = {}
        report["traffic"] = {
            c: (t.downlink, t.uplink, t.mask, t.retry) for c, t in report["traffic"].items()
        }
    assert first == second


def test_a_branch_from_other_settings_is_refused_by_the_block(bed: Bed) -> None:
    base = bed.setting("base")
    list(federate(tiny(method__name="fedavg", federation__rounds=2), base, InProcess(1)))
    with pytest.raises(ConfigError, match="training differs"):
        list(
            federate(
                tiny(training__epochs=2),
                bed.setting("branch"),
                InProcess(1),
                branch=Branch(store=base.place.store, round_index=2),
            )
        )
    assert Journal(open_store(bed.setting("branch").place.store)).run() is None
    with pytest.raises(RunError, match="no committed round 7"):
        list(
            federate(
                tiny(),
                bed.setting("other"),
                InProcess(1),
                branch=Branch(store=base.place.store, round_index=7),
            )
        )


def losing(who: str, times: int = 99) -> InProcess:
    left = itertools.count()

    @dataclass
    class Losing(InProcess):
        def do(self, job: ClientJob, place: Place) -> Outcome:
            if job.client == who and job.purpose == "train" and next(left) < times:
                return ClientFailure(client=who, attempt=job.attempt, reason="went away")
            return super().do(job, place)

    return Losing()


def test_a_lost_client_is_a_value_and_the_round_goes_on_with_a_quorum(bed: Bed) -> None:
    settings = tiny(federation__min_reports=2, federation__rounds=1)
    (report,) = federate(settings, bed.setting(), losing("client-01"))
    assert [f.client for f in report.failures] == ["client-01"]
    assert report.traffic["client-01"].downlink == 0
    assert report.traffic["client-01"].retry == 2 * report.traffic["client-00"].downlink
    # A lost client does not change the others' weights: equal to a mean of those two alone.
    assert set(report.client_metrics) == {"client-00", "client-02"}


def test_a_client_that_succeeds_at_the_second_try_counts_and_its_first_is_charged_apart(
    bed: Bed,
) -> None:
    settings = tiny(federation__rounds=1)
    (report,) = federate(settings, bed.setting("a"), losing("client-01", times=1))
    (smooth,) = federate(settings, bed.setting("b"), InProcess(1))
    assert report.failures == ()
    assert report.retry_bytes == smooth.traffic["client-01"].downlink
    assert report.uplink_bytes == smooth.uplink_bytes
    assert model_digest(bed.setting("a")) == model_digest(bed.setting("b"))


def test_without_a_quorum_the_run_stops_clearly_and_can_be_resumed(bed: Bed) -> None:
    settings = tiny(federation__rounds=1)
    with pytest.raises(QuorumError, match=r"2 of 3 clients reported, 3 needed.*client-01: went"):
        list(federate(settings, bed.setting(), losing("client-01")))
    (report,) = federate(settings, bed.setting(), InProcess(1), resume=True)
    assert report.failures == ()


def test_a_late_client_is_lost_and_the_round_goes_on(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(
        federation__min_reports=2,
        federation__rounds=1,
        federation__attempts=1,
        federation__round_timeout=4.0,
    )
    original, released = client._train, threading.Event()

    def slow(job: ClientJob, *rest: Any) -> Any:
        if job.client == "client-01":
            released.wait(30)
        return original(job, *rest)

    monkeypatch.setattr(client, "_train", slow)
    started = time.monotonic()
    (report,) = federate(settings, bed.setting(), InProcess(2))
    assert time.monotonic() - started < 25
    released.set()
    (failure,) = report.failures
    assert failure.client == "client-01"
    assert "late: no report after 4 seconds" in failure.reason


def poisoning(value: float) -> InProcess:
    @dataclass
    class Poisoning(InProcess):
        def do(self, job: ClientJob, place: Place) -> Outcome:
            original = base.Method.finish

            def bad(self: Any, local: Any, loss: float) -> Any:
                update = original(self, local, loss)
                if local.client == "client-02":
                    update.payload["model/fc.bias"].fill_(value)
                return update

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(base.Method, "finish", bad)
                return super().do(job, place)

    return Poisoning()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_with_nan_is_refused_and_the_round_goes_on(value: float, bed: Bed) -> None:
    settings = tiny(federation__min_reports=2, federation__rounds=1, federation__attempts=1)
    (report,) = federate(settings, bed.setting(), poisoning(value))
    (failure,) = report.failures
    assert failure.client == "client-02"
    assert "E_NONFINITE" in failure.reason
    assert "'model/fc.bias'" in failure.reason
    # It fetched a model and sent one, both in vain.
    counted = report.traffic["client-00"]
    assert report.traffic["client-02"].retry == counted.downlink + counted.uplink
    model = final_model(open_store(bed.setting().place.store))
    assert all(torch.isfinite(v).all() for v in model.values() if v.is_floating_point())


def test_an_uplink_that_was_changed_in_the_store_is_refused(bed: Bed) -> None:
    settings = tiny(federation__min_reports=2, federation__rounds=1, federation__attempts=1)

    @dataclass
    class Tampering(InProcess):
        def do(self, job: ClientJob, place: Place) -> Outcome:
            store = open_store(place.store)
            outcome = super().do(job, place)
            if job.client == "client-00" and job.purpose == "train":
                data = bytearray(store.read(job.uplink_key) or b"")
                data[len(data) // 2] ^= 1
                store.put(job.uplink_key, data)
            return outcome

    (report,) = federate(settings, bed.setting(), Tampering())
    assert [f.client for f in report.failures] == ["client-00"]
    assert "E_PAYLOAD" in report.failures[0].reason


def test_a_second_run_in_the_same_folder_is_refused(bed: Bed) -> None:
    list(federate(tiny(federation__rounds=1), bed.setting(), InProcess(1)))
    digest = model_digest(bed.setting())
    with pytest.raises(RunExistsError, match="fedx resume run"):
        list(federate(tiny(seed=9), bed.setting(), InProcess(1)))
    assert model_digest(bed.setting()) == digest


def test_a_run_folder_of_another_version_is_refused(bed: Bed) -> None:
    list(federate(tiny(federation__rounds=1), bed.setting(), InProcess(1)))
    path = Path(bed.setting().place.store) / "run.json"
    path.write_text(path.read_text().replace('"protocol":1', '"protocol":99'))
    with pytest.raises(VersionError, match="protocol 99, this is 1"):
        list(federate(tiny(), bed.setting(), InProcess(1), resume=True))


def test_a_job_of_another_version_is_refused_with_both_named(bed: Bed) -> None:
    @dataclass
    class Newer(InProcess):
        def do(self, job: ClientJob, place: Place) -> Outcome:
            return super().do(replace(job, protocol=99), place)

    with pytest.raises(QuorumError, match=r"E_VERSION: job of protocol 99, this .* protocol 1 \("):
        list(federate(tiny(federation__rounds=1), bed.setting(), Newer()))


def test_a_run_that_does_not_exist_cannot_be_resumed(bed: Bed) -> None:
    with pytest.raises(RunError, match="no run 'run' to resume"):
        list(federate(tiny(), bed.setting(), InProcess(1), resume=True))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_corrupt_checkpoint_is_refused_and_never_loaded(damage: str, bed: Bed) -> None:
    list(federate(tiny(federation__rounds=1), bed.setting(), InProcess(1)))
    store = FileStore(Path(bed.setting().place.store))
    ref = Journal(store).commits()[-1].state
    data = bytearray(store.read(ref.key) or b"")
    match damage:
        case "cut":
            del data[-10:]
        case "flip":
            data[len(data) // 2] ^= 4
        case "empty":
            data.clear()
    store.put(ref.key, data)
    with pytest.raises(PayloadError, match="corrupt"):
        list(federate(tiny(federation__rounds=2), bed.setting(), InProcess(1), resume=True))


def test_a_corrupt_mask_reaches_no_client(bed: Bed) -> None:
    settings = tiny(method__warmup_rounds=1, federation__min_reports=1, federation__attempts=1)

    @dataclass
    class BreaksMask(InProcess):
        def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
            if jobs[0].mask is not None:
                store = open_store(place.store)
                data = bytearray(store.read(jobs[0].mask.key) or b"")
                data[-1] ^= 0x80
                store.put(jobs[0].mask.key, data)
            super().send(jobs, place)

        def do(self, job: ClientJob, place: Place) -> Outcome:
            # A thread of its own, since clients of one thread keep what they decoded last.
            with ThreadPoolExecutor(1) as fresh:
                return fresh.submit(attempt, job, place).result()

    with pytest.raises(QuorumError, match=r"0 of 3.*E_PAYLOAD.*corrupt"):
        list(federate(settings, bed.setting(), BreaksMask()))


def test_two_servers_cannot_close_one_round_differently(bed: Bed) -> None:
    setting = bed.setting()
    settings = tiny(federation__rounds=1, federation__min_reports=2)
    journal = Journal(open_store(setting.place.store))

    @dataclass
    class Raced(InProcess):
        def do(self, job: ClientJob, place: Place) -> Outcome:
            outcome = super().do(job, place)
            # The other server has lost a client and closes first.
            if job.purpose == "train" and job.client == "client-00":
                assert isinstance(outcome, ClientReport)
                journal.close(Closed(round_index=1, reports=(outcome,), failures=()))
            return outcome

    with pytest.raises(LostRaceError, match="another server"):
        list(federate(settings, setting, Raced()))
    assert journal.committed(1) is None


def test_local_batch_norm_stays_with_the_clients_and_survives_a_resume(bed: Bed) -> None:
    settings = tiny(training__batch_norm="local")
    whole, parts = bed.setting("whole"), bed.setting("parts")
    reports = list(federate(settings, whole, InProcess(1)))
    shared = list(federate(tiny(), bed.setting("shared"), InProcess(1)))
    assert reports[0].uplink_bytes < shared[0].uplink_bytes
    stopped = federate(settings, parts, InProcess(1))
    next(stopped)
    stopped.close()
    list(federate(settings, parts, InProcess(1), resume=True))
    assert model_digest(whole) == model_digest(parts)
    last = Journal(open_store(whole.place.store)).commits()[-1]
    memories = {holding.memory for holding in last.holdings.values()}
    assert len(memories) == 3
    assert None not in memories
    # The server's own statistics were measured on the reference set, not averaged.
    final = final_model(open_store(whole.place.store))
    assert final["bn1.running_var"].any()
    kept = [path for path in (bed.runs / "whole" / "clients").rglob("*") if path.is_file()]
    assert len(kept) == 3 * 3, "older memories are forgotten"  # of each kept state


def test_one_client_with_kept_moments_trains_as_if_there_were_no_rounds(bed: Bed) -> None:
    settings = tiny(
        method__name="centralised", training__optimiser_state="kept", federation__keep_states=9
    )
    setting = bed.setting()
    list(federate(settings, setting, InProcess(1)))
    store = open_store(setting.place.store)
    commits = Journal(store).commits()
    plan = parse(Plan, json.loads(bytes(store.get(commits[0].plan))))
    model = set_up(plan).model.to(memory_format=torch.channels_last)
    model.load_state_dict(checkpoint.unpack_server_state(store.get(commits[0].state)).model)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    pool = client.open_shard(setting.place, POOLED, "train")
    for round_index in (1, 2, 3):
        seed = seeding.derive(settings.seed, round_index, POOLED, "train")
        for images, labels in batches(pool, settings.training, seeding.derive(seed, 0)):
            optimiser.zero_grad()
            logits = model.train()(plan.pixels.to_input(images, torch.device("cpu")))
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
            optimiser.step()
    assert state.equal(model.state_dict(), final_model(store))


def test_kept_moments_do_not_move_what_is_dead(bed: Bed) -> None:
    # Dense payloads carry dead values too, so anything that moved would reach the server.
    settings = tiny(
        training__optimiser_state="kept", method__warmup_rounds=2, codec__name="dense",
        federation__keep_states=9,
    )  # fmt: skip
    setting = bed.setting()
    list(federate(settings, setting, InProcess(1)))
    store, memory = open_store(setting.place.store), open_store(setting.place.memory)
    commit = Journal(store).commits()[-1]
    found = checkpoint.unpack_server_state(store.get(commit.state))
    plan = parse(Plan, json.loads(bytes(store.get(commit.plan))))
    desk = set_up(plan)
    support = desk.method.support(desk, found.mask, "slices")
    assert support
    for holding in commit.holdings.values():
        assert holding.memory is not None
        kept, _ = checkpoint.unpack_state(memory.get(holding.memory))
        for name, alive in support.items():
            dead = ~alive.expand(found.model[name].shape)
            assert not found.model[name][dead].any()
            if f"optimiser/exp_avg/{name}" in kept:
                assert not kept[f"optimiser/exp_avg/{name}"][dead].any()
                assert not kept[f"optimiser/exp_avg_sq/{name}"][dead].any()
        assert kept["optimiser/exp_avg/fc.weight"].any()


def test_a_branch_from_a_state_that_is_gone_is_refused_before_anything_is_written(bed: Bed) -> None:
    list(federate(tiny(federation__keep_states=1), bed.setting("base"), InProcess(1)))
    gone = Branch(store=bed.setting("base").place.store, round_index=1)
    branch = bed.setting("branch")
    with pytest.raises(RunError, match="no longer holds the state of round 1"):
        list(federate(tiny(), branch, InProcess(1), branch=gone))
    assert Journal(open_store(branch.place.store)).run() is None


def test_a_branch_from_clients_that_keep_things_to_themselves_is_refused(bed: Bed) -> None:
    kept = {"training__optimiser_state": "kept", "federation__rounds": 2}
    base = bed.setting("base")
    list(federate(tiny(method__name="fedavg", **kept), base, InProcess(1)))
    branch = Branch(store=base.place.store, round_index=2)
    with pytest.raises(RunError, match="keep things to themselves"):
        list(federate(tiny(**kept), bed.setting("branch"), InProcess(1), branch=branch))


def test_recalibrated_statistics_are_the_reference_sets_and_do_not_travel(bed: Bed) -> None:
    setting = bed.setting("new")
    reports = list(federate(tiny(training__batch_norm="recalibrate"), setting, InProcess(1)))
    plain = list(federate(tiny(), bed.setting("old"), InProcess(1)))
    new, old = (final_model(open_store(bed.setting(run).place.store)) for run in ("new", "old"))
    statistics = sum(v.nbytes for n, v in new.items() if "running_" in n or "batches_tracked" in n)

    def travelled(report: RoundReport) -> list[int]:
        return [size for sent in report.traffic.values() for size in (sent.downlink, sent.uplink)]

    *before, after = (
        {dense - ours for dense, ours in zip(travelled(theirs), travelled(mine), strict=True)}
        for theirs, mine in zip(plain, reports, strict=True)
        if mine.traffic
    )
    assert before == [{statistics}, {statistics}]
    assert all(0 < less < statistics for less in after), "those of pruned units went before"
    # Training uses batch statistics, so the weights are the same and only what they are judged
    # with differs; the mask here is by magnitude and does not see statistics either.
    assert torch.equal(new["conv1.weight"], old["conv1.weight"])
    assert not torch.equal(new["bn1.running_var"], old["bn1.running_var"])
    store = open_store(setting.place.store)
    plan = json.loads(bytes(store.get(Journal(store).commits()[0].plan)))
    reference = set_folder.read(setting.data / "reference").parts["reference"]
    pixels = torch.from_numpy(reference.images.copy()).double() / 255
    mean = torch.tensor(plan["pixels"]["mean"]).reshape(1, 3, 1, 1)
    std = torch.tensor(plan["pixels"]["std"]).reshape(1, 3, 1, 1)
    stem = torch.nn.functional.conv2d(
        (pixels - mean) / std, new["conv1.weight"].double(), stride=2, padding=3
    )
    wanted = stem.mean((0, 2, 3))
    torch.testing.assert_close(new["bn1.running_mean"].double(), wanted, atol=1e-4, rtol=1e-3)


def test_federated_normalisation_adds_up_what_clients_counted_and_is_charged(bed: Bed) -> None:
    settings = tiny(training__normalisation="federated", federation__rounds=1)
    setting = bed.setting()
    (report,) = federate(settings, setting, InProcess(1))
    (plain,) = federate(tiny(federation__rounds=1), bed.setting("plain"), InProcess(1))
    assert report.uplink_bytes - plain.uplink_bytes == 3 * (64 + 8 * (1 + 2 * 3))
    shards = Path(setting.place.shards)
    total = sum(
        (
            moments.measure(set_folder.read(shards / c).parts["train"], 255.0)
            for c in ("client-01", "client-02")
        ),
        start=moments.measure(set_folder.read(shards / "client-00").parts["train"], 255.0),
    )
    mean, _ = moments.mean_and_std(total)
    store = open_store(setting.place.store)
    plan = json.loads(bytes(store.get(Journal(store).commits()[0].plan)))
    assert plan["pixels"]["mean"] == pytest.approx(mean.tolist())


def test_published_normalisation_that_nobody_published_is_refused(bed: Bed) -> None:
    with pytest.raises(DataError, match="no published statistics"):
        list(federate(tiny(training__normalisation="published"), bed.setting(), InProcess(1)))


def test_data_made_with_other_settings_are_refused(bed: Bed) -> None:
    settings = tiny(datasets__synthetic__partition__clients=5)
    wanted = (
        r"made with partition.clients 3, and the settings say partition.clients 5; make it again "
        r"with `fedx data synthetic`"
    )
    with pytest.raises(DataError, match=wanted):
        list(federate(settings, bed.setting(), InProcess(1)))


def test_a_setting_may_be_left_out_or_have_its_default(bed: Bed) -> None:
    assert load(bed.setting(), tiny(datasets__synthetic__source__limit=0)).clients
    wanted = r"made with source.limit left out, and the settings say source.limit 7; make it again"
    with pytest.raises(DataError, match=wanted):
        load(bed.setting(), tiny(datasets__synthetic__source__limit=7))


def test_data_of_a_source_that_is_no_more_are_not_those_of_the_settings() -> None:
    dataset = tiny().datasets["synthetic"]
    assert rounds_setting._same("source", config.as_plain(dataset.source), dataset)
    for found in ({"name": "gone"}, {"name": "synthetic", "hue": 3}, {}, None):
        assert not rounds_setting._same("source", found, dataset)


def test_a_reference_set_that_was_drawn_before_a_setting_was_there_is_still_one() -> None:
    dataset = tiny().datasets["synthetic"]
    assert rounds_setting._same("reference", {"per_class": 2}, dataset)
    for found in ({"per_class": 3}, {"per_class": 2, "public": 5}, {}, None):
        assert not rounds_setting._same("reference", found, dataset)


def test_centralised_and_local_bounds_charge_no_bytes(bed: Bed) -> None:
    for name in ("centralised", "local_only"):
        settings = tiny(method__name=name, federation__rounds=1)
        (report,) = federate(settings, bed.setting(name), InProcess(1))
        assert report.wire_bytes == report.paper_bytes == report.evaluation_bytes == 0


def test_local_models_differ_and_the_servers_model_stays_where_it_began(bed: Bed) -> None:
    setting = bed.setting()
    reports = list(federate(tiny(method__name="local_only"), setting, InProcess(1)))
    commits = Journal(open_store(setting.place.store)).commits()
    assert len({h.memory.sha256 for h in commits[-1].holdings.values() if h.memory}) == 3
    scores = reports[-1].per_client.values()
    total = sum(s["examples"] for s in scores)
    mean = sum(s["overall_accuracy"] * s["examples"] for s in scores) / total
    assert reports[-1].metrics["overall_accuracy"] == pytest.approx(mean)


def test_payloads_are_deleted_after_commit_and_the_last_three_states_stay(bed: Bed) -> None:
    list(federate(tiny(federation__rounds=5), bed.setting(), InProcess(1)))
    root = Path(bed.setting().place.store)
    for folder in ("uplink", "downlink", "evaluate"):
        assert not [p for p in (root / folder).rglob("*") if p.is_file()], folder
    assert len(list((root / "states").iterdir())) == 3
    before = sorted(root.rglob("*"))
    collect_garbage(bed.setting().place, keep_states=3)
    assert sorted(root.rglob("*")) == before
    collect_garbage(bed.setting().place, keep_states=1)
    assert len(list((root / "states").iterdir())) == 1
    assert model_digest(bed.setting())
    pruned_by = evidence(bed.setting())[2]
    assert pruned_by is not None, "what was pruned, and by what, stays"
    for ref in (pruned_by.before, pruned_by.scores):
        assert len(open_store(bed.setting().place.store).get(ref)) == ref.size


def test_rounds_can_be_added_on_resume_and_nothing_else_changes(bed: Bed) -> None:
    list(federate(tiny(federation__rounds=2), bed.setting("a"), InProcess(1)))
    changed = tiny(federation__rounds=3, training__learning_rate=0.5)
    more = list(federate(changed, bed.setting("a"), InProcess(1), resume=True))
    list(federate(tiny(), bed.setting("b"), InProcess(1)))
    assert [report.round_index for report in more] == [3]
    assert model_digest(bed.setting("a")) == model_digest(bed.setting("b"))


def test_a_users_weights_are_where_the_run_starts(bed: Bed, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from fedx_core.base.errors import NonFiniteError, SchemaError, TooBigError
    from fedx_core.models import catalogue

    weights = catalogue.build("resnet6", 3, 10, seed=77).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    setting = bed.setting()
    next(federate(tiny_resnet6(model__weights=str(path)), setting, InProcess(1)))
    store = open_store(setting.place.store)
    start = checkpoint.unpack_server_state(store.get(Journal(store).commits()[0].state))
    assert state.equal(start.model, weights)
    save_file({**weights, "fc.bias": torch.full((10,), float("nan"))}, path)
    with pytest.raises(NonFiniteError, match=r"fc\.bias"):
        next(federate(tiny_resnet6(model__weights=str(path)), bed.setting("nan"), InProcess(1)))
    save_file({**weights, "fc.bias": torch.zeros(19)}, path)
    with pytest.raises(SchemaError, match=r"\(19,\), wanted .*\(10,\)"):
        next(federate(tiny_resnet6(model__weights=str(path)), bed.setting("shape"), InProcess(1)))
    path.write_bytes(b"PK\x03\x04 a pickle in a zip")
    with pytest.raises(TooBigError, match="holds a pickle"):
        next(federate(tiny_resnet6(model__weights=str(path)), bed.setting("zip"), InProcess(1)))
    assert not (bed.runs / "zip").exists(), "what is refused leaves nothing behind"


def test_what_is_known_of_clients_does_not_pile_up_in_memory(bed: Bed) -> None:
    settings = tiny(federation__rounds=6, method__name="fedavg")

    def ledgers() -> int:
        gc.collect()
        return sum(type(known) is Traffic for known in gc.get_objects())

    before, clients = ledgers(), 0
    for resume, rounds in ((False, 3), (True, 6)):
        reports = federate(settings, bed.setting(), InProcess(1), resume=resume)
        for report in reports:
            clients = len(report.traffic)
            del report
            if len(history(open_store(bed.setting().place.store))) == rounds:
                break
        assert clients > 0
        assert ledgers() - before <= clients  # of the last round
        reports.close()
    assert len(history(open_store(bed.setting().place.store))) == 6
