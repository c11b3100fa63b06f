"""What `fedx data` and `fedx doctor --dataset` say of a data set."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image as pillow

from bed import ROOT

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of two classes in folders of splits, one of them in train and in test."""
    monkeypatch.setenv("FEDX_DATA_ROOT", str(tmp_path / "data"))
    for place, (split, each) in enumerate((("train", 8), ("val", 4), ("test", 4))):
        for label, name in enumerate(("Forêt", "sea")):
            folder = tmp_path / "raw" / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                seed = 100 * place + 10 * label + number
                pixels = np.random.default_rng(seed).integers(0, 99, (8, 8, 3), dtype=np.uint8)
                pillow.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "raw/test/sea/0.png").write_bytes((tmp_path / "raw/train/Forêt/3.png").read_bytes())
    (tmp_path / "raw/test/sea/0.bmp").write_bytes(b"")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["datasets"] = {
        "mine": {
            "source": {"name": "folder", "source": str(tmp_path / "raw")},
            "partition": {"name": "iid", "clients": 2},
            "reference": {"per_class": 1},
        }
    }
    values |= {"dataset": "mine", "prepare": ["mine"]}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


TWIN = "1 images of test have the pixels of an image of train (train/Forêt/3.png and test/sea/0.png"


def test_preparing_a_set_says_what_it_holds_and_what_is_wrong(
    fedx: Fedx, mine: Path, capsys: Said
) -> None:
    assert fedx("data", "mine") == 0
    said = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "mine: 32 images of 8 x 8 pixels and 3 bands, 2 classes, one label each" in lines
    assert "class train validation test" in lines
    assert "Forêt 8 4 4" in lines
    assert any(line.startswith("band-1 0 98 uint8") for line in lines)
    assert "client-00 8 4" in lines
    assert "at the server: reference 2, tuning 6" in lines
    assert "split: folders test, train, val" in lines
    assert "ignored: files 1 .bmp" in lines
    assert any(line.startswith(f"! {TWIN}") for line in lines)


def test_a_preview_draws_a_sheet_of_each_class(fedx: Fedx, mine: Path, capsys: Said) -> None:
    assert fedx("data", "mine", "--preview", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["images"] == {"train": 16, "validation": 8, "test": 8}
    folder = Path(found["preview"])
    assert sorted(path.name for path in folder.iterdir()) == ["000-foret.png", "001-sea.png"]
    with pillow.open(folder / "001-sea.png") as sheet:
        assert min(sheet.size) > 100
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "009-gone.png").write_bytes(b"")
    assert fedx("data", "mine", "--preview") == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_doctor_looks_at_one_set_before_and_after_it_is_prepared(
    fedx: Fedx, mine: Path, capsys: Said
) -> None:
    assert fedx("doctor", "--dataset", "mine") == 0
    said = capsys.readouterr().out
    assert "not yet; fedx data mine does that" in said
    assert "ignored: files 1 .bmp" in said
    fedx("data", "mine")
    capsys.readouterr()
    assert fedx("doctor", "--dataset", "mine", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    wrong = [check["found"] for check in found["checks"] if not check["ok"]]
    assert wrong[0].startswith(TWIN)
    assert "other labels (train/Forêt/3.png and test/sea/0.png first)" in wrong[1]
    assert len(wrong) == 2
    assert found["summary"]["dataset"] == "mine"


def test_the_doctor_says_when_a_set_was_made_from_other_settings_or_is_damaged(
    fedx: Fedx, mine: Path, tmp_path: Path, capsys: Said
) -> None:
    fedx("data", "mine")
    values = yaml.safe_load(mine.read_text())
    values["datasets"]["mine"]["source"]["image_size"] = 4
    mine.write_text(yaml.safe_dump(values))
    labels = tmp_path / "data" / "mine" / "prepared" / "test.labels.npy"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    images = tmp_path / "data" / "mine" / "prepared" / "test.images.npy"
    images.write_bytes(images.read_bytes()[:-1] + b"\xff")
    capsys.readouterr()
    assert fedx("doctor", "--dataset", "mine") == 1
    said = capsys.readouterr().out
    assert "says another source than it was made from" in said
    assert "test.images.npy" in said
    assert fedx("doctor", "--dataset", "yours") == 1


def test_the_doctor_says_why_a_source_can_not_be_read(fedx: Fedx, mine: Path, capsys: Said) -> None:
    values = yaml.safe_load(mine.read_text())
    values["datasets"]["mine"]["source"]["source"] = "absent"
    mine.write_text(yaml.safe_dump(values))
    assert fedx("doctor", "--dataset", "mine") == 1
    said = capsys.readouterr().out
    assert "FAIL  source: E_SOURCE: no images at absent" in said
    assert "mend it, then fedx data mine" in said
