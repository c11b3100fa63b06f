from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from bed import Bed
from fedx_core.federation import history
from fedx_core.store import open_store
from flows import live
from flows.experiment import Request, carry_out, settle
from flows.tracking import MlflowTracker

# MLflow 3.17, and Prefect 3.8 in the same process, map tables in ways that SQLAlchemy 2.1 is about
# to drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning",
    "ignore:Type object <class 'prefect.server:sqlalchemy.exc.SADeprecationWarning",
)


def run(bed: Bed, params: Path, uri: str, warnings: list[str], **more: Any) -> None:
    request = Request(
        run="a", params=str(params), run_root=str(bed.runs), data_root=str(bed.data), **more
    )
    carry_out(
        settle(request),
        run_at="here",
        workers=1,
        display=live.display("nothing"),
        tracker=MlflowTracker(uri, warnings.append),
    )


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def steps(client: MlflowClient, name: str) -> list[int]:
    (found,) = client.search_runs([client.get_experiment_by_name("fedx").experiment_id])
    return [metric.step for metric in client.get_metric_history(found.info.run_id, name)]


def test_a_resumed_run_goes_on_in_mlflow_without_duplicates(
    bed: Bed, tiny_params: Path, uri: str
) -> None:
    warnings: list[str] = []
    run(bed, tiny_params, uri, warnings, rounds=2)
    run(bed, tiny_params, uri, warnings, resume=True, rounds=4)
    assert warnings == []

    client = MlflowClient(tracking_uri=uri)
    assert steps(client, "test/overall_accuracy") == [1, 2, 3, 4]
    assert steps(client, "before_pruning/overall_accuracy") == [2]
    (found,) = client.search_runs([client.get_experiment_by_name("fedx").experiment_id])
    assert found.info.run_name == "a"
    assert found.info.status == "FINISHED"
    assert found.data.params["method.pruning_rate"] == "0.5"
    assert found.data.params["data.source.image_size"] == "32"
    assert found.data.tags["fedx.run"] == "a"

    reports = history(open_store(str(bed.runs / "a" / "store")))
    for name, counted in (
        ("wire/total_bytes", [r.wire_bytes for r in reports]),
        ("paper/bytes", [r.paper_bytes for r in reports]),
    ):
        logged = client.get_metric_history(found.info.run_id, name)
        assert [metric.value for metric in logged] == counted
    assert found.data.metrics["wire/cumulative_mib"] == pytest.approx(
        sum(r.wire_bytes for r in reports) / 2**20
    )
    model = Path(client.download_artifacts(found.info.run_id, "model.safetensors"))
    assert model.read_bytes() == (bed.runs / "a" / "model.safetensors").read_bytes()


def test_mlflow_that_is_away_costs_one_warning_and_is_caught_up_with(
    bed: Bed, tiny_params: Path, uri: str, tmp_path: Path
) -> None:
    warnings: list[str] = []
    (tmp_path / "file").touch()
    away = f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"
    run(bed, tiny_params, away, warnings, rounds=2)
    assert len(warnings) == 1
    assert "does not answer" in warnings[0]
    assert (bed.runs / "a" / "model.safetensors").exists()
    assert len(history(open_store(str(bed.runs / "a" / "store")))) == 2

    run(bed, tiny_params, uri, warnings, resume=True, rounds=3)
    assert len(warnings) == 1
    assert steps(MlflowClient(tracking_uri=uri), "sparsity") == [1, 2, 3]
