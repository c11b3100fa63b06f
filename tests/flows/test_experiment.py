"""A run from what was asked to what came of it."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from bed import tiny
from fedx_core import config
from fedx_core.errors import RunError, RunExistsError
from fedx_core.federation import history
from fedx_core.store import open_store
from flows.experiment import Order, Request, carry_out, settle
from flows.live import Beside, display
from flows.run_folder import RunFolder
from flows.tracking import NoTracker

Asked = Callable[..., Request]


@pytest.fixture
def asked(tmp_path: Path, tiny_data: Path) -> Asked:
    """Asks for a run of one round called one."""
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(tiny(federation__rounds=1))))
    plain = Request(
        run="one", params=str(params), run_root=str(tmp_path / "runs"), data_root=str(tiny_data)
    )
    return lambda **changes: replace(plain, **changes)


def carried(order: Order, shown: Beside | None = None) -> None:
    carry_out(
        order,
        run_at="here",
        workers=1,
        display=shown or display("nothing"),
        tracker=NoTracker(),
    )


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Listening(Beside):
    """Knows when it is warned."""

    warned: threading.Event = field(default_factory=threading.Event)

    def warn(self, line: str) -> None:
        assert "another process is at work on run 'one'" in line
        self.warned.set()


def test_who_finds_a_run_at_work_goes_on_after_it(asked: Asked) -> None:
    order = settle(asked())
    assert order.setting.audit == order.folder.path
    carried(order)
    further = settle(asked(params=None, resume=True, rounds=2))
    shown = Listening(display("nothing"))
    store = open_store(order.setting.place.store)
    thread = threading.Thread(target=carried, args=(further, shown))
    with order.folder.at_work(lambda: None):
        thread.start()
        assert shown.warned.wait(60)
        assert len(history(store)) == 1
    thread.join()
    assert len(history(store)) == 2


def test_a_name_whose_run_is_being_started_is_refused_and_nothing_of_it_is_touched(
    asked: Asked,
) -> None:
    first, second = settle(asked()), settle(asked(seed=2))
    first.folder.note({"of": "the first"})
    with first.folder.at_work(lambda: None):
        before = content(first.folder.path)
        with pytest.raises(RunExistsError, match="another process is starting run 'one'"):
            carried(second)
        assert content(first.folder.path) == before
    carried(first)
    assert len(history(open_store(first.setting.place.store))) == 1


def test_who_was_slower_finds_the_run_begun_and_writes_nothing(asked: Asked) -> None:
    first, second = settle(asked()), settle(asked(seed=2))
    carried(first)
    before = content(first.folder.path)
    with pytest.raises(RunExistsError, match="fedx resume one"):
        carried(second)
    assert content(first.folder.path) == before


def test_a_folder_that_holds_a_run_is_refused_whatever_the_store(
    asked: Asked, tmp_path: Path
) -> None:
    elsewhere = [str(tmp_path / "a"), "memory://test_experiment", f"file://{tmp_path}/b"]
    for number, store in enumerate([None, *elsewhere]):
        run = f"run-{number}"
        carried(settle(asked(run=run, store=store)))
        before = content(tmp_path / "runs" / run)
        for other in {None, *elsewhere} - {store}:
            with pytest.raises(RunExistsError, match=f"fedx resume {run}"):
                settle(asked(run=run, store=other, seed=2))
            assert content(tmp_path / "runs" / run) == before


def test_a_run_whose_store_is_gone_or_does_not_answer_is_not_overwritten(
    asked: Asked, tmp_path: Path
) -> None:
    order = settle(asked())
    carried(order)
    before = content(order.folder.results)
    shutil.rmtree(order.folder.path / "store")
    with pytest.raises(RunExistsError, match=r"rounds\.json is there.* or remove "):
        settle(asked())
    (tmp_path / "file").write_text("no folder")
    order.folder.note({"store": str(tmp_path / "file")})
    with pytest.raises(RunExistsError, match="can't be read"):
        settle(asked())
    assert content(order.folder.results) == before


def test_a_resumed_run_finds_its_store_whatever_the_shell_says(
    asked: Asked, tmp_path: Path
) -> None:
    order = settle(asked())
    carried(order)
    again = asked(params=None, resume=True, rounds=2)
    found = settle(replace(again, store=str(tmp_path / "empty")))
    assert found.setting.place.store == order.setting.place.store
    shutil.move(order.folder.path / "store", tmp_path / "moved" / "one")
    found = settle(replace(again, store=str(tmp_path / "moved")))
    assert found.setting.place.store == str(tmp_path / "moved" / "one")
    with pytest.raises(RunError, match=r"has not begun in .*store or .*empty"):
        settle(replace(again, store=str(tmp_path / "empty")))


def test_what_a_killed_start_has_left_is_begun_anew_and_what_fails_is_taken_back(
    asked: Asked, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.note({"store": str(folder.path / "store")})
    (folder.path / "mine.txt").write_text("kept")
    impossible = settle(asked(overrides={"training.normalisation": "published"}))
    with pytest.raises(Exception, match="published"):
        carried(impossible)
    assert list(folder.path.iterdir()) == [folder.path / "mine.txt"]
    carried(settle(asked()))
    assert (folder.path / "mine.txt").read_text() == "kept"
