import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import DataError, ReferenceSetError
from fedx_core.images import set_folder
from flows.data.partition import partition
from flows.data.prepare import prepare, run
from flows.data.reference import reference

PARAMS = Path(__file__).parents[2] / "params.yaml"
CLIENTS = 3


def raw(**source: Any) -> dict[str, Any]:
    """Give params.yaml's values with two small data sets."""
    values: dict[str, Any] = yaml.safe_load(PARAMS.read_text())
    small = {"name": "synthetic", "image_size": 8, "train": 60, "validation": 60, "test": 30}
    values["datasets"] = {
        "one": {
            "source": {**small, "label_kind": "single", **source},
            "partition": {"name": "iid", "clients": CLIENTS},
            "reference": {"per_class": 2},
        },
        "several": {
            "source": {**small, "label_kind": "multi", "train": 200, **source},
            "partition": {"name": "by_country"},
            "reference": {"per_class": 2},
        },
    }
    return {**values, "prepare": ["one", "several"], "dataset": "one"}


def settings(seed: int = 1, **source: Any) -> ExperimentConfig:
    return config.parse({**raw(**source), "seed": seed})


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.parametrize("name", ["one", "several"])
def test_the_three_stages_leave_sets_that_verify(name: str, tmp_path: Path) -> None:
    experiment = settings()
    assert prepare(experiment, name, tmp_path) == tmp_path / name / "prepared"
    assert partition(experiment, name, tmp_path) == tmp_path / name / "shards"
    assert reference(experiment, name, tmp_path) == tmp_path / name / "reference"
    manifests = sorted((tmp_path / name).rglob("manifest.json"))
    shards = json.loads((tmp_path / name / "shards" / "manifest.json").read_text())
    assert len(manifests) == 3 + len(shards["clients"])
    for manifest in manifests:
        set_folder.verify(manifest.parent)


@pytest.mark.parametrize("name", ["one", "several"])
def test_the_same_settings_give_the_same_bytes_and_nothing_else_is_left(
    name: str, tmp_path: Path
) -> None:
    for root in (tmp_path / "a", tmp_path / "b"):
        for stage in (prepare, partition, reference):
            stage(settings(), name, root)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    # Once more over the old results.
    for stage in (prepare, partition, reference):
        stage(settings(), name, tmp_path / "a")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_the_experiments_seed_moves_shards_and_references_but_not_the_data(tmp_path: Path) -> None:
    for seed in (1, 2):
        for stage in (prepare, partition, reference):
            stage(settings(seed), "one", tmp_path / str(seed))
    prepared, shards, references = (
        [hashes(tmp_path / str(seed) / "one" / folder) for seed in (1, 2)]
        for folder in ("prepared", "shards", "reference")
    )
    assert prepared[0] == prepared[1]
    assert shards[0] != shards[1]
    assert references[0] != references[1]


@pytest.mark.parametrize("name", ["one", "several"])
def test_shards_hold_every_training_and_test_image_once(name: str, tmp_path: Path) -> None:
    experiment = settings()
    prepare(experiment, name, tmp_path)
    partition(experiment, name, tmp_path)
    prepared = set_folder.read(tmp_path / name / "prepared")
    manifest = set_folder.read_manifest(tmp_path / name / "shards")
    folders = sorted(p.name for p in (tmp_path / name / "shards").iterdir() if p.is_dir())
    assert [client["name"] for client in manifest["clients"]] == folders
    for part in ("train", "test"):
        shards = [set_folder.read(tmp_path / name / "shards" / c).parts[part] for c in folders]
        held = sorted(image.tobytes() for shard in shards for image in shard.images)
        assert held == sorted(image.tobytes() for image in prepared.parts[part].images)
        for client, shard in zip(manifest["clients"], shards, strict=True):
            assert client["sizes"][part] == len(shard)
            wanted = (
                np.bincount(shard.labels, minlength=10).tolist()
                if name == "one"
                else shard.labels.sum(axis=0, dtype=int).tolist()
            )
            assert client["labels"][part] == wanted


def test_by_country_shards_hold_one_country_each(tmp_path: Path) -> None:
    prepare(settings(), "several", tmp_path)
    partition(settings(), "several", tmp_path)
    for folder in (tmp_path / "several" / "shards").iterdir():
        if folder.is_dir():
            shard = set_folder.read(folder)
            names = shard.description.group_names
            for part in shard.parts.values():
                assert {names[g].lower() for g in part.groups} <= {folder.name}


def test_shards_and_references_name_the_set_that_they_come_from(tmp_path: Path) -> None:
    for stage in (prepare, partition, reference):
        stage(settings(), "one", tmp_path)
    digest = hashlib.sha256((tmp_path / "one/prepared/manifest.json").read_bytes()).hexdigest()
    for folder in ("shards", "shards/client-02", "reference"):
        manifest = set_folder.read_manifest(tmp_path / "one" / folder)
        assert manifest["settings"]["prepared"] == digest
        assert manifest["settings"]["seed"] == 1


@pytest.mark.parametrize("name", ["one", "several"])
def test_reference_and_tuning_part_the_validation_split(name: str, tmp_path: Path) -> None:
    prepare(settings(), name, tmp_path)
    reference(settings(), name, tmp_path)
    validation = set_folder.read(tmp_path / name / "prepared").parts["validation"]
    parts = set_folder.read(tmp_path / name / "reference").parts
    both = [image.tobytes() for part in parts.values() for image in part.images]
    assert sorted(both) == sorted(image.tobytes() for image in validation.images)
    classes = 10 if name == "one" else 19
    assert len(parts["reference"]) == 2 * classes
    if name == "one":
        assert np.bincount(parts["reference"].labels).tolist() == [2] * 10
    else:
        assert parts["reference"].labels.sum(axis=0).min() >= 2


def asking(name: str, public: int) -> ExperimentConfig:
    """Settings that ask for public images of a data set."""
    found = settings()
    own = replace(found.datasets[name].reference, public=public)
    return replace(
        found,
        datasets={**found.datasets, name: replace(found.datasets[name], reference=own)},
    )


@pytest.mark.parametrize("name", ["one", "several"])
def test_public_images_have_no_labels_and_are_in_no_other_part(name: str, tmp_path: Path) -> None:
    for stage in (prepare, partition, reference):
        stage(settings(), name, tmp_path)
    before = set_folder.read(tmp_path / name / "reference")
    assert list(before.parts) == ["reference", "tuning"]
    assert "public" not in before.manifest["settings"]["reference"]
    reference(asking(name, 7), name, tmp_path)
    after = set_folder.read(tmp_path / name / "reference")
    set_folder.verify(tmp_path / name / "reference")
    assert {part: len(found) for part, found in after.parts.items()} == {
        "reference": len(before.parts["reference"]),
        "tuning": len(before.parts["tuning"]) - 7,
        "public": 7,
    }
    assert not after.parts["public"].labels.any()
    kept = [image.tobytes() for image in before.parts["reference"].images]
    assert [image.tobytes() for image in after.parts["reference"].images] == kept
    seen: dict[bytes, str] = {}
    prepared = set_folder.read(tmp_path / name / "prepared").parts
    others = {**after.parts, "train": prepared["train"], "test": prepared["test"]}
    for part, found in others.items():
        for image in found.images:
            assert seen.setdefault(image.tobytes(), part) == part


def test_more_public_images_than_are_left_are_refused_and_the_old_set_stays(tmp_path: Path) -> None:
    for stage in (prepare, reference):
        stage(settings(), "one", tmp_path)
    before = hashes(tmp_path / "one" / "reference")
    with pytest.raises(ReferenceSetError, match="asks for 1000 images, and the validation split"):
        reference(asking("one", 1000), "one", tmp_path)
    assert hashes(tmp_path / "one" / "reference") == before


def test_a_public_image_that_another_part_holds_too_is_refused(tmp_path: Path) -> None:
    prepare(settings(), "one", tmp_path)
    folder = tmp_path / "one" / "prepared"
    found = set_folder.read(folder)
    twins = {
        part: replace(each, images=np.repeat(np.asarray(each.images[:1]), len(each), axis=0))
        if part == "train"
        else each
        for part, each in found.parts.items()
    }
    shown = np.asarray(found.parts["train"].images[:1])
    everywhere = replace(
        found.parts["validation"], images=np.repeat(shown, len(twins["validation"]), 0)
    )
    set_folder.write(folder, found.description, {**twins, "validation": everywhere}, {})
    with pytest.raises(ReferenceSetError, match=r"images of one's train split.*public to 0"):
        reference(asking("one", 2), "one", tmp_path)
    assert not (tmp_path / "one" / "reference").exists()


def test_a_class_missing_from_validation_is_an_error(tmp_path: Path) -> None:
    prepare(settings(validation=9), "one", tmp_path)
    with pytest.raises(ReferenceSetError, match="of 10 classes have no image in the validation"):
        reference(settings(), "one", tmp_path)
    assert not (tmp_path / "one" / "reference").exists()


@pytest.mark.parametrize("stage", [partition, reference])
def test_a_stage_before_prepare_says_to_prepare_first(stage: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare the data set first"):
        stage(settings(), "one", tmp_path)


def test_a_failing_partition_leaves_the_old_shards(tmp_path: Path) -> None:
    prepare(settings(), "one", tmp_path)
    partition(settings(), "one", tmp_path)
    before = hashes(tmp_path / "one" / "shards")
    values = raw()
    values["datasets"]["one"]["partition"]["clients"] = 100
    with pytest.raises(DataError, match="60 training examples are too few for 100 clients"):
        partition(config.parse(values), "one", tmp_path)
    assert hashes(tmp_path / "one" / "shards") == before


def test_the_commands_print_the_folder_or_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(raw()))
    options = ["--params", str(params), "--data-root", str(tmp_path / "data")]
    assert run(prepare, ["one", *options]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/data/one/prepared\n"
    assert run(partition, ["several", *options]) == 1
    assert capsys.readouterr().err.startswith("E_DATA: no ")
    assert run(prepare, ["three", *options]) == 1
    assert "no data set 'three'" in capsys.readouterr().err
