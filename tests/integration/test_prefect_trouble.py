"""Runs that are killed, cancelled and retried on Prefect's pages, and a server that goes away."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import Bed, tiny_resnet6
from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.state import equal
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.store import Store, open_store
from flows.runs import run_folder
from infra.stack import processes
from infra.stack.settings import Settings

pytestmark = pytest.mark.integration

ENDS = {"Completed", "Failed", "Crashed", "Cancelled"}
STOPPED = {"Completed", "Cancelled", "Cancelling"}
"""Prefect leaves a run at Cancelling, for minutes, that was cancelled before it had begun."""


@dataclass(frozen=True)
class Pages:
    """What somebody does on Prefect's pages."""

    live: Any
    addresses: Settings
    params: Path

    def start(self, environment: dict[str, str] | None = None, **parameters: Any) -> str:
        """Fill in the form; returns the flow run's id."""
        prefect = self.live.prefect(self.addresses)
        deployment = prefect.get("/deployments/name/fedx/round-loop")["id"]
        body = {
            "parameters": {"params": str(self.params), "track": "nothing", **parameters},
            "job_variables": {"env": environment or {}},
        }
        return str(prefect.post(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def retry(self, flow_run: str) -> None:
        """Press Retry as a person would, some seconds after the crash, until it works.

        A worker's last word on a crash undoes an earlier retry, though its process has begun; a
        second one then races it, and the loser says so and fails.
        """
        time.sleep(10)
        count = self.about(flow_run)["run_count"]

        def begun() -> bool:
            about = self.about(flow_run)
            if about["state_name"] in ENDS and about["run_count"] == count:
                retry = {"type": "SCHEDULED", "name": "AwaitingRetry"}
                self._set(flow_run, **retry, message="Retry from the UI")
            return bool(about["run_count"] > count)

        self.until(begun)

    def cancel(self, flow_run: str) -> None:
        self._set(flow_run, type="CANCELLING", name="Cancelling")

    def kill(self, flow_run: str) -> None:
        """Kill the flow's process, as the machine does that has no memory left."""
        _, _, pid = self.about(flow_run)["infrastructure_pid"].rpartition(":")
        os.kill(int(pid), signal.SIGKILL)

    def about(self, flow_run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.live.prefect(self.addresses).get(f"/flow_runs/{flow_run}")
        return found

    def children(self, flow_run: str) -> list[dict[str, Any]]:
        wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [flow_run]}}}
        found: list[dict[str, Any]] = self.live.prefect(self.addresses).post(
            "/flow_runs/filter", wanted
        )
        return found

    def states(self, flow_run: str) -> list[str]:
        return [child["state_name"] for child in self.children(flow_run)]

    def until(self, true: Callable[[], object], seconds: float = 180.0) -> None:
        ends = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < ends, self.live.logs()
            time.sleep(0.1)

    def until_state(self, flow_run: str, name: str) -> None:
        self.until(lambda: self.about(flow_run)["state_name"] in {name, *(ENDS - {name})})
        assert self.about(flow_run)["state_name"] == name, self.live.logs()

    def _set(self, flow_run: str, **state: str) -> None:
        prefect = self.live.prefect(self.addresses)
        body = {"state": state, "force": False}
        answer = prefect.post(f"/flow_runs/{flow_run}/set_state", body)
        assert answer["status"] == "ACCEPT", answer


def pages(stack: tuple[Any, Settings], settings: ExperimentConfig, tmp_path: Path) -> Pages:
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(settings)))
    return Pages(*stack, params)


def same(there: Store, here: Store) -> bool:
    """Whether two runs have the same final weights and have counted the same bytes."""
    counted = [
        [(r.downlink_bytes, r.uplink_bytes, r.mask_bytes) for r in history(store)]
        for store in (there, here)
    ]
    return equal(final_model(there), final_model(here)) and counted[0] == counted[1]


def test_a_run_that_a_shell_has_started_can_be_cancelled_on_the_pages(
    stack: tuple[Any, Settings], tmp_path: Path
) -> None:
    view = pages(stack, tiny_resnet6(seed=94, federation__rounds=500), tmp_path)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "flows.cli", "run", "--run", "of-a-shell", "--track", "nothing",
            "--params", str(view.params), "--run-root", str(tmp_path / "runs"),
        ],
        cwd=tmp_path,
        env=view.live.environment(view.addresses),
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert any(line.split()[:2] == ["round", "1/500"] for line in process.stderr)
    named = {"flow_runs": {"name": {"any_": ["fedx of-a-shell"]}}}
    [run] = view.live.prefect(view.addresses).post("/flow_runs/filter", named)
    view.cancel(run["id"])
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "error E_STOPPED: run 'of-a-shell' was cancelled on Prefect's pages" in said
    assert "Traceback" not in said
    assert view.about(run["id"])["state_name"] == "Cancelled"


def test_a_run_that_was_killed_goes_on_when_it_is_retried(
    stack: tuple[Any, Settings], s3: str, bed: Bed, tmp_path: Path
) -> None:
    settings = tiny_resnet6(seed=91, federation__rounds=4, training__epochs=4)
    list(federate(settings, bed.setting(), InProcess(2)))
    name = run_folder.default_name(settings)
    store = open_store(f"{s3}/runs/{name}")
    view = pages(stack, settings, tmp_path)

    run = view.start(run_at="threads", workers=2)  # the name is made up
    view.until(lambda: Journal(store).opened(2))
    view.kill(run)
    view.until_state(run, "Crashed")
    assert len(history(store)) < 4
    view.retry(run)
    view.until_state(run, "Completed")

    assert same(store, open_store(bed.setting().place.store))
    assert [p.name for p in (view.live.folder / "runs").glob(f"{name}*")] == [name]
    about = view.about(run)
    assert about["name"] == f"fedx {name}"
    assert f"run:{name}" in about["tags"]
    prefect = view.live.prefect(view.addresses)
    mine = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 100}
    kinds = [found["type"] for found in prefect.post("/artifacts/filter", mine)]
    assert kinds.count("progress") >= 1
    assert kinds.count("table") >= 1
    assert kinds.count("markdown") >= 1
    told = {
        "filter": {
            "event": {"prefix": ["fedx."]},
            "resource": {"id": [f"fedx.run.{name}"]},
        },
        "limit": 50,
    }
    # Events arrive some time after the run has ended.
    names = {"fedx.round.completed", "fedx.run.completed"}
    view.until(
        lambda: {e["event"] for e in prefect.post("/events/filter", told)["events"]} == names
    )
    said = prefect.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})
    assert any("on from round" in line["message"] for line in said)


def test_cancelled_and_killed_loops_take_their_clients_along(
    stack: tuple[Any, Settings], s3: str, bed: Bed, tmp_path: Path
) -> None:
    settings = tiny_resnet6(
        federation__rounds=2,
        federation__participation=0.6,
        method__warmup_rounds=1,
        training__epochs=30,  # some seconds per client
    )
    list(federate(settings, bed.setting(), InProcess(2)))
    store = open_store(f"{s3}/runs/troubled")
    view = pages(stack, settings, tmp_path)

    run = view.start(run="troubled")
    view.until(lambda: len(view.states(run)) == 2)
    view.kill(run)
    view.until_state(run, "Crashed")
    view.until(lambda: set(view.states(run)) <= STOPPED)
    first = {child["id"] for child in view.children(run)}

    view.retry(run)
    view.until(lambda: any(c["state_name"] == "Running" for c in further(view, run, first)))
    view.cancel(run)
    view.until_state(run, "Cancelled")
    view.until(lambda: {c["state_name"] for c in further(view, run, first)} <= STOPPED)
    assert Journal(store).committed(2) is None

    view.retry(run)
    view.until_state(run, "Completed")
    assert same(store, open_store(bed.setting().place.store))
    assert view.states(run).count("Completed") >= 2 + 2 + 3  # both rounds, and everybody's score
    assert set(view.states(run)) <= STOPPED


def further(view: Pages, run: str, known: set[str]) -> list[dict[str, Any]]:
    return [child for child in view.children(run) if child["id"] not in known]


def test_clients_at_a_site_of_their_own_go_on_while_prefects_server_is_away(
    stack: tuple[Any, Settings], s3: str, bed: Bed, tmp_path: Path
) -> None:
    settings = tiny_resnet6(
        federation__rounds=2,
        federation__participation=0.3,
        method__warmup_rounds=1,
        training__epochs=30,
    )
    list(federate(settings, bed.setting(), InProcess(2)))
    store = open_store(f"{s3}/runs/apart")
    view = pages(stack, settings, tmp_path)
    # The server knows who has how many images, and has none of them.
    data = tmp_path / "data" / "synthetic"
    shutil.copytree(bed.data / "synthetic", data)
    for shard in (data / "shards").iterdir():
        if shard.is_dir():
            shutil.rmtree(shard)
    queues = [f"site-{client}" for client in ("client-00", "client-01", "client-02")]
    own = {
        "FEDX_SHARDS": str(bed.data / "synthetic" / "shards"),
        "FEDX_STORE": f"{s3}/runs",
        "FEDX_MEMORY": str(tmp_path / "memory"),
    }
    with site_worker(view, queues, own):
        run = view.start(
            {"FEDX_CLIENT_QUEUE": "site-{client}"}, run="apart", data_root=str(tmp_path / "data")
        )
        view.until(lambda: view.states(run) == ["Running"])
        processes.end(processes.marked(view.live.stack.var)["prefect"], 1.0)
        view.live.up("prefect")
        view.until_state(run, "Completed")

    assert same(store, open_store(bed.setting().place.store))
    assert [report.retry_bytes for report in history(store)] == [0, 0]
    names = [child["name"] for child in view.children(run)]
    assert len(set(names)) == len(names)
    assert {child["work_queue_name"] for child in view.children(run)} == set(queues)


@contextmanager
def site_worker(view: Pages, queues: list[str], own: dict[str, str]) -> Iterator[None]:
    for queue in queues:  # a worker that is given several takes nothing while one is missing
        view.live.prefect(view.addresses).post("/work_pools/fedx-clients/queues", {"name": queue})
    log = (view.live.stack.var / "log" / "worker-site.log").open("wb")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "fedx-clients"]
    worker = subprocess.Popen(
        [*command, *(word for queue in queues for word in ("--work-queue", queue))],
        env={**view.live.environment(view.addresses), "PREFECT_WORKER_QUERY_SECONDS": "1", **own},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        log.close()
