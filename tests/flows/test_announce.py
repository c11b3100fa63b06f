"""What a run tells Prefect, and that it never waits for Prefect."""

import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from bed import Bed, tiny
from fedx_core.base.errors import QuorumError
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.wire.messages import RoundReport
from flows.base import logs
from flows.deployments import announce, links
from flows.deployments.announce import Announced, key_of, lost_payload, round_payload, rows
from flows.runs.live import Lines
from flows.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def reports(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RoundReport, ...]:
    bed = Bed(tiny_data, tmp_path_factory.mktemp("reports"))
    return tuple(federate(tiny(), bed.setting(), InProcess(1)))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "Base_1.0")
    found.note({"run": found.name})
    return found


def artifacts_of(run: str) -> list[Artifact]:
    with get_client(sync_client=True) as client:
        return client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    """Events as they are handed to Prefect, which hands them to a websocket."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    from prefect import events

    send = events.emit_event

    def emit(event: str, resource: dict[str, str], payload: dict[str, Any], **rest: Any) -> Any:
        found.append((event, resource["prefect.resource.id"], payload))
        return send(event, resource, payload=payload, **rest)

    monkeypatch.setattr(events, "emit_event", emit)
    return found


def test_a_run_leaves_its_progress_a_table_and_links_once_each(
    reports: tuple[RoundReport, ...],
    folder: RunFolder,
    prefect_server: None,
    told: list[tuple[str, str, dict[str, Any]]],
) -> None:
    @flow
    def run() -> str:
        with Announced(Lines(lambda line: None), folder, wait=60) as display:
            display.began("Base_1.0", 3, 0)
            for done in (1, 2, 3):
                display.finished_round(reports[:done])
                wait_for(lambda done=done: lengths(flow_run.id) == [done])
        return str(flow_run.id)

    def lengths(run: str) -> list[int]:
        return [len(json.loads(str(a.data))) for a in artifacts_of(run) if a.type == "table"]

    found = artifacts_of(run())
    assert len(found) == 3
    by_key = {artifact.key: artifact for artifact in found}
    assert set(by_key) == {f"fedx-base-1-0-{part}" for part in ("progress", "rounds", "links")}
    assert float(by_key["fedx-base-1-0-progress"].data) == 100
    assert "fedx resume Base_1.0" in str(by_key["fedx-base-1-0-links"].data)
    assert [(name, resource) for name, resource, _ in told] == [
        *[("fedx.round.completed", "fedx.run.Base_1.0")] * 3,
        ("fedx.run.completed", "fedx.run.Base_1.0"),
    ]
    assert [payload["round"] for _, _, payload in told] == [1, 2, 3, 3]


def test_a_server_that_is_away_costs_one_warning(
    reports: tuple[RoundReport, ...], folder: RunFolder, prefect_server: None
) -> None:
    lines: list[str] = []
    nowhere = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with nowhere, Announced(Lines(lines.append), folder, wait=30.0) as display:
        display.began("Base_1.0", 3, 0)
        display.finished_round(reports[:1])
        display.finished_round(reports[:2])
    (warning,) = [line for line in lines if line.startswith("warning:")]
    assert "Prefect's pages do not show all of this run" in warning
    assert [line for line in lines if line.startswith("round ")]


def test_a_server_that_is_slow_does_not_hold_the_end_up(
    reports: tuple[RoundReport, ...],
    folder: RunFolder,
    prefect_server: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(announce._Sender, "artifacts", lambda *_: released.wait(60))
    lines: list[str] = []
    with Announced(Lines(lines.append), folder, wait=0.1) as display:
        display.finished_round(reports[:1])
    assert not released.is_set()
    released.set()
    assert [line for line in lines if "it is slow" in line]


def test_a_lost_quorum_is_told_with_clients_reasons_and_what_to_do(
    folder: RunFolder, prefect_server: None, told: list[tuple[str, str, dict[str, Any]]]
) -> None:
    error = QuorumError("too few", {"client-01": "late: " + "x" * 1000})
    with pytest.raises(QuorumError), Announced(Lines(lambda line: None), folder, wait=60):
        raise error
    # A thread that another test did not wait for may still tell of its rounds.
    [(resource, payload)] = [said[1:] for said in told if said[0] == "fedx.quorum.lost"]
    assert resource == "fedx.run.Base_1.0"
    assert payload["lost"] == 1
    assert payload["clients"]["client-01"].startswith("late: xxx")
    assert len(payload["clients"]["client-01"]) == 300
    assert "fedx resume Base_1.0" in payload["next"]
    assert lost_payload(QuorumError("x", {str(n): "" for n in range(99)}), "a")["lost"] == 99


def test_a_table_shows_percent_and_mib_and_events_shares_and_numbers_only(
    reports: tuple[RoundReport, ...],
) -> None:
    second = rows(reports)[1]
    assert second["round"] == 2
    assert second["accuracy %"] == round(100 * reports[1].metrics["overall_accuracy"], 2)
    assert second["pruned"] == "yes"
    payload = round_payload(reports[:2])
    assert payload["overall_accuracy"] == reports[1].metrics["overall_accuracy"]
    assert payload["total_mib"] == sum(r.wire_bytes for r in reports[:2]) / 2**20
    assert "train_loss" not in round_payload([replace(reports[0], train_loss=float("nan"))])


def test_keys_are_what_prefect_takes() -> None:
    assert key_of("Base_1.0--x") == "fedx-base-1-0-x"


def test_links_name_mlflows_pages_and_the_report_once_there_is_one(folder: RunFolder) -> None:
    assert "MLflow" not in links.text(folder)
    assert "`fedx report Base_1.0` writes it" in links.text(folder)
    copy = {"run": "1", "page": "http://a/#/runs/1", "charts": "http://a/#/charts"}
    folder.note({"mlflow": {"http://a": copy, "sqlite:////b.db": copy, "http://not-yet": {}}})
    (folder.path / "report").mkdir()
    (folder.path / "report" / "report.html").touch()
    text = links.text(folder)
    assert "- MLflow: [this run](http://a/#/runs/1), [charts](http://a/#/charts)\n" in text
    assert "--backend-store-uri sqlite:////b.db` runs" in text
    assert "not-yet" not in text
    assert f"[report.html]({(folder.path / 'report' / 'report.html').as_uri()})" in text


def test_what_the_core_logs_is_on_the_flow_runs_page(prefect_server: None) -> None:
    core = logging.getLogger("fedx_core.rounds")

    @flow
    def run() -> str:
        with logs.shown(), logs.shown():
            core.info("one of %d", 2)
            core.warning("mend this")
            core.debug("too much")
            task(lambda: None, name="step")()
            with pytest.raises(ZeroDivisionError):
                task(lambda: 1 / 0, name="failing")()
        core.warning("said to nobody")
        return str(flow_run.id)

    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run()]))
    with get_client(sync_client=True) as client:

        def read() -> list[str]:
            # How the flow itself has ended may come while this reads.
            ended = ("prefect.flow_runs", "Finished in state Completed()")
            said = client.read_logs(wanted)
            return [entry.message for entry in said if (entry.name, entry.message) != ended]

        # Logs come in batches; what was said last may come after the rest.
        wait_for(lambda: {"one of 2", "mend this"} <= set(read()) and failed(read()))
        said = read()
    assert [line for line in said if line in ("one of 2", "mend this")] == ["one of 2", "mend this"]
    assert not {"too much", "said to nobody", "Finished in state Completed()"} & set(said)
    assert failed(said)


def failed(lines: list[str]) -> bool:
    return any(line.startswith("Finished in state Failed") for line in lines)


def wait_for(true: Any, seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)
