"""Every carrier keeps to the same rules; so do sites, in ``integration/test_at_sites.py``."""

import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.states import Completed, Crashed

from bed import Bed, tiny
from carrying import (
    begins_nothing_that_was_dropped,
    counts_late_updates,
    first_jobs,
    keeps_to_the_rules,
)
from fedx_core.base.frozen_json import parse
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import InProcess, attempt
from fedx_core.wire.messages import ClientJob, ClientReport
from flows.carriers.runtimes import choose
from flows.carriers.work_pools import OnWorkPools
from flows.prefect.client import fedx_client
from flows.settings.choices import RunAt

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_the_carrier_that_the_page_on_architecture_shows_keeps_to_the_rules(bed: Bed) -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    said: dict[str, Any] = {}
    exec(shown, said)
    setting = bed.setting()
    jobs = list(first_jobs(setting, tiny()).values())
    keeps_to_the_rules(said["OneByOne"](), setting.place, jobs)
    begins_nothing_that_was_dropped(said["OneByOne"](), setting.place, jobs)


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_of_this_process_keep_to_the_rules(workers: int, bed: Bed) -> None:
    setting = bed.setting()
    jobs = list(first_jobs(setting, tiny()).values())
    keeps_to_the_rules(InProcess(workers), setting.place, jobs)


@pytest.mark.parametrize(
    ("run_at", "clients_per_task"),
    [("threads", None), ("threads", 2), ("processes", None), ("dask", None)],
)
def test_task_runners_keep_to_the_rules(
    run_at: RunAt, clients_per_task: int | None, bed: Bed, prefect_server: None
) -> None:
    if run_at == "dask":
        pytest.importorskip("prefect_dask")
    setting = bed.setting()
    jobs = list(first_jobs(setting, tiny()).values())

    @flow
    def carry() -> None:
        with choose(run_at, 2, setting.place, clients_per_task=clients_per_task) as carrier:
            keeps_to_the_rules(carrier, setting.place, jobs)

    carry()


@pytest.mark.parametrize("run_at", ["here", "threads"])
def test_what_waits_for_a_worker_and_is_dropped_never_begins(
    run_at: RunAt, bed: Bed, prefect_server: None
) -> None:
    setting = bed.setting()
    jobs = list(first_jobs(setting, tiny()).values())

    @flow
    def carry() -> None:
        with choose(run_at, 1, setting.place) as carrier:
            begins_nothing_that_was_dropped(carrier, setting.place, jobs)

    carry()


@pytest.mark.parametrize("run_at", ["threads", "processes", "dask"])
def test_late_updates_on_task_runners_count(run_at: RunAt, bed: Bed, prefect_server: None) -> None:
    if run_at == "dask":
        pytest.importorskip("prefect_dask")

    @flow
    def run() -> None:
        there = bed.setting("there")
        with choose(run_at, 1, there.place) as carrier:
            counts_late_updates(lambda: carrier, there, bed.setting("here"))

    run()


@contextmanager
def worker(tag: str, clients: Collection[str] = ()) -> Iterator[None]:
    """Do the flow runs of a tag, as a work pool's worker would.

    Args:
        tag: of all that it does.
        clients: whose runs it does; empty for those of all.
    """
    over = threading.Event()
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))

    def work() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(0.1):
                for run in client.read_flow_runs(flow_run_filter=tagged):
                    if run.state is None or not run.state.is_scheduled():
                        continue
                    job = parse(ClientJob, run.parameters["job"])
                    if clients and job.client not in clients:
                        continue
                    done = attempt(job, parse(Place, run.parameters["place"]))
                    state = Completed() if isinstance(done, ClientReport) else Crashed()
                    client.set_flow_run_state(run.id, state, force=True)

    working = threading.Thread(target=work)
    working.start()
    try:
        yield
    finally:
        over.set()
        working.join()


def work_pool() -> OnWorkPools:
    """A carrier on a work pool that no worker but :func:`worker` looks at."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="ruled", type="process"), overwrite=True)
        flow_id = client.create_flow(fedx_client)
        client.create_deployment(flow_id, "ruled", work_pool_name="ruled")
    return OnWorkPools(1, deployment="fedx-client/ruled")


def test_work_pools_keep_to_the_rules(bed: Bed, prefect_server: None) -> None:
    setting = bed.setting("ruled")
    jobs = list(first_jobs(setting, tiny()).values())

    @flow
    def carry() -> None:
        with worker("run:ruled"):
            keeps_to_the_rules(work_pool(), setting.place, jobs)

    carry()


def test_late_updates_on_work_pools_count(bed: Bed, prefect_server: None) -> None:
    @flow
    def run() -> None:
        counts_late_updates(
            work_pool, bed.setting("there"), bed.setting("here"), partial(worker, "run:there")
        )

    run()
