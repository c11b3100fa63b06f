import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import yaml
from PIL import Image as pillow

import warm
from fedx_core.images import set_folder

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "add_a_data_set.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_what_the_page_on_data_sets_says_works_as_written(tmp_path: Path, warm_python: str) -> None:
    def do(command: str) -> None:
        """Do as a shell does in the copy."""
        path = f"{tmp_path / '.bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path)}
        shell = ["bash", "-e", "-c", command]
        subprocess.run(shell, cwd=tmp_path, env=environment, check=True, timeout=240)

    warm.commands(tmp_path / ".bin", warm_python)
    for name in ("fedx_core", "flows"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for label, name in enumerate(("almond", "olive")):
        folder = tmp_path / "data" / "raw" / "orchards" / name
        folder.mkdir(parents=True)
        for number in range(10):
            pixels = np.full((40, 50, 3), 100 * label + number, np.uint8)
            pillow.fromarray(pixels).save(folder / f"{number}.png")

    merced = tmp_path / "data" / "raw" / "UCMerced_LandUse"
    marks = [f"class-{number}" for number in range(17)]
    lines = ["IMAGE\\LABEL\t" + "\t".join(marks)]
    for number in range(100):
        name = f"beach{number:02d}"
        path = merced / "Images" / "beach" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(np.full((16, 16, 3), number, np.uint8)).save(path)
        lines.append("\t".join([name, *(str(int(number % 17 == n)) for n in range(17))]))
    (merced / "LandUse_Multilabeled.txt").write_text("\r\n".join(lines))

    commands = 0
    for language, text in BLOCKS:
        if language == "yaml":
            params["datasets"] |= yaml.safe_load(text)
            (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        elif language == "python":
            path = text.splitlines()[0].removeprefix("# ")
            (tmp_path / path).write_text(text)
        else:
            do(text)
            commands += 1
    assert [language for language, _ in BLOCKS] == [
        "yaml", "bash", "yaml", "yaml", "python", "yaml", "bash",
    ]  # fmt: skip
    assert commands == 2

    do("fedx data uc_merced")
    several = set_folder.read(tmp_path / "data" / "uc_merced" / "prepared")
    assert several.description.class_names == tuple(marks)
    assert sum(len(part) for part in several.parts.values()) == 100

    orchards = set_folder.read(tmp_path / "data" / "orchards" / "shards" / "client-01")
    assert orchards.description.class_names == ("almond", "olive")
    assert orchards.parts["train"].images.shape == (6, 3, 32, 32)
    stripes = set_folder.read(tmp_path / "data" / "stripes" / "prepared").parts["train"]
    assert np.bincount(stripes.labels).tolist() == [20, 20]
    for image, label in zip(stripes.images[:, 0], stripes.labels, strict=True):
        assert (np.ptp(image, axis=0 if label else 1) == 0).all()
    reference = set_folder.read(tmp_path / "data" / "stripes" / "reference").parts["reference"]
    assert np.bincount(reference.labels).tolist() == [5, 5]
