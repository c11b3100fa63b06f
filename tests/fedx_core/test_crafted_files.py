"""Files that somebody made to do harm: each is refused with its code, and none is run."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from crafted import CANARY, FILES, FOREIGN, packed, pickled, weights
from fedx_core.base import state
from fedx_core.base.errors import FedXError
from fedx_core.models import catalogue
from fedx_core.predict import model_file
from fedx_core.pruning.masks import Mask
from fedx_core.record.checkpoint import unpack_server_state
from fedx_core.store import FileStore
from fedx_core.wire.messages import Ref
from outside import Reader, readers, server_state

READERS = readers()
CASES = [
    pytest.param(reader, data, code, id=f"{reader}: {name}")
    for reader, files in FILES.items()
    for name, (data, code) in files.items()
]
FOREIGN_CASES = [
    pytest.param(reader, made, id=f"{reader}: {name}")
    for reader in (*FILES, "masked", "record", "manifest", "order")
    for name, made in FOREIGN.items()
]


def reading(name: str, folder: Path) -> Reader:
    """Return a reader of bytes; files of users are put into a folder first."""
    path = folder / "given.safetensors"

    def load(data: bytes) -> None:
        path.write_bytes(data)
        catalogue.load_weights(catalogue.build("resnet6", 3, 10, seed=2), path)

    def open_(data: bytes) -> None:
        path.write_bytes(data)
        model_file.read(path)

    files = {"weights": Reader(load, (weights(),)), "model": Reader(open_, (weights(),))}
    return (READERS | files)[name]


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trip whatever would open a pickle."""

    def tripped(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(pickle, "load", tripped)
    monkeypatch.setattr(pickle, "loads", tripped)
    monkeypatch.setattr(pickle, "Unpickler", tripped)
    monkeypatch.setattr(torch, "load", tripped)
    yield
    assert not CANARY.exists()


@pytest.mark.parametrize(("reader", "data", "code"), CASES)
def test_a_crafted_file_is_refused_with_its_code(
    reader: str, data: bytes, code: str, tmp_path: Path
) -> None:
    with pytest.raises(FedXError) as refused:
        reading(reader, tmp_path).read(data)
    assert refused.value.code == code, str(refused.value)
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize(("reader", "made"), FOREIGN_CASES)
def test_a_file_of_another_format_is_refused(
    reader: str, made: Callable[[], bytes], tmp_path: Path
) -> None:
    with pytest.raises(FedXError) as refused:
        reading(reader, tmp_path).read(made())
    assert refused.value.code in ("E_PAYLOAD", "E_TOO_BIG", "E_SIGNATURE")


@pytest.mark.parametrize("name", [*READERS, "weights", "model"])
def test_what_these_files_are_made_from_is_taken(name: str, tmp_path: Path) -> None:
    reader = reading(name, tmp_path)
    for data in reader.sound:
        reader.read(data)


def test_at_least_sixty_files_were_made() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", READERS)
def test_whatever_is_cut_off_is_refused_wherever_it_is_cut(name: str) -> None:
    reader = READERS[name]
    for data in reader.sound:
        for length in {*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}:
            with pytest.raises(FedXError):
                reader.read(data[:length])


def test_an_object_longer_than_its_reference_is_not_fetched(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    meant = store.put("uplink/a", b"meant")
    with (tmp_path / "uplink" / "a").open("r+b") as file:
        file.truncate(1 << 40)  # a file of holes: reading it whole would need a tebibyte
    with pytest.raises(FedXError) as refused:
        store.get(meant)
    assert refused.value.code == "E_TOO_BIG"
    with pytest.raises(FedXError) as refused:
        store.read("uplink/a", 100)
    assert refused.value.code == "E_TOO_BIG"
    with pytest.raises(FedXError) as refused:
        store.get(Ref("uplink/b", meant.sha256, 5))
    assert refused.value.code == "E_MISSING"


def test_a_users_file_of_a_tebibyte_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "given.safetensors"
    path.write_bytes(weights())
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(FedXError, match="truncated or padded") as refused:
        catalogue.load_weights(catalogue.build("resnet6", 3, 10, seed=2), path)
    assert refused.value.code == "E_PAYLOAD"


def test_the_pickles_of_these_tests_do_bite_where_they_are_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    try:
        pickle.loads(pickled())
        assert CANARY.exists()
    finally:
        CANARY.rmdir()


def test_a_state_whose_mask_is_whole_comes_back() -> None:
    found = unpack_server_state(packed())
    assert state.equal(found.model, server_state().model)
    assert isinstance(found.mask, Mask)
