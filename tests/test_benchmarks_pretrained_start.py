"""The benchmark of pre-trained starts: a tiny federation from both starts, told and drawn."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from bed import ROOT, TINY, Bed, tiny
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("pretrained_start")


def test_starts_are_compared_seed_by_seed_and_drawn(
    start: Any, bed: Bed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(bed.runs)
    for share in ("1", "10"):
        folder = bed.runs / "data" / share
        folder.mkdir(parents=True)
        (folder / "eurosat").symlink_to(bed.data / "synthetic")
    settings = tiny(
        training__objective={"name": "simclr"}, method={"name": "fedavg"}, federation__rounds=1
    )
    list(federate(settings, bed.setting("encoder"), InProcess(1)))
    drawn_here = {name: value for name, value in TINY.items() if name.startswith("datasets.")}
    monkeypatch.setattr(start, "SHARED", {**start.SHARED, **drawn_here, "dataset": "synthetic"})
    monkeypatch.setattr(
        sys, "argv",
        ["pretrained_start.py", "--encoder", "encoder", "--shares", "1", "10", "--seeds", "1", "2",
         "--runs", "fedavg", "fedavg-pretrained", "--figure", "starts.svg",
         "--set", f"model.name={settings.model.name}", "--set", "federation.rounds=1"],
    )  # fmt: skip
    start.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[:3] for row in cells] == [
        [f"{share} %", name, "2"] for share in (1, 10) for name in ("fedavg", "fedavg-pretrained")
    ]
    for plain, pretrained in (cells[:2], cells[2:]):
        assert plain[3] == pretrained[3], "as many bytes from either start"
        assert plain[5] == "-"
        gain = float(pretrained[5].split()[0])
        assert gain == pytest.approx(float(pretrained[4]) - float(plain[4]), abs=0.011)
    drawn = Path("starts.svg").read_text()
    for word in ("fedavg, from random weights", "fedavg, from the encoder", "10 %"):
        assert word in drawn
    assert "fedx" not in drawn


def test_data_that_would_not_be_looked_at_is_refused(
    start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrained_start.py", "--data", "elsewhere"])
    with pytest.raises(SystemExit):
        start.main()
    assert "data/1, data/10 and data/100; leave it out" in capsys.readouterr().err
