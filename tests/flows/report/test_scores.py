"""Scores by client beside what label frequencies alone would get."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from bed import tiny
from fedx_core.base import config
from fedx_core.images import set_folder
from fedx_core.learning import evaluation
from flows.report import scores
from flows.report.gather import gather
from flows.running.experiment import carry_out, settle
from flows.runs.live import display
from flows.settings.request import Request
from flows.tracking import NoTracker

Fedx = Callable[..., int]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Folder with one run of one round, a client a country, several labels per image."""
    root = tmp_path_factory.mktemp("countries")
    settings = tiny(dataset="countries", method__name="fedavg", federation__rounds=1)
    params = root / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(settings), sort_keys=False))
    request = Request(
        run="base", params=str(params), run_root=str(root / "runs"), data_root=str(tiny_data)
    )
    order = settle(request)
    carry_out(order, run_at="here", workers=1, display=display("nothing"), tracker=NoTracker())
    return root / "runs"


def test_each_country_has_its_images_its_score_and_its_floor(runs: Path, tiny_data: Path) -> None:
    (run,) = gather(runs, ["base"])
    table = scores.by_client("countries", [run])
    assert table is not None
    rows = {str(row["client"]): row for row in table.as_rows()}
    prepared = set_folder.read(tiny_data / "countries" / "prepared")
    train = prepared.parts["train"]
    names = [name.lower() for name in prepared.description.group_names]
    assert set(rows) == {names[index] for index in np.unique(train.groups)}
    test = prepared.parts["test"]
    shares = train.labels.mean(0)
    for name, row in rows.items():
        own = test.labels[test.groups == names.index(name)]
        assert row["images"] == len(own)
        if len(own):
            wanted = evaluation.label_frequency_scores(shares, own)["label_frequency_micro_map"]
            assert row[scores.FREQUENCIES] == pytest.approx(wanted, abs=1e-6)
            assert row["base"] == run.summary["per_client"][name]["micro_map"]


def test_the_report_has_the_floor_of_all_test_images(runs: Path) -> None:
    (run,) = gather(runs, ["base"])
    floor = scores.section([run]).tables[0]
    found = {row["metric"]: row for row in floor.as_rows()}
    for name in ("micro_map", "macro_map"):
        assert found[name]["base"] == run.summary["metrics"][name]
        known = run.summary["metrics"][f"label_frequency_{name}"]
        assert found[name][scores.FREQUENCIES] == known


def test_single_labels_have_no_floor(two_runs: Path) -> None:
    found = gather(two_runs, ["base", "chance"])
    tables = scores.section(found).tables
    assert all(scores.FREQUENCIES not in [c.title for c in table.columns] for table in tables)


def test_compare_shows_scores_by_client(
    fedx: Fedx, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fedx("compare", "base", "--by-client", "--run-root", str(runs)) == 0
    said = capsys.readouterr().out
    assert "own test images of countries" in said
    assert "label frequencies" in said
    assert fedx("compare", "base", "--by-client", "--json", "--run-root", str(runs)) == 0
    found = json.loads(capsys.readouterr().out)["by_client"]["scores-by-client-countries"]
    assert {"client", "images", "base", "label frequencies"} == set(found[0])
