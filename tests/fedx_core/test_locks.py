import threading
from pathlib import Path

import pytest

from fedx_core.base.locks import exclusive
from flows.runs.run_folder import RunFolder


def test_notes_of_many_threads_are_all_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    barrier = threading.Barrier(8)

    def note(number: int) -> None:
        barrier.wait()
        folder.note({f"n{number}": number})

    threads = [threading.Thread(target=note, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.notes() == {f"n{n}": n for n in range(8)}


def test_a_lock_is_let_go_after_an_error_and_waited_for_until_then(tmp_path: Path) -> None:
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(tmp_path / "lock"):
            inside.set()
            assert leave.wait(60)
            order.append("first")

    def follow() -> None:
        with exclusive(tmp_path / "lock", waiting=leave.set):
            order.append("second")

    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    try:
        with exclusive(tmp_path / "lock"):
            raise ValueError
    except ValueError:
        with exclusive(tmp_path / "lock"):
            order.append("third")
    assert order[-1] == "third"


def test_a_lock_that_its_holder_deletes_still_lets_one_in_at_a_time(tmp_path: Path) -> None:
    path, inside, most = tmp_path / "lock", [], []

    def work(number: int) -> None:
        for _ in range(50):
            with exclusive(path):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)
                path.unlink()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_what_a_waiting_one_raises_ends_its_waiting(tmp_path: Path) -> None:
    def refuse() -> None:
        raise RuntimeError("taken")

    with (
        exclusive(tmp_path / "lock"),
        pytest.raises(RuntimeError, match="taken"),
        exclusive(tmp_path / "lock", refuse),
    ):
        raise AssertionError
