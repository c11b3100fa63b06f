"""What a run began with is known by content: data that were prepared anew are noticed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bed import Bed, tiny
from fedx_core.base.errors import DataError
from fedx_core.images import set_folder
from fedx_core.record.journal import RUN_KEY, Journal
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, history
from fedx_core.store import open_store
from flows.data.partition import partition
from flows.data.reference import reference
from flows.stages.federate import name_of


@pytest.fixture
def bed(tiny_data: Path, tmp_path: Path) -> Bed:
    """Data that a test may change."""
    shutil.copytree(tiny_data / "synthetic", tmp_path / "data" / "synthetic")
    return Bed(tmp_path / "data", tmp_path / "runs")


def label_anew(bed: Bed, *parts: str) -> None:
    """Prepare the same images, by the same settings, with other labels in some parts."""
    folder = bed.data / "synthetic" / "prepared"
    there = set_folder.read(folder)
    changed = {
        part: replace(found, images=np.array(found.images), labels=(found.labels + 1) % 10)
        if part in parts
        else replace(found, images=np.array(found.images))
        for part, found in there.parts.items()
    }
    set_folder.write(folder, there.description, changed, there.manifest["settings"])


def share_out(bed: Bed) -> None:
    for stage in (partition, reference):
        stage(tiny(), "synthetic", bed.data)


def run(bed: Bed, rounds: int, **how: object) -> None:
    list(federate(tiny(federation__rounds=rounds), bed.setting(), InProcess(1), **how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("train", "shards/client-00, shards/client-01, shards/client-02 changed"),
        ("test", "test, shards/client-00, shards/client-01 and 1 more changed"),
        ("validation", "reference, tuning changed"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(bed: Bed, part: str, named: str) -> None:
    run(bed, 1)
    label_anew(bed, part)
    share_out(bed)
    with pytest.raises(DataError, match=f"than when run 'run' began: {named}; prepare it again"):
        run(bed, 2, resume=True)
    assert len(history(open_store(bed.setting().place.store))) == 1
    for _ in range(9):  # ten classes: the labels of before
        label_anew(bed, part)
    share_out(bed)
    run(bed, 2, resume=True)
    assert len(history(open_store(bed.setting().place.store))) == 2


def test_a_run_does_not_branch_from_one_with_other_data(bed: Bed) -> None:
    run(bed, 2)
    label_anew(bed, "train")
    share_out(bed)
    branch = Branch(store=bed.setting().place.store, round_index=1)
    with pytest.raises(DataError, match="than when run 'run' began: shards/client-00"):
        list(federate(tiny(), bed.setting("leaf"), InProcess(1), branch=branch))
    assert Journal(open_store(bed.setting("leaf").place.store)).run() is None


def test_data_that_change_while_a_run_trains_end_it_before_the_round_counts(bed: Bed) -> None:
    reports = federate(tiny(), bed.setting(), InProcess(1))
    next(reports)
    label_anew(bed, "train")
    share_out(bed)
    with pytest.raises(DataError, match="than when run 'run' began: shards/client-00"):
        next(reports)
    store = open_store(bed.setting().place.store)
    assert len(history(store)) == 1
    assert Journal(store).closed(2) is None


def test_the_same_data_made_anew_while_a_run_trains_change_nothing(bed: Bed) -> None:
    reports = federate(tiny(), bed.setting(), InProcess(1))
    next(reports)
    label_anew(bed)
    share_out(bed)
    assert len(list(reports)) == 2


def test_a_run_that_an_earlier_version_began_goes_on(bed: Bed) -> None:
    run(bed, 1)
    record = Path(bed.setting().place.store) / RUN_KEY
    begun = json.loads(record.read_bytes().splitlines()[0])
    assert begun.pop("data").keys() >= {"test", "reference", "tuning", "shards/client-00"}
    record.write_text(json.dumps(begun))
    label_anew(bed, "test")
    share_out(bed)
    run(bed, 2, resume=True)


def test_images_are_prepared_anew_only_together_with_shards_and_reference(bed: Bed) -> None:
    label_anew(bed, "train")
    with pytest.raises(DataError, match=r"the shards of .* are not of its prepared set"):
        run(bed, 1)
    partition(tiny(), "synthetic", bed.data)
    with pytest.raises(DataError, match=r"the reference of .* are not of its prepared set"):
        run(bed, 1)
    reference(tiny(), "synthetic", bed.data)
    run(bed, 1)


def test_the_same_data_prepared_by_a_version_that_notes_more_are_the_same(bed: Bed) -> None:
    run(bed, 1)
    folder = bed.data / "synthetic" / "prepared"
    there = set_folder.read(folder)
    parts = {n: replace(p, images=np.array(p.images)) for n, p in there.parts.items()}
    noted = {**there.manifest["settings"], "ignored": 3}
    set_folder.write(folder, there.description, parts, noted)
    share_out(bed)
    run(bed, 2, resume=True)


def test_an_experiment_of_other_data_is_another_run(bed: Bed) -> None:
    before = name_of(tiny(), bed.data / "synthetic")
    label_anew(bed, "test")
    share_out(bed)
    assert name_of(tiny(), bed.data / "synthetic") != before
