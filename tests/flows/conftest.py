import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import flows  # noqa: F401  switches telemetry off before Prefect is imported
from bed import tiny, tiny_resnet6
from fedx_core.base import config
from flows.runs.run_folder import RunFolder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server with a database of its own, for the whole session."""
    from prefect.testing.utilities import prefect_test_harness

    from flows.prefect import own_server

    own_server.protect()  # as the server of a run
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def tiny_params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny federation's settings as a file."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(config.as_plain(tiny()), sort_keys=False))
    return path


@pytest.fixture(scope="session")
def resnet6_params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with ResNet6 as it is."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(config.as_plain(tiny_resnet6()), sort_keys=False))
    return path


Fedx = Callable[..., int]


@pytest.fixture
def fedx(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_data: Path, tiny_params: Path
) -> Fedx:
    """Call the command as a shell would, in an empty folder; returns the exit code."""
    from flows.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDX_DATA_ROOT", str(tiny_data))

    def call(*arguments: str) -> int:
        if arguments[0] == "run" and "--params" not in arguments:
            arguments = (*arguments, "--params", str(tiny_params))
        monkeypatch.setattr(sys, "argv", ["fedx", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    return call


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Folder of a run of three rounds, pruned after the second, that no MLflow knows of."""
    from flows.running.experiment import carry_out, settle
    from flows.runs.live import display
    from flows.settings.request import Request
    from flows.tracking import NoTracker

    root = tmp_path_factory.mktemp("finished")
    params = root / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(tiny()), sort_keys=False))
    order = settle(
        Request(run="base", params=str(params), run_root=str(root), data_root=str(tiny_data))
    )
    carry_out(order, run_at="here", workers=1, display=display("nothing"), tracker=NoTracker())
    return order.folder.path


@pytest.fixture
def base(finished_run: Path, tmp_path: Path) -> RunFolder:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished_run, tmp_path / "runs" / "base")
    return RunFolder(tmp_path / "runs" / "base")


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow with its tables; making them takes several seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        # MLflow 3.17 maps tables in a way that SQLAlchemy 2.1 is about to drop.
        warnings.simplefilter("ignore")
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_uri(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of MLflow for one test."""
    shutil.copy(empty_mlflow, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri
