import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bed import tiny
from fedx_core.wire.messages import ClientFailure
from flows.runs import record
from flows.runs.rows import ratio, rows
from flows.runs.run_folder import RunFolder
from flows.tracking import content

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_parameters_are_flat_of_one_data_set_and_cut_where_they_are_long() -> None:
    flat = content.flat_parameters(tiny(datasets__synthetic__source__image_size=32))
    assert flat["method.pruning_rate"] == "0.5"
    assert flat["data.source.image_size"] == "32"
    assert not [name for name in flat if name.startswith(("datasets", "prepare"))]
    long = content._cut("x" * 501)
    assert (len(long), long[-33:]) == (500, "xx ... (cut; config.yaml has all)")
    assert content._cut("x" * 500) == "x" * 500


def test_names_hold_only_what_mlflow_takes() -> None:
    assert content.named("test/Arable land, permanent (a)") == "test/Arable land_ permanent _a_"


def test_ledgers_accumulate_apart_at_the_steps_of_the_scores(base: RunFolder) -> None:
    found = record.read(base)
    points = list(content.round_points(found.reports, BEGAN, ()))
    for name, amounts in (
        ("wire/cumulative_mib", [r.wire_bytes for r in found.reports]),
        ("paper/cumulative_mib", [r.paper_bytes for r in found.reports]),
    ):
        values = [p.value * 2**20 for p in points if p.key == name]
        assert values == pytest.approx([sum(amounts[: n + 1]) for n in range(3)])
    ratios = [p.value for p in points if p.key == "wire/ratio_total"]
    assert ratios == [ratio(found.reports[: n + 1]).total for n in range(3)]
    assert ratios[0] == 1 < ratios[2]
    places = {
        name: [(p.step, p.timestamp) for p in points if p.key == name]
        for name in ("test/overall_accuracy", "wire/cumulative_mib", "sparsity")
    }
    assert len({tuple(place) for place in places.values()}) == 1
    assert [step for step, _ in places["sparsity"]] == [1, 2, 3]
    # The pruning event halves every layer, and the paper's count of bytes follows.
    layers = {p.value for p in points if p.key.startswith("layer_sparsity/") and p.step == 3}
    assert layers == {0.5}
    assert {p.value for p in points if p.key.startswith("layer_sparsity/") and p.step == 1} == {0.0}


def test_rounds_that_are_there_are_left_out_and_do_not_change_the_others(base: RunFolder) -> None:
    found = record.read(base)
    every = list(content.round_points(found.reports, BEGAN, ()))
    assert list(content.round_points(found.reports, BEGAN, {1, 2})) == [
        point for point in every if point.step == 3
    ]
    # What says that a round is there comes after all else of it.
    for number in (1, 2, 3):
        assert [p.key for p in every if p.step == number][-1] == content.LAST_OF_ROUND


def test_values_that_are_no_numbers_are_left_out(base: RunFolder) -> None:
    report = replace(record.read(base).reports[0], train_loss=float("nan"))
    numbers = content.round_metrics(report)
    assert "train/loss" not in numbers
    assert "sparsity" in numbers


def test_a_methods_own_numbers_have_names_of_their_own(base: RunFolder) -> None:
    report = replace(record.read(base).reports[0], method_metrics={"churn": 0.25})
    assert content.round_metrics(report)["method/churn"] == 0.25
    assert rows([report])[0]["method_churn"] == 0.25


def test_the_table_of_clients_adds_up_to_the_ledger_and_names_the_lost(base: RunFolder) -> None:
    reports = list(record.read(base).reports)
    lost = reports[0].cohort[0]
    reports[0] = replace(
        reports[0],
        failures=(ClientFailure(client=lost, attempt=1, reason="E_RUN: gone"),),
        client_metrics={c: v for c, v in reports[0].client_metrics.items() if c != lost},
    )
    table = json.loads(content.client_table(reports))
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["round"], row["client"]) for row in rows] == [
        (report.round_index, client) for report in reports for client in report.cohort
    ]
    for report in reports:
        here = [row for row in rows if row["round"] == report.round_index]
        kinds = ("downlink_bytes", "uplink_bytes", "mask_bytes", "retry_bytes")
        assert sum(row[kind] for row in here for kind in kinds) == report.wire_bytes
    assert (rows[0]["lost"], rows[0]["examples"]) == ("E_RUN: gone", None)
    assert rows[1]["lost"] == ""
    assert sum(row["examples"] for row in rows if row["round"] == 2) == 96
