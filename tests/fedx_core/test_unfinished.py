"""Files that a writer was killed over, and those of writers that are alive."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedx_core.base import unfinished
from fedx_core.store import FileStore

WRITER = """
import sys, time
from pathlib import Path
from fedx_core.base import unfinished
with unfinished.beside(Path(sys.argv[1])) as under_way:
    under_way.write(b"half", durable=False)
    print("half", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_has_left_goes_and_what_a_living_one_has_begun_stays(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    (folder / "one").write_bytes(b"whole")
    (folder / ".lock").touch()
    command = [sys.executable, "-c", WRITER, str(folder / "one")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"half\n"
        (left,) = folder.glob(".one.*")
        assert unfinished.sweep(tmp_path) == 0
        assert left.read_bytes() == b"half"
        writer.kill()
    assert left.exists()
    assert unfinished.sweep(tmp_path) == 1
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "one"]
    assert (folder / "one").read_bytes() == b"whole"


def test_sweeping_all_the_time_takes_nothing_from_who_writes(tmp_path: Path) -> None:
    store, done, swept = FileStore(tmp_path, durable=False), threading.Event(), []

    def sweep() -> None:
        while not done.is_set():
            swept.append(unfinished.sweep(tmp_path))

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in sweepers:
        thread.start()
    refs = [store.put(f"puts/{n}", b"%d" % n) for n in range(300)]
    refs += [store.create(f"created/{n}", b"%d" % n) for n in range(300)]
    done.set()
    for thread in sweepers:
        thread.join()
    assert [int(bytes(store.get(ref))) for ref in refs] == [*range(300), *range(300)]
    assert len(swept) > 2
    assert not list(tmp_path.rglob(".*"))


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def give_up() -> None:
        with unfinished.beside(tmp_path / "one") as under_way:
            under_way.write(b"half", durable=True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        give_up()
    assert list(tmp_path.iterdir()) == []
