import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import flows  # noqa: F401  switches telemetry off before Prefect is imported
from bed import tiny
from fedx_core import config


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server with a database of its own, for the whole session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def tiny_params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny federation's settings as a file."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(config.as_plain(tiny()), sort_keys=False))
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
