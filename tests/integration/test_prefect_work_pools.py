"""A run started on Prefect's pages: the loop and its clients on workers, payloads in S3."""

import json
import time
from typing import Any

import pytest
import yaml

import final_hashes
import tracked
from bed import Bed, tiny_resnet6
from fedx_core.base import config
from fedx_core.base.state import equal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.store import open_store
from infra.stack.settings import Settings

pytestmark = pytest.mark.integration


def test_sites_on_work_pools_and_s3_give_the_bytes_of_one_process(
    stack: tuple[Any, Settings], s3: str, bed: Bed
) -> None:
    live, addresses = stack
    settings = tiny_resnet6(**final_hashes.POOLS)
    expected = list(federate(settings, bed.setting(), InProcess(1)))
    final_hashes.check("half of the clients", bed.setting())
    params = live.folder / "pools.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(settings)))

    said = live.run(
        addresses, "prefect", "deployment", "run", "fedx/round-loop",
        "-p", "run=pools", "-p", f"params={params}", "--watch",
        seconds=600,
    )  # fmt: skip

    folder = live.folder / "runs" / "pools"
    assert (folder / "results" / "summary.json").exists(), said + live.logs()
    there, here = open_store(f"{s3}/runs/pools"), open_store(bed.setting().place.store)
    assert equal(final_model(there), final_model(here))
    assert [r.traffic for r in history(there)] == [r.traffic for r in expected]
    assert [r.metrics for r in history(there)] == [r.metrics for r in expected]

    prefect = live.prefect(addresses)
    named = {"flow_runs": {"name": {"any_": ["fedx pools"]}}}
    (loop,) = prefect.post("/flow_runs/filter", named)
    children = prefect.post(
        "/flow_runs/filter", {"flow_runs": {"tags": {"all_": ["run:pools"]}}, "limit": 100}
    )
    children = [run for run in children if run["id"] != loop["id"]]
    assert {run["state_type"] for run in [loop, *children]} == {"COMPLETED"}
    for run in children:  # each at its own site
        assert run["work_queue_name"] in run["name"]
    # The cohort of each round, and every client's score at the end.
    trained = [f"r{report.round_index}-{c}" for report in expected for c in report.cohort]
    scored = [f"r2-{c}-evaluate" for c in expected[-1].per_client]
    assert len(trained) == 4
    assert sorted(run["name"] for run in children) == sorted([*trained, *scored])
    steps = ("dispatch", "aggregate", "relevance", "prune", "evaluate", "commit")
    wanted = {f"{step}-r{round_index}" for step in steps for round_index in (1, 2)}
    deadline = time.monotonic() + 20  # task runs reach the server's pages as events
    found: set[str] = set()
    while not wanted <= found and time.monotonic() < deadline:
        tasks = prefect.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [loop["id"]]}}})
        found = {run["name"] for run in tasks}
        time.sleep(0.5)
    assert wanted <= found
    assert [run["info"]["run_name"] for run in in_mlflow(addresses, "pools")] == ["pools"]


def in_mlflow(addresses: Settings, name: str) -> list[dict[str, Any]]:
    found = tracked.ask(addresses, "/api/2.0/mlflow/experiments/get-by-name?experiment_name=fedx")
    experiment_id = json.loads(found)["experiment"]["experiment_id"]
    question = {"experiment_ids": [experiment_id], "filter": f"attributes.run_name = '{name}'"}
    said = tracked.ask(addresses, "/api/2.0/mlflow/runs/search", question)
    runs: list[dict[str, Any]] = json.loads(said)["runs"]
    for run in runs:
        # Files go through the server: clients need no keys of the object store.
        assert run["info"]["artifact_uri"].startswith("mlflow-artifacts:")
    return runs
