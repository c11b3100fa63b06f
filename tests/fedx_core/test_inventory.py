"""What a copy of a run's store holds, taken by what the journal names."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core.base.errors import PayloadError
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.rounds import inventory
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.rollback import roll_back
from fedx_core.store import FileStore, open_store
from fedx_core.wire.messages import ClientJob


class Cut(InProcess):
    """Ends as by Ctrl-C where the second round's updates are to be aggregated."""

    def server_step(self, name: str, *arguments: Any) -> Any:
        if name == "aggregate" and arguments[2].round_index == 1:
            raise KeyboardInterrupt
        return super().server_step(name, *arguments)


class Untrained(InProcess):
    """Trains nobody: what clients have sent must be there."""

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        asked = [job for job in jobs if job.purpose == "train"]
        assert all(Path(place.store, f"{job.uplink_key}.report").exists() for job in asked)
        super().send(jobs, place)


def copied(bed: Bed, uri: str, folder: str) -> str:
    target = FileStore(bed.runs / folder)
    for key, data in inventory.contents(open_store(uri)):
        target.put(key, data)
    return str(target.root)


def states(uri: str) -> list[str]:
    return [commit.state.sha256 for commit in Journal(open_store(uri)).commits()]


def test_a_copy_taken_amid_a_round_ends_in_the_same_bytes_and_asks_nobody_again(bed: Bed) -> None:
    settings = tiny(federation__rounds=2)
    whole, cut = bed.setting("whole"), bed.setting("cut")
    list(federate(settings, whole, InProcess(1)))
    with pytest.raises(KeyboardInterrupt):
        list(federate(settings, cut, Cut(1)))
    place = replace(cut.place, store=copied(bed, cut.place.store, "copy"))
    list(federate(settings, replace(cut, place=place), Untrained(1), resume=True))
    assert states(place.store) == states(whole.place.store)


def test_records_of_void_rounds_are_copied_too(bed: Bed) -> None:
    run = bed.setting()
    list(federate(tiny(), run, InProcess(1)))
    store = open_store(run.place.store)
    roll_back(Journal(store), run.place, 1)
    list(federate(tiny(), run, InProcess(1), resume=True))
    copy = Path(copied(bed, run.place.store, "copy"))
    there, here = (
        {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        for root in (Path(run.place.store), copy)
    )
    assert {"journal/rollback.1", "journal/0002/commit", "journal/0002.1/commit"} <= here
    assert {key for key in there if key.startswith("journal/")} <= here
    assert states(str(copy)) == states(run.place.store)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_store_whose_last_state_is_damaged_is_not_copied(bed: Bed, damage: str) -> None:
    run = bed.setting()
    list(federate(tiny(federation__rounds=1), run, InProcess(1)))
    state = Path(run.place.store) / Journal(open_store(run.place.store)).commits()[-1].state.key
    if damage == "gone":
        state.unlink()
    else:
        state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(PayloadError, match=f"{state.name}.*(gone|corrupt)"):
        list(inventory.contents(open_store(run.place.store)))
