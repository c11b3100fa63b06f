"""Many small clients in a round come to the same, however they are carried."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from bed import ROOT


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    jobs: Any = importlib.import_module("jobs")
    monkeypatch.setattr(jobs, "EVALUATED", 8)
    return importlib.import_module("runtimes")


def test_groups_of_clients_come_to_what_one_after_another_does(
    runtimes: Any, tmp_path: Path, prefect_server: None
) -> None:
    jobs: Any = importlib.import_module("jobs")
    job = jobs.Job(model="resnet6", clients=25, images=2)
    jobs.write(job, tmp_path)
    found = {
        name: runtimes.measure(job, runtimes.BY_NAME[name], tmp_path, rounds=1, workers=2)
        for name in ("here", "threads-20")
    }
    assert found["here"]["model"] == found["threads-20"]["model"]
    seen = {name: one | {"pss_megabytes": 0.0} for name, one in found.items()}
    assert "differ" not in runtimes.table(seen, 25)
    seen["here"]["model"] = "another"
    assert runtimes.table(seen, 25).endswith("The models differ, which they must not.")
