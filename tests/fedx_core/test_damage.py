"""Checkpoints that are cut short or have a bit changed, and a disk that is full."""

import os
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bed import Bed, tiny, tiny_resnet6
from coordinators import final_state
from fedx_core.base.errors import PayloadError, StoreError, VersionError
from fedx_core.clients.client import Place
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.start import Setting
from fedx_core.store import FileStore

MIB = 2**20


@pytest.fixture(scope="module")
def done(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A run of two rounds; tests put back what they have damaged."""
    setting = Bed(tiny_data, tmp_path_factory.mktemp("done")).setting()
    list(federate(tiny(federation__rounds=2, method__warmup_rounds=1), setting, InProcess(1)))
    return setting


def damaged(data: bytes, number: int) -> bytes:
    """Cut bytes short for even numbers, and change a bit of them for odd ones; anywhere."""
    place = random.Random(number).randrange(len(data))
    if number % 2 == 0:
        return data[:place]
    return data[:place] + bytes([data[place] ^ 1 << number % 8]) + data[place + 1 :]


def test_no_byte_of_a_damaged_checkpoint_is_believed(done: Setting) -> None:
    store = FileStore(Path(done.place.store))
    journal = Journal(store)
    whole = (journal.run(), journal.commits(), journal.opened(2), journal.closed(2))
    state = journal.commits()[-1].state
    keys = [state.key, "run.json"] + [f"journal/0002/{n}" for n in ("open", "closed", "commit")]
    refused = 0
    for number in range(100):
        key = keys[number % len(keys)]
        good = bytes(store.read(key) or b"")
        store.put(key, damaged(good, number))
        try:
            checkpoint.unpack_server_state(store.get(state))
            found = (journal.run(), journal.commits(), journal.opened(2), journal.closed(2))
        except (PayloadError, VersionError):
            refused += 1
        else:
            assert found == whole, "a record that has lost its sum alone is whole"
        store.put(key, good)
    assert refused >= 98
    checkpoint.unpack_server_state(store.get(state))


def test_a_damaged_state_is_named_with_the_newest_that_is_whole(done: Setting) -> None:
    store = FileStore(Path(done.place.store))
    _, before, last = Journal(store).commits()
    good = bytes(store.get(last.state))
    for data in (good[:-1], good[:100], b""):
        store.put(last.state.key, data)
        with pytest.raises(PayloadError, match=f"round 2 is corrupt.*{last.state.key}.*round 1 is"
                           f" whole: {before.state.key}"):  # fmt: skip
            list(federate(tiny(federation__rounds=3), done, InProcess(1), resume=True))
    store.delete(last.state.key)
    with pytest.raises(PayloadError, match="round 2 is corrupt or gone"):
        list(federate(tiny(federation__rounds=3), done, InProcess(1), resume=True))
    store.put(last.state.key, good)
    (report,) = federate(tiny(federation__rounds=3), done, InProcess(1), resume=True)
    assert report.round_index == 3


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_harms_no_committed_round(little_disk: Path, bed: Bed) -> None:
    elsewhere, setting = bed.setting("elsewhere"), bed.setting()
    list(federate(tiny_resnet6(), elsewhere, InProcess(1)))
    place = Place(
        store=str(little_disk / "store"), shards=setting.place.shards, memory=setting.place.memory
    )
    setting = replace(setting, place=place)
    rounds = federate(tiny_resnet6(), setting, InProcess(1))
    first = next(rounds)
    free = os.statvfs(little_disk).f_bavail * os.statvfs(little_disk).f_frsize
    filler = little_disk / "filler"
    filler.write_bytes(bytes(free - 64 * 1024))
    with pytest.raises(StoreError, match=r"No space left.*the last committed round is intact"):
        list(rounds)
    with pytest.raises(StoreError, match="No space left"):
        list(federate(tiny_resnet6(), setting, InProcess(1), resume=True))
    store = FileStore(little_disk / "store")
    assert history(store) == [first]
    checkpoint.unpack_server_state(store.get(Journal(store).commits()[-1].state))
    filler.unlink()
    list(federate(tiny_resnet6(), setting, InProcess(1), resume=True))
    assert final_state(setting) == final_state(elsewhere)
