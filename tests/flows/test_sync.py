import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from bed import ROOT
from flows.running.experiment import carry_out, settle
from flows.runs import live, now, record
from flows.runs.run_folder import RunFolder
from flows.settings.request import Request
from flows.tracking import MlflowTracker, copying
from flows.tracking.sync import status_of, sync
from flows.tracking.visits import introduce

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)


def copies(uri: str) -> list[Run]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fedx")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def steps(uri: str, name: str) -> list[int]:
    (found,) = copies(uri)
    history = MlflowClient(tracking_uri=uri).get_metric_history(found.info.run_id, name)
    return [metric.step for metric in history]


def answer(capsys: Said) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["copies"]
    return found


def test_a_run_that_no_mlflow_knows_is_sent_whole_and_once(
    fedx: Fedx, capsys: Said, base: RunFolder, mlflow_uri: str
) -> None:
    assert fedx("sync", "--json") == 0
    (first,) = answer(capsys)
    sent = first["sent"]
    assert (first["run"], first["uri"], first["error"]) == ("base", mlflow_uri, "")
    assert (sent["rounds"], sent["version"]) == (3, 1)
    assert sent["samples"] == len(base.system.read_text().splitlines())

    (found,) = copies(mlflow_uri)
    assert found.info.status == "FINISHED"
    assert {i.dataset.name for i in found.inputs.dataset_inputs} == {
        "synthetic/prepared", "synthetic/shards", "synthetic/reference",
    }  # fmt: skip
    client = MlflowClient(tracking_uri=mlflow_uri)
    files = {entry.path for entry in client.list_artifacts(found.info.run_id, "results")}
    assert files == {f"results/{path.name}" for path in base.results.iterdir()}
    kept = {entry.path for entry in client.list_artifacts(found.info.run_id, "results/pruning")}
    assert kept == {"results/pruning/0002.safetensors"}

    assert fedx("sync", "base") == 0
    assert capsys.readouterr().out.startswith("base: nothing was missing; http://127.0.0.1:5000/")
    assert copies(mlflow_uri)[0].info.end_time == found.info.end_time
    # What run.yaml says of MLflow is a convenience; the copy is found without.
    base.note({"mlflow": {}})
    assert fedx("sync", str(base.path), "--json") == 0
    assert not any(answer(capsys)[0]["sent"].values())
    assert len(copies(mlflow_uri)) == 1


def test_another_mlflow_gets_a_copy_of_its_own_and_is_kept_up_to_date(
    fedx: Fedx, capsys: Said, base: RunFolder, mlflow_uri: str, empty_mlflow: Path, tmp_path: Path
) -> None:
    assert fedx("sync", "base") == 0
    shutil.copy(empty_mlflow, tmp_path / "other.db")
    assert fedx("sync", "base", "--to", "sqlite:///other.db") == 0
    capsys.readouterr()
    other = f"sqlite:///{tmp_path / 'other.db'}"
    noted = base.notes()["mlflow"]
    assert {uri: copy["run"] for uri, copy in noted.items()} == {
        uri: copies(uri)[0].info.run_id for uri in (mlflow_uri, other)
    }
    assert copies(other)[0].data.metrics == copies(mlflow_uri)[0].data.metrics
    # Later on both are meant.
    (base.results / "note.txt").write_text("new")
    assert fedx("sync", "base", "--json") == 0
    assert [(c["uri"], c["sent"]["files"] > 0) for c in answer(capsys)] == [
        (mlflow_uri, True), (other, True),
    ]  # fmt: skip


def test_an_mlflow_that_is_away_is_an_error_and_keeps_no_other_run_back(
    fedx: Fedx, capsys: Said, base: RunFolder, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copytree(base.path, base.path.with_name("away"))
    RunFolder(base.path.with_name("away")).note(
        {"run": "away", "mlflow": {"http://127.0.0.1:9": {}}}
    )
    assert fedx("sync", "--json") == 1
    said = capsys.readouterr()
    outcomes = json.loads(said.out)["copies"]
    assert [(c["run"], bool(c["error"])) for c in outcomes] == [("away", True), ("base", False)]
    error = json.loads(said.err.splitlines()[-1])["error"]
    assert error["code"] == "E_TRACKING"
    assert "1 of 2 copies lack something: MLflow at http://127.0.0.1:9" in error["message"]
    assert len(copies(mlflow_uri)) == 1


def test_a_run_that_goes_on_may_be_sent_and_stays_open(
    bed: Any, tiny_params: Path, mlflow_uri: str
) -> None:
    folders: list[RunFolder] = []
    counts: list[int] = []

    class Meddled(MlflowTracker):
        def began(self, folder: RunFolder, *more: Any) -> None:
            super().began(folder, *more)
            folders.append(folder)

        def logged(self, reports: Any) -> None:
            super().logged(reports)
            (outcome,) = sync(folders[0])
            assert outcome.error == ""
            assert copies(mlflow_uri)[0].info.status == "RUNNING"
            counts.append(len(steps(mlflow_uri, "sparsity")))

    request = Request(
        run="a", params=str(tiny_params), run_root=str(bed.runs), data_root=str(bed.data)
    )
    carry_out(
        settle(request),
        run_at="here",
        workers=1,
        display=live.display("nothing"),
        tracker=Meddled(mlflow_uri, pytest.fail),
    )
    assert counts == [1, 2, 3]
    assert steps(mlflow_uri, "sparsity") == [1, 2, 3]
    assert len(steps(mlflow_uri, "system/cpu_utilization_percentage")) == len(
        folders[0].system.read_text().splitlines()
    )
    assert copies(mlflow_uri)[0].info.status == "FINISHED"
    (outcome,) = sync(folders[0])
    assert outcome.sent == copying.Sent()


def test_points_that_are_sent_again_in_spite_of_all_are_not_kept_twice(
    base: RunFolder, mlflow_uri: str
) -> None:
    introduce(base, {}, mlflow_uri)
    found = record.read(base)
    for _ in range(2):
        copy = copying.open_copy(mlflow_uri, found)
        copy.rounds, copy.samples = set(), 0  # as if MLflow had been asked too early
        copying.send(copy, found)
    assert steps(mlflow_uri, "sparsity") == [1, 2, 3]
    assert steps(mlflow_uri, "wire/cumulative_mib") == [1, 2, 3]
    machine = steps(mlflow_uri, "system/process_memory_megabytes")
    assert machine == list(range(len(machine)))


def test_how_a_run_ended_is_read_from_its_folder(base: RunFolder, mlflow_uri: str) -> None:
    assert status_of(record.read(base)) == "FINISHED"
    # A killed run that had more rounds than its summary knows of.
    summary = json.loads((base.results / "summary.json").read_text())
    (base.results / "summary.json").write_text(json.dumps({**summary, "rounds": 2}))
    assert status_of(record.read(base)) is None
    (outcome,) = sync(base, mlflow_uri)
    assert (outcome.sent.rounds, outcome.sent.files, outcome.sent.version) == (3, 0, 0)
    doing = {"round": 4, "doing": "train", "time": time.time(), "host": platform.node()}
    now.path(base).write_text(json.dumps({**doing, "pid": os.getpid()}))
    assert status_of(record.read(base)) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    now.path(base).write_text(json.dumps({**doing, "pid": gone.pid}))
    assert status_of(record.read(base)) == "KILLED"
    now.path(base).unlink()
    base.note({"status": "KILLED"})
    assert status_of(record.read(base)) == "KILLED"
    (outcome,) = sync(base, mlflow_uri)
    assert outcome.sent.files > 0
    assert outcome.sent.version == 0
    assert copies(mlflow_uri)[0].info.status == "KILLED"


def test_runs_that_are_not_there_are_named(fedx: Fedx, capsys: Said, base: RunFolder) -> None:
    assert fedx("sync", "bse") == 1
    assert "no run 'bse' in runs; there are base" in capsys.readouterr().err
    assert fedx("sync", "--run-root", "nowhere", "--json") == 0
    assert answer(capsys) == []


CONTACTS = """
import sys, time
contacts = []
def heard(event, arguments):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and arguments[1][0] != "\\0"):
        contacts.append((event, arguments[-1]))
sys.addaudithook(heard)
from pathlib import Path
from flows.runs.run_folder import RunFolder
from flows.tracking.sync import sync
(outcome,) = sync(RunFolder(Path(sys.argv[1])), sys.argv[2])
assert outcome.sent.rounds == 3, outcome
import mlflow.telemetry
assert mlflow.telemetry.get_telemetry_client() is None
print(contacts)
"""


def test_sending_to_a_database_contacts_nobody(base: RunFolder, mlflow_uri: str) -> None:
    switches = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    done = subprocess.run(
        [sys.executable, "-c", CONTACTS, str(base.path), mlflow_uri],
        env={name: value for name, value in os.environ.items() if name not in switches}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # Nothing else either is printed: stdout belongs to the command.
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
