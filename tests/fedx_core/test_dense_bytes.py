"""What FedAvg in float32 would have sent in the same rounds: counted, and really sent."""

from dataclasses import replace

import pytest

from bed import Bed, tiny
from fedx_core.base.config import ExperimentConfig
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.wire.messages import RoundReport, Traffic
from flows.runs.rows import ratio, ratios, rows

DENSE = {"method__name": "fedavg", "codec__name": "dense", "federation__rounds": 2}


def ran(bed: Bed, settings: ExperimentConfig, run: str = "run") -> list[RoundReport]:
    return list(federate(settings, bed.setting(run), InProcess(1)))


@pytest.mark.parametrize("batch_norm", ["aggregate", "recalibrate"])
def test_a_real_run_of_fedavg_sends_what_is_counted_as_dense(bed: Bed, batch_norm: str) -> None:
    reports = ran(bed, tiny(**DENSE, training__batch_norm=batch_norm))
    for report in reports:
        assert report.dense_bytes == report.downlink_bytes == report.uplink_bytes > 0
    found = ratio(reports)
    assert (found.down, found.up, found.total) == (1, 1, 1)


def test_half_of_the_cohort_counts_half_and_pruning_shows_as_a_ratio(bed: Bed) -> None:
    whole = ran(bed, tiny(**DENSE))[0].dense_bytes
    settings = tiny(federation__participation=0.4, method__warmup_rounds=1)
    reports = ran(bed, settings, "pruned")
    assert [report.dense_bytes for report in reports] == [whole * 2 // 3] * 3
    first, *_, last = (row["wire_ratio_total"] for row in rows(reports))
    assert (first, last) == (1, ratio(reports).total)
    assert isinstance(last, float)
    sent = sum(r.downlink_bytes + r.mask_bytes + r.uplink_bytes for r in reports)
    assert last == pytest.approx(6 * reports[0].dense_bytes / sent)
    assert last > 1


def report(dense: int, traffic: Traffic) -> RoundReport:
    return RoundReport(
        round_index=1, rounds=1, cohort=("a",), failures=(), metrics={}, metrics_before_pruning={},
        pruned=False, traffic={"a": traffic}, paper_bytes=0, dense_bytes=dense, sparsity=0.0,
        units_kept={}, train_loss=0.0, seconds={},
    )  # fmt: skip


def test_retries_are_apart_and_masks_are_sent_down() -> None:
    found = ratio([report(100, Traffic(downlink=15, mask=5, uplink=5, retry=999))])
    assert (found.down, found.up, found.total) == (5, 20, 8)


def test_nothing_is_said_of_what_is_not_known() -> None:
    drawn = report(100, Traffic(uplink=10))
    assert ratio([drawn]).down is None
    assert ratio([drawn]).total == 20
    earlier = report(0, Traffic(downlink=10, uplink=10))
    assert {r.total for r in ratios([earlier, drawn])} == {None}
    assert ratio([replace(earlier, traffic={})]).total is None
