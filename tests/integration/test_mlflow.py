"""Tracking on a real MLflow server: gone in mid-run, back again, asked twice, seen in a browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from bed import NARROW, Bed, tiny
from fedx_core.base import config
from fedx_core.wire.messages import RoundReport
from flows.running.experiment import carry_out, settle
from flows.runs import live, run_folder
from flows.runs.run_folder import RunFolder
from flows.settings.request import Request
from flows.tracking import MlflowTracker, NoTracker
from flows.tracking.charts import chart_url
from flows.tracking.sync import sync

pytestmark = pytest.mark.integration


class Server:
    """An MLflow server on SQLite that hands files on, and can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                    "--port", str(self.port), "--workers", "1",
                    "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
                    "--artifacts-destination", str(self.folder / "artifacts"),
                ],
                cwd=self.folder,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-4000:]
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        pytest.fail("MLflow did not answer within 120 s")

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("mlflow"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Folder of two finished runs of which no MLflow knows."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("half", 0.5), ("most", 0.75)):
        settings = config.as_plain(tiny(method__pruning_rate=rate))
        run_folder.write_yaml(folder / f"{name}.yaml", settings)
        request = Request(
            run=name, params=str(folder / f"{name}.yaml"), run_root=str(folder),
            data_root=str(tiny_data), sweep="rates",
        )  # fmt: skip
        carry_out(
            settle(request), run_at="here", workers=1, display=live.display("nothing"),
            tracker=NoTracker(),
        )  # fmt: skip
    return folder


def copies(client: MlflowClient, name: str) -> list[Run]:
    experiment = client.get_experiment_by_name("fedx")
    if experiment is None:
        return []  # nothing has been sent yet
    return list(client.search_runs([experiment.experiment_id], f"tags.`fedx.run` = '{name}'"))


def held(client: MlflowClient, name: str) -> dict[str, Any]:
    """Everything that MLflow has of a run, with every value of every metric."""
    (found,) = copies(client, name)
    run_id = found.info.run_id

    def files(path: str | None = None) -> Iterator[tuple[str, int]]:
        for entry in client.list_artifacts(run_id, path):
            if entry.is_dir:
                yield from files(entry.path)
            else:
                yield entry.path, entry.file_size

    return {
        "run": run_id,
        "status": found.info.status,
        "times": (found.info.start_time, found.info.end_time),
        "parameters": dict(found.data.params),
        "tags": dict(found.data.tags),
        "metrics": {
            name: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, name)]
            for name in sorted(found.data.metrics)
        },
        "inputs": sorted((i.dataset.name, i.dataset.digest) for i in found.inputs.dataset_inputs),
        "files": sorted(files()),
        "versions": sorted(
            (v.name, int(v.version), v.source)
            for v in client.search_model_versions(f"run_id = '{run_id}'")
        ),
    }


def test_a_server_that_stops_in_mid_run_and_comes_back_has_all_of_it_once(
    server: Server, bed: Bed
) -> None:
    run_folder.write_yaml(bed.runs / "params.yaml", config.as_plain(tiny(federation__rounds=5)))
    request = Request(
        run="interrupted", params=str(bed.runs / "params.yaml"), run_root=str(bed.runs),
        data_root=str(bed.data),
    )  # fmt: skip
    client = MlflowClient(tracking_uri=server.uri)

    class Interrupted(MlflowTracker):
        def logged(self, reports: Sequence[RoundReport]) -> None:
            if len(reports) == 3:
                wait_for_round(2)
                server.stop()
            if len(reports) == 5:
                server.start()
            super().logged(reports)

    def wait_for_round(number: int) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if found := copies(client, "interrupted"):
                history = client.get_metric_history(found[0].info.run_id, "sparsity")
                if number in {metric.step for metric in history}:
                    return
            time.sleep(0.1)
        pytest.fail(f"round {number} did not reach MLflow within 120 s")

    lines: list[str] = []
    order = settle(request)
    carry_out(
        order, run_at="here", workers=1, display=live.display("nothing"),
        tracker=Interrupted(server.uri, lines.append, lines.append),
    )  # fmt: skip

    seen = held(client, "interrupted")
    assert seen["status"] == "FINISHED"
    reports = json.loads((order.folder.results / "rounds.json").read_text())
    values = [r["metrics"]["overall_accuracy"] for r in reports]
    accuracy = seen["metrics"]["test/overall_accuracy"]
    assert [(step, value) for step, _, value in accuracy] == list(enumerate(values, start=1))
    # Accuracy can be drawn against MiB: both are there at the same steps and times.
    sent = seen["metrics"]["wire/cumulative_mib"]
    assert [point[:2] for point in sent] == [point[:2] for point in accuracy]
    assert sorted(value for *_, value in sent) == [value for *_, value in sent]
    assert [count for _, count, _ in seen["versions"]] == [1]
    assert lines[-1] == f"charts: {order.folder.notes()['mlflow'][server.uri]['charts']}"

    (outcome,) = sync(order.folder)
    assert outcome.error == ""
    sent_again = outcome.sent
    assert (sent_again.rounds, sent_again.samples, sent_again.files, sent_again.version) == (
        0, 0, 0, 0,
    )  # fmt: skip
    assert held(client, "interrupted") == seen


def test_many_at_once_send_a_run_once_and_agree_on_its_sweep(
    server: Server, root: Path, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri=server.uri)
    folders = []
    for name in ("half", "most"):
        shutil.copytree(root / name, tmp_path / name)
        folders.append(RunFolder(tmp_path / name))
    outcomes = []
    barrier = threading.Barrier(4)

    def send(folder: RunFolder) -> None:
        barrier.wait()
        outcomes.extend(sync(folder, server.uri))

    threads = [threading.Thread(target=send, args=(folder,)) for folder in folders * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.error for outcome in outcomes] == [""] * 4
    assert sorted(outcome.sent.rounds for outcome in outcomes) == [0, 0, 3, 3]

    found = [held(client, name) for name in ("half", "most")]
    assert [step for step, *_ in found[0]["metrics"]["sparsity"]] == [1, 2, 3]
    assert [len(each["versions"]) for each in found] == [1, 1]
    for folder in folders:  # whoever took a parent that was given up is put right
        assert [outcome.error for outcome in sync(folder, server.uri)] == [""]
    parents = {held(client, name)["tags"]["mlflow.parentRunId"] for name in ("half", "most")}
    assert len(parents) == 1
    assert client.get_run(parents.pop()).info.run_name == "rates"

    model = client.get_registered_model(f"fedx-synthetic-{NARROW}")
    versions = client.search_model_versions(f"name = 'fedx-synthetic-{NARROW}'")
    best = max(versions, key=lambda v: (float(v.tags["fedx.test"]), -int(v.version)))
    assert model.aliases == {"best": best.version}
    assert "test images" in model.description
    # The alias leads to the bytes of the run that the version names.
    there = client.get_model_version_by_alias(f"fedx-synthetic-{NARROW}", "best")
    inside = there.source.partition("/artifacts/")[2]
    fetched = Path(client.download_artifacts(there.run_id, f"{inside}/model.safetensors"))
    names = {"half": folders[0], "most": folders[1]}
    if there.tags["fedx.run"] in names:
        assert fetched.read_bytes() == names[there.tags["fedx.run"]].model.read_bytes()


def test_the_charts_open_on_accuracy_against_what_was_sent(
    server: Server, root: Path, tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here")
    for name in ("half", "most"):
        shutil.copytree(root / name, tmp_path / name)
        (outcome,) = sync(RunFolder(tmp_path / name), server.uri)
        assert outcome.error == ""
    experiment = MlflowClient(tracking_uri=server.uri).get_experiment_by_name("fedx")
    assert experiment is not None
    assert outcome.charts == chart_url(server.uri, experiment.experiment_id)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1400})
        page.goto(outcome.charts)
        # The axis of the last of our charts: by then all of them are drawn.
        page.get_by_text("paper/cumulative_mib", exact=True).first.wait_for(timeout=120_000)
        shown = page.inner_text("body")
        link = page.get_by_role("link", name="Charts").first.get_attribute("href")
        browser.close()
    # Ours come first, and runs of a sweep are drawn like others.
    title = "\naccuracy against MiB transmitted (right: last round)\n"
    first = shown[shown.index(title) : shown.index("\nwire\n(")]
    for words in (
        "\nwire/cumulative_mib\n", "\nStep\n", "\nsparsity\n", "vs. test/overall_accuracy",
        "half (test/overall_accuracy)", "most (test/overall_accuracy)",
    ):  # fmt: skip
        assert words in first
    assert "accuracy and sparsity by round" in first
    assert "accuracy against MiB as the paper counts them" in first
    assert shown.index(title) < shown.index("\nbefore_pruning\n")
    assert "micro_map" not in first  # no run has it
    assert link == outcome.charts.partition("/#")[2].join(["#", ""])
