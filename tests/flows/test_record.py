from pathlib import Path

import pytest
import torch

from bed import Bed, tiny
from fedx_core.base.errors import RunError
from fedx_core.images import set_folder
from fedx_core.pruning.masks import keep_highest
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from flows.running import results
from flows.runs import record, run_folder
from flows.runs.run_folder import RunFolder


def test_a_record_gives_back_what_the_run_wrote(bed: Bed) -> None:
    settings = tiny(federation__rounds=2)
    reports = tuple(federate(settings, bed.setting("base"), InProcess(1)))
    folder = RunFolder(bed.runs / "base")
    run_folder.save_config(folder, settings)
    encoded: list[str] = []
    for done in (1, 2):  # round by round, as a run does
        results.write_rounds(folder, reports[:done], encoded)
    folder.note({"run": "base"})
    [found] = record.find(bed.runs, ["base"])
    assert (found.reports, found.settings, found.notes) == (reports, settings, {"run": "base"})
    assert record.find(Path("elsewhere"), [str(bed.runs / "base")]) == [found]


def test_a_run_without_rounds_or_with_damaged_ones_says_what_to_do(bed: Bed) -> None:
    folder = RunFolder(bed.runs / "empty")
    folder.results.mkdir(parents=True)
    with pytest.raises(RunError, match="holds no finished round; start the run with"):
        record.read(folder)
    (folder.results / "rounds.json").write_text("[{")
    with pytest.raises(RunError, match="fedx resume empty"):
        record.read(folder)


def test_each_pruning_event_can_be_read_again_and_gives_the_mask_of_its_scores(bed: Bed) -> None:
    settings = tiny(
        federation__rounds=4,
        federation__keep_states=4,
        method__warmup_rounds=2,
        method__recompute_every=1,
        method__recompute_times=2,
    )
    setting = bed.setting("base")
    folder, store = RunFolder(bed.runs / "base"), open_store(setting.place.store)
    assert record.pruning_events(folder) == ()
    reports = list(federate(settings, setting, InProcess(1)))
    results.write_pruning(folder, setting.place.store, reports)
    first, second = record.pruning_events(folder)
    assert (first.round_index, second.round_index) == (2, 3)
    commits = Journal(store).commits()
    after = [checkpoint.unpack_server_state(store.get(commits[n].state)) for n in (2, 3)]
    for event, found, rate in zip((first, second), after, (0.25, 0.5), strict=True):
        alive = first.mask if event is second else None
        assert keep_highest(event.scores, rate, alive=alive).digest() == event.mask.digest()
        assert found.mask is not None
        assert found.mask.digest() == event.mask.digest()
        assert list(event.before) == list(found.model)
        assert {score.dtype for score in event.scores.values()} == {torch.float32}
        # A unit's magnitude is the norm of its weights, here had again from the model before.
        norms = event.before["conv1.weight"].flatten(1).norm(dim=1)
        torch.testing.assert_close(event.scores["conv1"], norms)
    gone = ~second.mask.entries["conv1"] & first.mask.entries["conv1"]
    assert second.before["conv1.weight"][gone].any()
    assert not after[1].model["conv1.weight"][gone].any()


def test_a_damaged_event_is_named_and_is_written_anew(bed: Bed) -> None:
    setting, folder = bed.setting("base"), RunFolder(bed.runs / "base")
    reports = list(federate(tiny(), setting, InProcess(1)))
    results.write_pruning(folder, setting.place.store, reports)
    (path,) = folder.pruning.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(RunError, match=r"0002.safetensors can't be read .*fedx resume base"):
        record.pruning_events(folder)
    results.write_pruning(folder, setting.place.store, reports)
    assert path.read_bytes() == whole


def test_what_clients_hold_is_counted_by_class_and_by_group(bed: Bed) -> None:
    folder, data = RunFolder(bed.runs / "base"), bed.data / "countries"
    assert record.clients(folder) is None
    results.write_clients(folder, data, data / "shards", "countries")
    found = record.clients(folder)
    assert found is not None
    assert (found["dataset"], found["label_kind"]) == ("countries", "multi")
    assert len(found["class_names"]) == 19
    for client in found["clients"]:
        shard = set_folder.read(data / "shards" / client["name"]).parts
        for part in ("train", "test"):
            assert client["sizes"][part] == len(shard[part])
            assert client["labels"][part] == shard[part].labels.sum(0).tolist()
        country, images = next(iter(client["groups"]["train"].items()))
        assert (country.lower(), images) == (client["name"], client["sizes"]["train"])
        assert country in found["group_names"]


def test_sites_that_counted_nothing_leave_no_counts(bed: Bed, tmp_path: Path) -> None:
    folder = RunFolder(bed.runs / "base")
    client = {"name": "a", "sizes": {"train": 3, "test": 1}}
    set_folder.write_manifest(tmp_path, {"clients": [client]})
    results.write_clients(folder, bed.data / "synthetic", tmp_path, "synthetic")
    assert record.clients(folder) is None
