import json
import multiprocessing
from pathlib import Path

import pytest

from fedx_core.rounds import audit


def written(folder: Path, count: int = 5) -> list[bytes]:
    for number in range(count):
        audit.note(folder, "refused", code="E_TEST", number=number)
    return (folder / audit.FILE).read_bytes().splitlines(keepends=True)


def put(folder: Path, lines: list[bytes]) -> None:
    (folder / audit.FILE).write_bytes(b"".join(lines))


def test_a_book_that_nobody_has_touched_verifies(tmp_path: Path) -> None:
    written(tmp_path)
    found = audit.verify(tmp_path)
    assert (found.lines, found.chained, found.faults) == (5, 5, ())
    assert audit.verify(tmp_path, found.head).faults == ()


@pytest.mark.parametrize("place", range(4))
def test_a_line_that_is_dropped_is_missed(tmp_path: Path, place: int) -> None:
    lines = written(tmp_path)
    put(tmp_path, lines[:place] + lines[place + 1 :])
    assert any(f"line {place + 1} " in fault for fault in audit.verify(tmp_path).faults)


@pytest.mark.parametrize("place", range(4))
def test_a_line_that_is_changed_is_found(tmp_path: Path, place: int) -> None:
    lines = written(tmp_path)
    lines[place] = lines[place].replace(b"E_TEST", b"E_NONE")
    put(tmp_path, lines)
    assert any(f"line {place + 2} " in fault for fault in audit.verify(tmp_path).faults)


def test_a_line_that_is_put_between_others_is_found(tmp_path: Path) -> None:
    lines = written(tmp_path)
    put(tmp_path, [*lines[:2], lines[1], *lines[2:]])
    assert audit.verify(tmp_path).faults


def test_lines_that_are_cut_off_are_missed_by_who_knows_the_last_hash(tmp_path: Path) -> None:
    lines = written(tmp_path)
    head = audit.verify(tmp_path).head
    put(tmp_path, lines[:-2])
    assert audit.verify(tmp_path).faults == ()
    assert "lines at the end are lost" in audit.verify(tmp_path, head).faults[0]


def test_a_changed_last_line_is_missed_by_who_knows_the_last_hash(tmp_path: Path) -> None:
    lines = written(tmp_path)
    head = audit.verify(tmp_path).head
    put(tmp_path, [*lines[:-1], lines[-1].replace(b"E_TEST", b"E_NONE")])
    assert audit.verify(tmp_path, head).faults


def test_a_book_from_before_the_chain_goes_on_and_its_old_lines_are_bound(tmp_path: Path) -> None:
    put(tmp_path, [b'{"time": "then", "event": "refused", "code": "E_OLD"}\n'] * 2)
    written(tmp_path, 2)
    found = audit.verify(tmp_path)
    assert (found.lines, found.chained, found.faults) == (4, 2, ())
    lines = (tmp_path / audit.FILE).read_bytes().splitlines(keepends=True)
    put(tmp_path, lines[1:])
    assert audit.verify(tmp_path).faults


def test_a_line_that_was_cut_short_damages_no_other(tmp_path: Path) -> None:
    lines = written(tmp_path, 2)
    put(tmp_path, [*lines, lines[0][:20]])
    written(tmp_path, 2)
    faults = audit.verify(tmp_path).faults
    assert len(faults) == 1
    assert faults[0].startswith("line 3 is damaged")


def _write(folder: Path, count: int) -> None:
    for _ in range(count):
        audit.note(folder, "refused", code="E_TEST")


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    start = multiprocessing.get_context("fork")
    writers = [start.Process(target=_write, args=(tmp_path, 50)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = audit.verify(tmp_path)
    assert (found.lines, found.chained, found.faults) == (200, 200, ())


def test_the_hash_is_that_of_the_definition(tmp_path: Path) -> None:
    import hashlib

    lines = written(tmp_path, 3)
    head = hashlib.sha256(b"").hexdigest()
    for number, line in enumerate(lines, start=1):
        said = json.loads(line)
        assert (said["line"], said["previous"]) == (number, head)
        head = hashlib.sha256(head.encode() + line.rstrip(b"\n")).hexdigest()
    assert audit.verify(tmp_path).head == head
