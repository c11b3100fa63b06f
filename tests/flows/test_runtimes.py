"""However a round is carried, what comes of it is the same."""

import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, TaskRunFilter
from prefect.states import Completed, Crashed, Running

import final_hashes
from bed import Bed, tiny, tiny_resnet6
from fedx_core.base.errors import ConfigError, RunError
from fedx_core.base.frozen_json import canonical
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.rounds.asking import Asking
from fedx_core.rounds.carrier import Carrier, InProcess, Outcome
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from fedx_core.wire.messages import PROTOCOL, ClientFailure, ClientJob, ClientReport, Ref
from flows.carriers import runtimes, work_pools
from flows.carriers.runtimes import OnTaskRunner, choose
from flows.carriers.work_pools import OnWorkPools
from flows.deployments.round_loop import fedx
from flows.prefect.client import fedx_client
from flows.settings.choices import RunAt


def what_came(store: str) -> tuple[object, ...]:
    """Hashes of all states, and every byte that was counted."""
    commits = Journal(open_store(store)).commits()
    return (
        [commit.state.sha256 for commit in commits],
        [(c.report.traffic, c.report.paper_bytes, c.report.metrics) for c in commits],
    )


@pytest.fixture(scope="module")
def expected(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """What one thread of one process makes of the tiny federation."""
    setting = Bed(tiny_data, tmp_path_factory.mktemp("expected")).setting()
    reports = list(federate(tiny_resnet6(), setting, InProcess(1)))
    assert [report.pruned for report in reports] == [False, True, False]
    final_hashes.check("fedx", setting)
    return what_came(setting.place.store)


def test_two_threads_of_one_process_agree(bed: Bed, expected: tuple[object, ...]) -> None:
    list(federate(tiny_resnet6(), bed.setting(), InProcess(2)))
    assert what_came(bed.setting().place.store) == expected


@pytest.mark.parametrize(
    ("run_at", "clients_per_task"),
    [("here", None), ("threads", None), ("threads", 2), ("processes", None), ("dask", 2)],
)
def test_a_flow_agrees_with_one_process(
    run_at: str,
    clients_per_task: int | None,
    bed: Bed,
    resnet6_params: Path,
    expected: tuple[object, ...],
    prefect_server: None,
) -> None:
    if run_at == "dask":
        pytest.importorskip("prefect_dask")
    found = fedx(
        run="run", params=str(resnet6_params), run_root=str(bed.runs), data_root=str(bed.data),
        run_at=run_at, workers=2, clients_per_task=clients_per_task, track="nothing",
        show="nothing",
    )  # fmt: skip
    assert what_came(bed.setting().place.store) == expected
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(found["prefect_run"])
        assert run.name == "fedx run"
        if run_at == "here":
            return
        wanted = {
            f"{step}-r{number}"
            for step in ("dispatch", "aggregate", "relevance", "prune", "evaluate", "commit")
            for number in (1, 2, 3)
        } | {
            f"r{number}-{group}"
            for number in (1, 2, 3)
            for group in (
                ("client-00..client-01", "client-02")
                if clients_per_task
                else ("client-00", "client-01", "client-02")
            )
        }
        names: set[str] = set()
        deadline = time.monotonic() + 20  # task runs reach the server as events
        while not wanted <= names and time.monotonic() < deadline:
            names = {
                task.name
                for task in client.read_task_runs(
                    flow_run_filter=FlowRunFilter(id={"any_": [run.id]}),
                    task_run_filter=TaskRunFilter(),
                )
            }
            time.sleep(0.3)
        assert wanted <= names


def without_a_shard(tiny_data: Path, tmp_path: Path) -> Setting:
    """Lay out a run whose client-01 has no images."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data / "synthetic", data / "synthetic")
    shutil.rmtree(data / "synthetic" / "shards" / "client-01")
    return Bed(data, tmp_path / "runs").setting()


def test_a_failed_task_is_a_lost_client(
    bed: Bed, tiny_data: Path, tmp_path: Path, prefect_server: None
) -> None:
    setting = without_a_shard(tiny_data, tmp_path)
    settings = tiny(federation__rounds=1, federation__min_reports=2, federation__attempts=1)

    @flow
    def run() -> None:
        with choose("threads", 2, setting.place) as runtime:
            list(federate(settings, setting, runtime))

    run()
    (report,) = history(open_store(setting.place.store))
    (failure,) = report.failures
    assert failure.client == "client-01"
    assert failure.reason.startswith("E_DATA: ")


def test_of_several_clients_in_a_task_one_is_lost_without_the_others(
    bed: Bed, tiny_data: Path, tmp_path: Path, prefect_server: None
) -> None:
    setting = without_a_shard(tiny_data, tmp_path)
    settings = tiny(federation__rounds=1, federation__min_reports=2, federation__attempts=2)

    @flow
    def run() -> None:
        with choose("threads", 1, setting.place, clients_per_task=3) as runtime:
            list(federate(settings, setting, runtime))

    run()
    (report,) = history(open_store(setting.place.store))
    (failure,) = report.failures
    assert (failure.client, failure.attempt) == ("client-01", 1)
    assert failure.reason.startswith("E_DATA: ")
    assert set(report.client_metrics) == {"client-00", "client-02"}


@pytest.mark.parametrize("run_at", ["here", "work-pools"])
def test_clients_in_groups_are_refused_where_there_are_no_tasks(run_at: RunAt) -> None:
    with pytest.raises(ConfigError, match=f"3 clients per task.*--run-at {run_at}"):
        choose(run_at, 1, Place(store="/s", shards="", memory="/m"), clients_per_task=3)


@given(
    clients=st.integers(1, 5000),
    workers=st.integers(1, 200),
    wanted=st.integers(1, 200),
    deadline=st.booleans(),
)
def test_clients_share_tasks_where_they_are_many_and_nobody_waits_for_them(
    clients: int, workers: int, wanted: int, deadline: bool
) -> None:
    jobs = [job("client-00", 9.0 if deadline else 0.0)] * clients
    size = runtimes._share(jobs, workers, wanted)
    tasks = math.ceil(clients / size)
    assert tasks <= max(wanted, 4 * workers) or deadline
    assert tasks >= min(clients, workers)
    assert size == 1 or (clients > wanted and not deadline)


def test_without_dask_we_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    with (
        pytest.raises(ConfigError, match=r"pip install 'fedx\[dask\]'.*--run-at processes"),
        choose("dask", 1, Place(store="/s", shards="", memory="/m")),
    ):
        pass


def test_a_dask_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDX_DASK_SCHEDULER", "nonsense://nowhere")
    with (
        pytest.raises(RunError, match=r"nonsense://nowhere.*FEDX_DASK_SCHEDULER"),
        choose("dask", 1, Place(store="/s", shards="", memory="/m")),
    ):
        pass


def test_a_late_task_is_a_lost_client(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, prefect_server: None
) -> None:
    settings = tiny(
        federation__rounds=1,
        federation__min_reports=2,
        federation__attempts=1,
        federation__round_timeout=6.0,
    )
    original, released = client._train, threading.Event()

    def slow(job: ClientJob, *rest: Any) -> Any:
        if job.client == "client-01":
            released.wait(60)
        return original(job, *rest)

    monkeypatch.setattr(client, "_train", slow)

    @flow
    def run() -> None:
        with choose("threads", 2, bed.setting().place) as runtime:
            list(federate(settings, bed.setting(), runtime))
            released.set()

    run()
    (report,) = history(open_store(bed.setting().place.store))
    (failure,) = report.failures
    assert failure.client == "client-01"
    assert failure.reason.startswith("late: no report after 6 seconds")


def pool_processes() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # others come and go, such as git
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_killed_processes_are_replaced_and_their_clients_tried_again(
    bed: Bed, expected: tuple[object, ...], prefect_server: None
) -> None:
    @dataclass
    class Killing:
        """Kills the pool's processes before the second round."""

        inner: Carrier
        workers: int = 1

        def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
            return self.inner.server_step(name, step, *arguments)

        def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
            if jobs[0].round_index == 2 and jobs[0].attempt == 0:
                assert [child.kill() for child in pool_processes()]
            self.inner.send(jobs, place)

        def heard(self, timeout: float | None) -> Sequence[Outcome]:
            return self.inner.heard(timeout)

        def drop(self, jobs: Sequence[ClientJob]) -> None:
            self.inner.drop(jobs)

    @flow
    def run() -> None:
        with OnTaskRunner.opened(1, "processes") as runtime:
            list(federate(tiny_resnet6(), bed.setting(), Killing(runtime)))

    run()
    found = what_came(bed.setting().place.store)
    assert found[0] == expected[0]
    second = history(open_store(bed.setting().place.store))[1]
    assert second.retry_bytes > 0


def test_a_store_in_memory_is_refused_where_clients_are_in_other_processes() -> None:
    place = Place(store="memory://here", shards="/nowhere", memory="/nowhere")
    for run_at in ("processes", "dask", "work-pools"):
        with pytest.raises(ConfigError, match="one process only"):
            choose(run_at, 1, place)
    with choose("here", 1, place) as runtime:
        assert runtime == InProcess(1)


def job(client: str, deadline: float) -> ClientJob:
    return ClientJob(
        protocol=PROTOCOL, run="pools", round_index=4, client=client, attempt=0, seed=1,
        purpose="train", plan=Ref("plans/x", "0" * 64, 1), base=None, mask=None, schema="",
        memory=None, uplink_key=f"uplink/0004/{client}.0", deadline=deadline,
    )  # fmt: skip


def answers(
    carrier: Carrier, place: Place, jobs: Sequence[ClientJob], needed: int = 0
) -> dict[str, Outcome]:
    """Ask until that many have reported, as long as patience lasts."""
    found: dict[str, Outcome] = {}

    def lacking() -> int:
        return needed - sum(isinstance(outcome, ClientReport) for outcome in found.values())

    for asked, outcome in Asking(carrier, place, jobs, lacking).outcomes():
        found[asked.client] = outcome
    return found


def test_without_the_deployment_work_pools_say_how_to_make_it(
    tmp_path: Path, prefect_server: None
) -> None:
    runtime = OnWorkPools(1, deployment="fedx-client/nobody-made-this")
    place = Place(store=str(tmp_path), shards="", memory="")
    with pytest.raises(RunError, match="prefect --no-prompt deploy --all"):
        answers(runtime, place, [job("client-00", 0)])


def test_crashed_silent_and_late_flow_runs_are_lost_clients_and_babble_is_refused(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="fedx-clients", type="process"))
        flow_id = client.create_flow(fedx_client)
        client.create_deployment(flow_id, "train", work_pool_name="fedx-clients")
        place = Place(store=str(tmp_path), shards="", memory="")
        jobs = [job(name, deadline=8) for name in ("crashed", "silent", "late", "babbling")]
        open_store(place.store).put(jobs[-1].report_key, b"babble")
        monkeypatch.setattr(work_pools, "PATIENCE_SECONDS", 2.0)
        warnings: list[str] = []
        carrier = OnWorkPools(1, warnings.append)
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["run:pools"]))

        def strike() -> None:
            with get_client(sync_client=True) as other:
                runs = {}
                while not {"r4-crashed", "r4-silent", "r4-babbling"} <= set(runs):
                    runs = {r.name: r.id for r in other.read_flow_runs(flow_run_filter=tagged)}
                    time.sleep(0.1)
                other.set_flow_run_state(runs["r4-crashed"], Crashed(message="hit"), force=True)
                for name in ("silent", "babbling"):
                    other.set_flow_run_state(runs[f"r4-{name}"], Completed(), force=True)

        striker = threading.Thread(target=strike)
        striker.start()
        found = answers(carrier, place, jobs)
        striker.join()
        assert all(isinstance(outcome, ClientFailure) for outcome in found.values())
        reasons = {name: str(getattr(o, "reason", "")) for name, o in found.items()}
        assert "is Crashed without a report: hit" in reasons["crashed"]
        assert "is Completed without a report" in reasons["silent"]
        assert reasons["late"].startswith("late: no report after 8 seconds")
        assert reasons["babbling"].startswith("E_PAYLOAD: unreadable report")
        # It has answered, so a round that wants all goes on without it.
        assert [name for name, o in found.items() if getattr(o, "refused", False)] == ["babbling"]
        states = {r.name: r.state_name for r in client.read_flow_runs(flow_run_filter=tagged)}
        # A server with much to do is also said not to answer.
        (warning,) = [line for line in warnings if "have waited" in line]
        assert "1 runs of fedx-client/train have waited 2 s" in warning
        assert "prefect worker start --pool fedx-clients" in warning
        assert states["r4-late"] in ("Cancelling", "Cancelled")


def test_a_new_flow_run_is_not_called_idle_for_as_long_as_a_late_client_is_at_work(
    tmp_path: Path, prefect_server: None
) -> None:
    warnings: list[str] = []
    carrier = OnWorkPools(1, warnings.append, deployment="fedx-client/lasting")
    place = Place(store=str(tmp_path), shards="", memory="")
    late, new = (replace(job(name, deadline=0), run="lasting") for name in ("late", "new"))
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="lasting", type="process"))
        flow_id = client.create_flow(fedx_client)
        client.create_deployment(flow_id, "lasting", work_pool_name="lasting")
        carrier.send([late], place)
        carrier.heard(0.0)
        assert carrier._watch is not None
        ((run_id, (_, began)),) = carrier._watch.waiting.items()
        client.set_flow_run_state(run_id, Running(), force=True)
        carrier._watch.waiting[run_id] = (late, began - 2 * work_pools.PATIENCE_SECONDS)
    carrier.send([new], place)
    carrier.heard(0.0)
    assert warnings == []
    carrier.drop([late, new])


@pytest.mark.parametrize(("grace", "kind"), [(300.0, ClientReport), (0.0, ClientFailure)])
def test_a_work_pools_round_that_lacks_its_quorum_waits_through_its_grace(
    grace: float, kind: type[Outcome], tmp_path: Path, prefect_server: None
) -> None:
    run, store = f"grace-{grace:g}", open_store(str(tmp_path))
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=run, type="process"))
        flow_id = client.create_flow(fedx_client)
        client.create_deployment(flow_id, run, work_pool_name=run)
    jobs = [replace(job(name, deadline=1.0), run=run, grace=grace) for name in ("slow", "never")]

    def report_after_the_deadline() -> None:
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"run:{run}"]))
        with get_client(sync_client=True) as other:
            while len(runs := other.read_flow_runs(flow_run_filter=tagged)) < 2:
                time.sleep(0.1)
            time.sleep(1.5)  # the deadline runs since before there was any flow run
            said = ClientReport(
                client="slow", attempt=0, purpose="train", uplink=None, examples=1, metrics={},
                memory=None, seconds=0.0,
            )  # fmt: skip
            store.create(jobs[0].report_key, canonical(said))
            (slow,) = [each.id for each in runs if each.name == "r4-slow"]
            other.set_flow_run_state(slow, Completed(), force=True)

    client_thread = threading.Thread(target=report_after_the_deadline)
    client_thread.start()
    runtime = OnWorkPools(1, deployment=f"fedx-client/{run}")
    place = Place(store=str(tmp_path), shards="", memory="")
    found = answers(runtime, place, jobs, needed=1)
    client_thread.join()
    assert type(found["slow"]) is kind
    never = found["never"]
    assert isinstance(never, ClientFailure)
    assert never.late


def test_each_client_may_have_a_deployment_and_a_queue_of_its_own(
    tmp_path: Path, prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDX_CLIENT_DEPLOYMENT", "fedx-client/{client}")
    monkeypatch.setenv("FEDX_CLIENT_QUEUE", "queue-of-{client}")
    place = Place(store=str(tmp_path), shards="", memory="")
    monkeypatch.setattr(work_pools, "PATIENCE_SECONDS", 0.0)
    warnings: list[str] = []
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="sites", type="process"))
        flow_id = client.create_flow(fedx_client)
        for name in ("north", "south"):
            client.create_deployment(flow_id, name, work_pool_name="sites")
        with choose("work-pools", 1, place, warnings.append) as runtime:
            # Long enough for a busy server to have started both.
            asked = [job("north", 8), job("south", 8)]
            assert set(answers(runtime, place, asked)) == {"north", "south"}
            further = [replace(job(name, 2), round_index=5) for name in ("north", "east")]
            with pytest.raises(RunError, match=r"'fedx-client/east'.*FEDX_CLIENT_DEPLOYMENT"):
                answers(runtime, place, further)
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=["client:north"]))
        runs = client.read_flow_runs(flow_run_filter=tagged)
        assert {run.work_queue_name for run in runs} == {"queue-of-north"}
        # The one whose cohort could not be started was not left behind.
        assert {run.state_name for run in runs} <= {"Cancelling", "Cancelled"}
        assert len(runs) == 2
    assert any("--pool sites --work-queue queue-of-" in warning for warning in warnings)


def test_a_pattern_with_other_braces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDX_CLIENT_DEPLOYMENT", "fedx-client/{site}")
    with pytest.raises(ConfigError, match=r"FEDX_CLIENT_DEPLOYMENT.*only \{client\}"):
        choose("work-pools", 1, Place(store="/s", shards="", memory="/m"))


def test_a_server_process_of_its_own_starts_flow_runs_of_its_own() -> None:
    assert OnWorkPools(1).nonce != OnWorkPools(1).nonce
