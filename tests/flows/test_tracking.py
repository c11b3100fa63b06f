import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from bed import NARROW, Bed
from fedx_core.rounds.federation import history
from fedx_core.store import open_store
from flows.running.experiment import carry_out, settle
from flows.runs import live
from flows.runs.run_folder import RunFolder
from flows.settings.request import Request
from flows.tracking import MlflowTracker

# MLflow 3.17, and Prefect 3.8 in the same process, map tables in ways that SQLAlchemy 2.1 is about
# to drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning",
    "ignore:Type object <class 'prefect.server:sqlalchemy.exc.SADeprecationWarning",
)


def run(bed: Bed, params: Path, tracker: MlflowTracker, **more: Any) -> RunFolder:
    request = Request(
        run="a", params=str(params), run_root=str(bed.runs), data_root=str(bed.data), **more
    )
    order = settle(request)
    carry_out(order, run_at="here", workers=1, display=live.display("nothing"), tracker=tracker)
    return order.folder


def only_run(client: MlflowClient) -> Run:
    experiment = client.get_experiment_by_name("fedx")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def steps(client: MlflowClient, name: str) -> list[int]:
    history = client.get_metric_history(only_run(client).info.run_id, name)
    return [metric.step for metric in history]


def test_a_resumed_run_goes_on_in_mlflow_without_duplicates(
    bed: Bed, tiny_params: Path, mlflow_uri: str
) -> None:
    warnings: list[str] = []
    said: list[str] = []
    run(bed, tiny_params, MlflowTracker(mlflow_uri, warnings.append, said.append), rounds=2)
    folder = run(
        bed,
        tiny_params,
        MlflowTracker(mlflow_uri, warnings.append, said.append),
        resume=True,
        rounds=4,
    )
    assert warnings == []

    client = MlflowClient(tracking_uri=mlflow_uri)
    found = only_run(client)
    assert steps(client, "test/overall_accuracy") == [1, 2, 3, 4]
    assert steps(client, "before_pruning/overall_accuracy") == [2]
    machine = steps(client, "system/cpu_utilization_percentage")
    assert machine == list(range(len(folder.system.read_text().splitlines())))
    assert (found.info.run_name, found.info.status) == ("a", "FINISHED")
    assert found.data.params["method.pruning_rate"] == "0.5"
    assert found.data.params["data.source.image_size"] == "32"
    assert found.data.tags["fedx.run"] == "a"
    # A parameter can't be changed, so what a resumed run asks for is a tag.
    assert (found.data.params["federation.rounds"], found.data.tags["fedx.rounds"]) == ("2", "4")

    reports = history(open_store(str(folder.path / "store")))
    for name, counted in (
        ("wire/total_bytes", [r.wire_bytes for r in reports]),
        ("paper/bytes", [r.paper_bytes for r in reports]),
    ):
        logged = client.get_metric_history(found.info.run_id, name)
        assert [metric.value for metric in logged] == counted
    assert found.data.metrics["wire/cumulative_mib"] == pytest.approx(
        sum(r.wire_bytes for r in reports) / 2**20
    )

    noted = folder.notes()
    copy = noted["mlflow"][mlflow_uri]
    assert copy["run"] == found.info.run_id
    assert copy["charts"] in said[-1]
    assert found.data.tags["fedx.id"] == noted["id"]
    # Rounds two and four each left a model; neither took the other's files.
    versions = client.search_model_versions(f"name = 'fedx-synthetic-{NARROW}'")
    assert sorted(v.tags["fedx.round"] for v in versions) == ["2", "4"]
    newest = max(versions, key=lambda v: int(v.version))
    place = Path(client.get_model_version_download_uri(newest.name, newest.version)).name
    model = client.download_artifacts(found.info.run_id, f"models/{place}/model.safetensors")
    assert Path(model).read_bytes() == folder.model.read_bytes()


def test_mlflow_that_is_away_is_said_and_is_caught_up_with(
    bed: Bed, tiny_params: Path, mlflow_uri: str, tmp_path: Path
) -> None:
    warnings: list[str] = []
    (tmp_path / "file").touch()
    away = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    folder = run(bed, tiny_params, MlflowTracker(away, warnings.append), rounds=2)
    assert f"`fedx sync {folder.path}` sends the rest" in warnings[-1]
    assert away in warnings[-1]
    assert folder.model.exists()

    warnings.clear()
    run(bed, tiny_params, MlflowTracker(mlflow_uri, warnings.append), resume=True, rounds=3)
    assert warnings == []
    assert steps(MlflowClient(tracking_uri=mlflow_uri), "sparsity") == [1, 2, 3]


@pytest.fixture
def silent() -> Iterator[tuple[str, threading.Event]]:
    """A server that takes connections and never answers; an event says that one has asked."""
    asked = threading.Event()
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    if connection.recv(1):
                        asked.set()
            except OSError:
                return  # the test is over

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()
    thread.join()


def test_rounds_go_on_while_a_server_keeps_its_answer_back(
    bed: Bed, tiny_params: Path, silent: tuple[str, threading.Event]
) -> None:
    uri, asked = silent
    events: list[str] = []

    class Seen(MlflowTracker):
        def began(self, *arguments: Any) -> None:
            super().began(*arguments)
            assert asked.wait(60)  # from here on the thread hangs in a request
            events.append("asked")

        def logged(self, reports: Any) -> None:
            super().logged(reports)
            assert self._thread is not None
            assert self._thread.is_alive()
            events.append(f"round {len(reports)}")

    folder = run(
        bed,
        tiny_params,
        Seen(uri, events.append, events.append, patience={"FINISHED": 0.05}),
        rounds=3,
    )
    # The server has answered nothing, or there would be a warning among the rounds.
    assert events[:4] == ["asked", "round 1", "round 2", "round 3"]
    (last,) = events[4:]
    assert "it is still busy after 0.05 s" in last
    assert f"`fedx sync {folder.path}`" in last
    assert folder.notes()["mlflow"] == {uri: {}}
    assert folder.notes()["status"] == "FINISHED"


def test_a_run_that_fails_before_its_first_round_is_told_apart(
    bed: Bed, tiny_params: Path, mlflow_uri: str
) -> None:
    class Stopped(MlflowTracker):
        def logged(self, reports: Any) -> None:
            super().logged(reports)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(bed, tiny_params, Stopped(mlflow_uri, pytest.fail, patience={"KILLED": 60.0}))
    client = MlflowClient(tracking_uri=mlflow_uri)
    assert only_run(client).info.status == "KILLED"
    assert steps(client, "sparsity") == [1]
    assert client.search_registered_models() == []


def test_runs_that_open_a_new_database_together_all_find_it(tmp_path: Path) -> None:
    code = (
        "from flows.tracking import places; "
        f"print(len(places.connect('sqlite:///{tmp_path}/mlflow.db').search_experiments()))"
    )
    command = [sys.executable, "-c", code]
    begun = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in begun] == ["1", "1", "1"]
