"""Advice by real trials of two tiny candidates, and by those that were stopped."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import tiny_resnet6
from fedx_core.base import config
from fedx_core.base.errors import ConfigError, ReferenceSetError
from flows.advise import candidates, trials
from flows.advise.costs import budget_of
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from flows.sweeps import sweep
from sweeping import Here

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
MIB = 2**20
ACCURACY = "overall_accuracy"


def asked(resnet6_params: Path, budget: str) -> trials.Asked:
    return trials.asked(resnet6_params, {}, budget_of(budget), None, None, 1)


def test_a_budget_below_one_round_of_the_cheapest_says_what_the_least_is(
    resnet6_params: Path, tiny_data: Path
) -> None:
    what = asked(resnet6_params, "1KiB")
    data = trials.opened(tiny_data, what.settings)
    with pytest.raises(ConfigError, match=r"not one round .* support0.05-1.28bits") as refused:
        trials.plan(candidates.read(), what, data)
    least = str(refused.value).rpartition("give --budget ")[2].partition(" ")[0]
    planned = trials.plan(candidates.read(), asked(resnet6_params, least), data)
    assert [one.candidate.name for one in planned if one.rounds] == ["support0.05-1.28bits"]


def test_without_a_tuning_part_and_without_a_link_the_errors_say_what_to_do(
    tmp_path: Path, resnet6_params: Path
) -> None:
    settings = tiny_resnet6(datasets__synthetic__reference__per_class=60)
    for stage in (prepare, partition, reference):
        stage(settings, "synthetic", tmp_path)
    with pytest.raises(ReferenceSetError, match=r"no tuning part.* lower .*per_class"):
        trials.opened(tmp_path, settings)
    with pytest.raises(ConfigError, match="--down 50 --up 10"):
        asked(resnet6_params, "2h")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials run in this process; returns the names of those that ran."""
    ran: list[str] = []

    class InThisProcess(Here):
        def __init__(self, places: sweep.Places, **_: Any) -> None:
            super().__init__(places)
            self.ran = ran

        def stop(self) -> None:
            """Nothing lives on."""

    monkeypatch.setattr(sweep, "Processes", InThisProcess)
    return ran


def test_two_candidates_are_tried_chosen_between_and_the_answer_runs(
    fedx: Fedx, capsys: Said, here: list[str], resnet6_params: Path
) -> None:
    Path("two.yaml").write_text(
        yaml.safe_dump({
            "base": {"method": {"name": "fedavg"}, "federation.first_model": "seed"},
            "candidates": {
                "dense": {"codec": {"name": "dense"}},
                "coded": {"codec": {"name": "deadzone", "bits": 1.28}},
            },
        })
    )  # fmt: skip
    command = (
        "advise", "synthetic", "--params", str(resnet6_params), "--candidates", "two.yaml",
        "--trial-rounds", "2", "--json",
    )  # fmt: skip

    assert fedx(*command, "--budget", "50MiB", "--dry-run") == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["trials"], planned["trial_rounds"]) == (2, 4)
    assert not Path("advise").exists()

    assert fedx(*command, "--budget", "50MiB", "--down", "50", "--up", "10") == 0
    wide = json.loads(capsys.readouterr().out)
    rows = {row["candidate"]: row for row in wide["candidates"]}
    best = max(rows.values(), key=lambda row: (row["score"], -row["mib"]))
    assert wide["chosen"] == best["candidate"]
    assert (best["rounds"], best["trial_rounds"]) == (3, 2)
    assert len(here) == 2
    # What was forecast for a lossless codec is what is sent.
    forecast = {row["candidate"]: row["mib"] for row in planned["candidates"]}
    assert rows["dense"]["mib"] == forecast["dense"]
    assert rows["coded"]["mib"] == pytest.approx(forecast["coded"], rel=0.3)
    for row in rows.values():
        trial = next(Path("advise/trials").glob(f"{row['candidate']}-*"))
        last = json.loads((trial / "results" / "rounds.json").read_text())[-1]
        assert row["score"] == last["validation"][ACCURACY]
    assert sorted(path.name for path in Path("advise").iterdir()) == [
        "accuracy-by-mib.png", "accuracy-by-mib.svg", "advice.json", "candidates.csv",
        "params.yaml", "trials",
    ]  # fmt: skip
    assert "budget" in Path("advise/accuracy-by-mib.svg").read_text()

    # Too little for a dense round: cut out, said so, and the coded trial is not run again.
    assert fedx(*command, "--budget", "2MiB") == 0
    tight = json.loads(capsys.readouterr().out)
    assert tight["chosen"] == "coded"
    assert len(here) == 2
    with Path("advise/candidates.csv").open() as file:
        remarks = {row["candidate"]: row["remark"] for row in csv.DictReader(file)}
    assert remarks == {"coded": "", "dense": "left out: not one round fits"}

    settings = config.load("advise/params.yaml")
    assert settings.codec.down.name == "deadzone"
    assert settings.federation.selection is None
    quietly = ("--no-engine", "--track", "nothing", "--workers", "1", "--run", "advised")
    assert fedx("run", "--params", "advise/params.yaml", *quietly) == 0
    summary = json.loads(Path("runs/advised/results/summary.json").read_text())
    assert summary["wire_bytes"]["total"] <= 2 * MIB
    assert summary["wire_bytes"]["total"] / MIB == pytest.approx(
        next(row["mib"] for row in tight["candidates"] if row["candidate"] == "coded"), rel=0.2
    )


def test_a_trial_that_was_stopped_goes_on_where_it_was(
    fedx: Fedx, capsys: Said, here: list[str], resnet6_params: Path
) -> None:
    command = (
        "advise", "--params", str(resnet6_params), "--only", "support0.05-1.28bits",
        "--trial-rounds", "1", "--budget", "5MiB",
    )  # fmt: skip
    assert fedx(*command) == 0
    said = capsys.readouterr()
    assert "Take support0.05-1.28bits: method fedavg, codec deadzone (bits 1.28)" in said.out
    assert "fedx run --params advise/params.yaml" in said.out
    (trial,) = Path("advise/trials").glob("support*")
    first = (trial / "results" / "rounds.json").read_bytes()
    (trial / "results" / "summary.json").unlink()  # as if killed before its end
    assert fedx(*command) == 0
    assert here == [trial.name] * 2
    assert (trial / "results" / "rounds.json").read_bytes() == first
    assert fedx(*command) == 0
    assert len(here) == 2
