"""Hundreds of rounds through a network that now and then breaks: nothing grows."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

import coordinators
from bed import Bed, tiny
from fault_proxy import Fault, FaultProxy
from fedx_core.config import ExperimentConfig
from fedx_core.federation import federate
from fedx_core.retention import collect_garbage
from fedx_core.runtime import InProcess
from fedx_core.start import Setting
from flows.partition import partition
from flows.prepare import prepare
from flows.reference import reference
from long_tier import measured, times

pytestmark = [pytest.mark.integration, pytest.mark.long]

ROUNDS = max(5, times(500))


def soak(settings: ExperimentConfig, setting: Setting, figures: Path) -> None:
    """Run a federation, and write down after each round what its process holds."""
    me, found = psutil.Process(), []
    for report in federate(settings, setting, InProcess(2)):
        held = (me.memory_info().rss / 2**20, me.num_fds(), me.num_threads())
        found.append([*held, len(report.failures), report.retry_bytes])
    figures.write_text(json.dumps(found))


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


def test_nothing_grows_over_hundreds_of_rounds(s3: str, proxy: FaultProxy, tmp_path: Path) -> None:
    import boto3

    settings = tiny(
        datasets__synthetic__partition__clients=10,
        federation__rounds=ROUNDS,
        method__warmup_rounds=2,
    )
    for stage in (prepare, partition, reference):
        stage(settings, "synthetic", tmp_path / "data")
    setting = Bed(tmp_path / "data", tmp_path / "runs").setting()
    setting = replace(setting, place=replace(setting.place, store=f"{s3}/soak"))
    proxy.faults = (
        Fault(kind="error", rate=0.002),
        Fault(kind="lose", rate=0.002),
        Fault(kind="reset", rate=0.002),
        Fault(kind="cut", rate=0.002, match="^GET"),
    )
    figures = tmp_path / "figures.json"
    process = coordinators.start(soak, settings, setting, figures)
    process.join(12 * 3600)
    assert process.exitcode == 0
    faults = sum(proxy.hits(fault) for fault in proxy.faults)
    proxy.faults = ()
    rows = np.array(json.loads(figures.read_text()))
    later = rows[len(rows) // 5 :]  # caches have filled, and the model is pruned
    slope = float(np.polyfit(np.arange(len(later)), later[:, 0], 1)[0]) * 100
    collect_garbage(setting.place, settings.federation.keep_states)
    bucket = boto3.Session().resource("s3").Bucket("fedx")
    objects = Counter(found.key.split("/")[1] for found in bucket.objects.filter(Prefix="soak/"))
    measured(
        "a soak with 10 clients",
        rounds=ROUNDS,
        MiB_of_memory_more_in_100_rounds=round(slope, 2),
        open_files=f"{later[:, 1].min():.0f} to {later[:, 1].max():.0f}",
        threads=f"{later[:, 2].min():.0f} to {later[:, 2].max():.0f}",
        faults=faults,
        clients_lost=int(rows[:, 3].sum()),
        objects_left=sum(objects.values()),
    )
    expected = {
        "run.json": 1,
        "journal": 3 * ROUNDS + 1,
        "plans": 1,
        "states": settings.federation.keep_states,
        "pruning": 2,
        "masks-units": 1,
    }
    assert objects == expected
    assert np.ptp(later[:, 1]) <= 8
    assert np.ptp(later[:, 2]) <= 4
    if ROUNDS >= 200:  # below that, noise is larger
        assert slope < 1
