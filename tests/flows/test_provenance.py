import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from bed import Bed
from fedx_core.images import set_folder
from flows.runs import provenance


def test_data_that_dvc_does_not_know_are_named_by_their_manifests(bed: Bed) -> None:
    found = provenance.of_data(bed.data / "synthetic")
    assert list(found) == ["prepared", "shards", "reference"]
    for part, about in found.items():
        folder = bed.data / "synthetic" / part
        assert about == {
            "digest": set_folder.digest(folder),
            "named_by": "manifest",
            "path": str(folder),
        }
    assert provenance.of_data(bed.data / "nothing") == {}


def test_data_that_are_what_dvc_locked_are_named_by_its_md5(bed: Bed, tmp_path: Path) -> None:
    data = tmp_path / "work" / "data" / "synthetic"
    shutil.copytree(bed.data / "synthetic" / "shards", tmp_path / "made")
    stage = {"cmd": "cp -r ../made data/synthetic/shards", "outs": ["data/synthetic/shards"]}
    data.mkdir(parents=True)
    root = tmp_path / "work"
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"partition": stage}}))
    for arguments in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=root,
            env={**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "s")},
            check=True,
            timeout=120,
        )
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    locked = lock["stages"]["partition"]["outs"][0]["md5"]
    about = provenance.of_data(data)["shards"]
    assert (about["digest"], about["named_by"]) == (locked, "dvc")
    assert len(about["digest"]) <= 36

    # Another split of the same name is not what DVC has locked.
    manifest = next(path for path in (data / "shards").glob("*/manifest.json"))
    text = manifest.read_text()
    manifest.unlink()
    manifest.write_text(text.replace('"seed": 1', '"seed": 2'))
    assert manifest.read_text() != text
    assert provenance.of_data(data)["shards"]["named_by"] == "manifest"
