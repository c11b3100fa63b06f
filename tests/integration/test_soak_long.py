"""Hundreds of rounds in which the network breaks and clients die: nothing grows or is lost."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mortal
from bed import Bed, tiny
from coordinators import final_state, start
from fault_proxy import Fault, FaultProxy
from fedx_core.record.journal import Journal
from fedx_core.rounds.retention import collect_garbage
from fedx_core.store import open_store
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from long_tier import measured, times

pytestmark = [pytest.mark.integration, pytest.mark.long]

ROUNDS = max(5, times(500))
KILLED = 0.04
"""Share of the tries in which the client's process is killed."""


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy


def test_nothing_grows_and_nothing_is_lost_over_hundreds_of_rounds(
    s3: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    import boto3

    settings = tiny(
        datasets__synthetic__partition__clients=10,
        federation__rounds=ROUNDS,
        federation__min_reports=7,
        method__warmup_rounds=2,
    )
    for stage in (prepare, partition, reference):
        stage(settings, "synthetic", tmp_path / "data")
    bed = Bed(tmp_path / "data", tmp_path / "runs")
    setting = bed.setting()
    setting = replace(setting, place=replace(setting.place, store=f"{s3}/soak"))
    proxy.faults = (
        Fault(kind="error", rate=0.002),
        Fault(kind="lose", rate=0.002),
        Fault(kind="reset", rate=0.002),
        Fault(kind="cut", rate=0.002, match="^GET"),
    )
    figures = tmp_path / "figures.json"
    process = start(mortal.soak, settings, setting, KILLED, figures)
    process.join(12 * 3600)
    assert process.exitcode == 0
    faults = sum(proxy.hits(fault) for fault in proxy.faults)
    proxy.faults = ()
    found = json.loads(figures.read_text())
    killed = {(r, client): n for purpose, r, client, n in found["killed"] if purpose == "train"}
    journal = Journal(open_store(setting.place.store))
    closings = [closed for n in range(1, ROUNDS + 1) if (closed := journal.closed(n)) is not None]
    lost = {c.round_index: [f.client for f in c.failures] for c in closings if c.failures}
    rows = np.array(found["rows"])
    later = rows[len(rows) // 5 :]  # caches have filled, and the model is pruned
    slope = float(np.polyfit(np.arange(len(later)), later[:, 0], 1)[0]) * 100
    collect_garbage(setting.place, settings.federation.keep_states)
    bucket = boto3.Session().resource("s3").Bucket("fedx")
    objects = Counter(found.key.split("/")[1] for found in bucket.objects.filter(Prefix="soak/"))
    measured(
        "a soak with 10 clients",
        rounds=ROUNDS,
        seconds_a_round=round(float(np.diff(rows[:, 4]).mean()), 2),
        MiB_of_memory_more_in_100_rounds=round(slope, 2),
        MiB_of_a_client_at_most=round(rows[:, 3].max()),
        open_files=f"{later[:, 1].min():.0f} to {later[:, 1].max():.0f}",
        threads=f"{later[:, 2].min():.0f} to {later[:, 2].max():.0f}",
        faults=faults,
        clients_killed=len(found["killed"]),
        clients_lost=sum(map(len, lost.values())),
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

    assert killed
    everybody = [f"client-{n:02d}" for n in range(10)]
    assert len(closings) == ROUNDS
    for closed in closings:
        counted = [report.client for report in closed.reports]
        assert sorted(counted + lost.get(closed.round_index, [])) == everybody
        for report in closed.reports:
            assert report.attempt == killed.get((closed.round_index, report.client), -1) + 1
    last = settings.federation.attempts - 1
    assert {(r, c) for r, names in lost.items() for c in names} == {
        place for place, n in killed.items() if n == last
    }
    again = start(mortal.replay, settings, bed.setting("replayed"), lost)
    again.join(12 * 3600)
    assert again.exitcode == 0
    assert final_state(setting) == final_state(bed.setting("replayed"))
