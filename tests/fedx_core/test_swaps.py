import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedx_core.base import swaps
from fedx_core.base.errors import StoreError
from fedx_core.images import set_folder
from fedx_core.images.examples import Description, ImageStream

KNOWN = Description(
    name="t",
    bands=("a",),
    class_names=tuple("abcdefghij"),
    label_kind="single",
    image_size=4,
    scale=255.0,
)


def write(folder: Path, value: int, between: threading.Barrier | None = None) -> None:
    """Write a set of ten images that all have one value, which is their label, too."""

    def images() -> Iterator[np.ndarray]:
        for number in range(10):
            if between is not None and number == 5:
                between.wait(60)
            yield np.full((1, 4, 4), value, np.uint8)

    stream = ImageStream(images(), np.full(10, value), np.zeros(10, np.int16))
    set_folder.write(folder, KNOWN, {"train": stream}, {"value": value})


def is_whole(found: set_folder.Prepared) -> bool:
    part, value = found.parts["train"], found.manifest["settings"]["value"]
    return bool((part.images == value).all() and (part.labels == value).all())


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("there", [False, True])
def test_two_that_prepare_one_set_at_once_both_end_well(tmp_path: Path, there: bool) -> None:
    if there:
        write(tmp_path / "set", 9)
    both = threading.Barrier(2)  # each is half-way when the other is
    threads = [
        threading.Thread(target=write, args=(tmp_path / "set", value, both)) for value in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    set_folder.verify(tmp_path / "set")
    found = set_folder.read(tmp_path / "set")
    assert is_whole(found)
    assert found.manifest["settings"]["value"] in (1, 2)
    assert hidden(tmp_path) == [".set.lock"]


@pytest.mark.parametrize("inner", ["", "north"])
def test_who_reads_while_a_set_or_all_shards_are_replaced_sees_one_of_them_whole(
    tmp_path: Path, inner: str
) -> None:
    def replace(value: int) -> None:
        with set_folder.replacing(tmp_path / "shards") as beside:
            if inner:
                write(beside / inner, value)
                set_folder.write_manifest(beside, {})
            else:
                write(beside / "set", value)
                for path in (beside / "set").iterdir():
                    path.rename(beside / path.name)
                (beside / "set").rmdir()

    replace(0)
    over = threading.Event()
    seen: list[bool] = []

    def look() -> None:
        while not over.is_set():
            set_folder.verify(tmp_path / "shards" / inner)
            seen.append(is_whole(set_folder.read(tmp_path / "shards" / inner)))

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for value in range(60):
        replace(value % 10)
    over.set()
    for reader in readers:
        reader.join()
    assert len(seen) > 3
    assert all(seen)
    assert hidden(tmp_path / "shards") == []
    assert hidden(tmp_path) == [".shards.lock"]


def test_what_was_there_is_found_again_after_a_kill_between_two_moves(tmp_path: Path) -> None:
    write(tmp_path / "set", 1)
    (tmp_path / "set").rename(tmp_path / ".set.old")
    assert is_whole(set_folder.read(tmp_path / "set"))
    (tmp_path / "set").rename(tmp_path / ".set.old")
    write(tmp_path / "set", 2)
    shutil.copytree(tmp_path / "set", tmp_path / ".set.old", dirs_exist_ok=True)  # after both
    write(tmp_path / "set", 3)
    assert set_folder.read(tmp_path / "set").manifest["settings"]["value"] == 3
    assert hidden(tmp_path) == [".set.lock"]


def test_what_can_not_be_moved_into_place_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "set", 1)
    rename, moves = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        moves.append(self)
        if len(moves) == 3:  # the second of the swap's own
            raise OSError(5, "made to fail")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StoreError, match="made to fail"):
        write(tmp_path / "set", 2)
    assert set_folder.read(tmp_path / "set").manifest["settings"]["value"] == 1
    assert hidden(tmp_path) == [".set.lock"]


def test_leftovers_of_killed_writers_go_and_a_living_one_keeps_its_folder(tmp_path: Path) -> None:
    for name in ("0" * 32, "1" * 32):
        (tmp_path / f".set.{name}.new").mkdir()
    (tmp_path / f".set.{'1' * 32}").touch()  # its lock is nobody's
    with set_folder.replacing(tmp_path / "set") as living:
        write(tmp_path / "set", 1)
        assert [path.name for path in tmp_path.glob("*.new")] == [living.name]
        set_folder.write_manifest(living, {})
    assert hidden(tmp_path) == [".set.lock"]


def test_a_set_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    write(tmp_path / "set", 1)
    assert hidden(tmp_path) == []
    assert swaps.steadily(tmp_path / "set", lambda: hidden(tmp_path)) == []


def test_who_reads_a_set_that_was_never_replaced_looks_again_if_it_is_meanwhile(
    tmp_path: Path,
) -> None:
    write(tmp_path / "set", 1)
    seen: list[int] = []

    def read() -> int:
        seen.append(0)
        if len(seen) == 1:
            write(tmp_path / "set", 2)
            raise FileNotFoundError
        return len(seen)

    assert swaps.steadily(tmp_path / "set", read) == 2
