"""A run whose test images bear no label: it ends, and says which scores it could not compute."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as pillow

from bed import ROOT

Fedx = Callable[..., int]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings of two clients whose training images bear labels, and whose test images none."""
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = ["file,forest,water,quarry,split"]
    for number in range(36):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pillow.fromarray(pixels).save(raw / f"{number}.png")
        split = ("train", "validation", "test")[number % 3]
        labels = "0,0,0" if split == "test" else f"{number % 2},1,0"
        lines.append(f"{number}.png,{labels},{split}")
    (raw / "labels.csv").write_text("\n".join(lines))
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["datasets"] = {
        "blank": {
            "source": {"name": "folder", "source": str(raw), "labels": "labels.csv"},
            "partition": {"name": "iid", "clients": 2},
            "reference": {"per_class": 1, "absent": "skip"},
        }
    }
    values |= {"dataset": "blank", "prepare": ["blank"], "method": {"name": "fedavg"}}
    values["training"] |= {"epochs": 1, "batch_size": 8, "device": "cpu"}
    values["federation"] |= {
        "rounds": 2,
        "selection": {"metric": "loss", "patience": 0, "min_delta": 0.0},
    }
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("method", ["fedavg", "local_only"])
def test_a_run_on_test_images_without_labels_ends_and_names_what_it_left_out(
    fedx: Fedx,
    settings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    monkeypatch.setenv("FEDX_DATA_ROOT", str(tmp_path / "data"))
    if method == "local_only":
        values = yaml.safe_load(settings.read_text())
        values["method"] = {"name": method}
        values["federation"]["selection"] = None
        settings.write_text(yaml.safe_dump(values))
    assert fedx("data", "blank", "--params", str(settings)) == 0
    assert fedx("run", "--run", "blank", "--params", str(settings), *QUIETLY) == 0
    said = capsys.readouterr()
    assert "no micro_map, macro_map, macro_f1, since no image of the test part" in said.err
    results = tmp_path / "runs" / "blank" / "results"
    summary = json.loads((results / "summary.json").read_text(), parse_constant=refuse)
    assert set(summary["metrics"]) == {"loss"}
    assert summary["left_out"] == ["micro_map", "macro_map", "macro_f1"]
    assert summary["per_class"] == {}
    assert all(set(own) == {"loss", "examples"} for own in summary["per_client"].values())
    json.loads((results / "rounds.json").read_text(), parse_constant=refuse)
    assert fedx("watch", "blank") == 0
    assert "finished: no score, since no image of the test part bears a label, after 2 rounds" in (
        "".join(capsys.readouterr())
    )
    assert fedx("compare", "blank", "--figures", "figures") == 0
    assert "no micro_map, since no image" in " ".join("".join(capsys.readouterr()).split())
    assert fedx("report", "blank", "--out", "page") == 0
    page = (tmp_path / "page" / "report.html").read_text()
    assert "without micro_map (since no image of the test part bears a label)" in page


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")
