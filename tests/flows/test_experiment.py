"""A run from what was asked to what came of it."""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import tiny
from fedx_core.base import config, cores
from fedx_core.base.errors import DataError, FedXError, RunError, RunExistsError
from fedx_core.rounds import advice, start
from fedx_core.rounds.federation import history
from fedx_core.store import open_store
from flows.data.partition import partition
from flows.running.experiment import SettledRun, carry_out, settle
from flows.runs.live import Beside, display
from flows.runs.run_folder import RunFolder
from flows.settings.request import Request
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


def carried(order: SettledRun, shown: Beside | None = None) -> None:
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
    order = settle(asked())
    late = replace(order.settings.training, normalisation="published")
    with pytest.raises(DataError, match="published"):
        carried(replace(order, settings=replace(order.settings, training=late)))
    assert list(folder.path.iterdir()) == [folder.path / "mine.txt"]
    carried(settle(asked()))
    assert (folder.path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("training.device", "gpu", "no device 'gpu'; choose auto"),
        ("training.device", "", "no device ''"),
        ("training.device", "mps", "no device 'mps'"),
        ("training.device", "cuda:x", "no device 'cuda:x'"),
        ("training.device", "cuda:99", "device 'cuda:99' was asked for, but torch sees"),
        ("training.batch_size", 1, "BatchNorm has no variance of one image"),
        ("training.normalisation", "published", "no published statistics"),
        ("model.name", "resnet-18", "did you mean 'resnet18'"),
        ("model.weights", "nowhere.safetensors", "nowhere"),
        ("method.paper_mode", True, "training.shrink"),
        ("method.coupled", "perhaps", "method.coupled: wanted true or false"),
        ("trainin.epochs", 1, "did you mean 'training'"),
        ("federation.selection", {"metric": "los", "patience": 1, "min_delta": 0}, "los"),
    ],
)
def test_what_can_be_refused_is_refused_before_there_is_a_folder(
    asked: Asked, tmp_path: Path, path: str, value: object, said: str
) -> None:
    with pytest.raises(FedXError, match=said):
        settle(asked(overrides={path: value}))
    assert not (tmp_path / "runs").exists()


def test_a_client_with_one_image_is_named_before_there_is_a_folder(
    asked: Asked, tmp_path: Path, tiny_data: Path
) -> None:
    root, name = tmp_path / "data", "synthetic"
    (root / name).mkdir(parents=True)
    for part in ("prepared", "reference"):
        (root / name / part).symlink_to(tiny_data / name / part)
    clients = {"datasets.synthetic.partition.clients": 96}
    partition(tiny(**clients), name, root)
    with pytest.raises(DataError, match=r"client 'client-00' .and 95 more. has 1 training image"):
        settle(asked(data_root=str(root), overrides=clients))
    assert not (tmp_path / "runs").exists()
    without = {"model.name": "convnextv2_atto", "method.name": "fedavg"}
    assert settle(asked(data_root=str(root), overrides=clients | without)).settings
    pooled = {"method.name": "centralised"}
    assert settle(asked(run="two", data_root=str(root), overrides=clients | pooled)).settings


def test_clients_with_fewer_images_than_a_batch_are_said(asked: Asked) -> None:
    told: list[str] = []

    class Told(Beside):
        def warn(self, line: str) -> None:
            told.append(line)

    small = {"training.batch_size": 40, "method.name": "fedavg"}
    carried(settle(asked(overrides=small)), Told(display("nothing")))
    assert [line for line in told if "training.batch_size=4" in line] == told
    assert "3 of 3 clients have fewer training images (32) than training.batch_size (40)" in told[0]


@pytest.mark.parametrize(
    ("overrides", "takes"),
    [
        ({"federation.rounds": 2}, 0),
        ({"federation.rounds": 1}, 2),
        ({"federation.rounds": 3, "method.recompute_every": 2, "method.recompute_times": 2}, 4),
        ({"federation.rounds": 1, "method.name": "fedavg"}, 0),
        ({"federation.rounds": 1, "method.name": "feddst", "method.adjust_until": 9}, 0),
        ({"federation.rounds": 1, "method.name": "feddip", "method.target_round": 7}, 7),
    ],
)
def test_rounds_that_end_before_the_method_is_done_are_said(
    overrides: dict[str, Any], takes: int, asked: Asked
) -> None:
    settled = settle(asked(overrides=overrides))
    said = advice.lines(settled.settings, start.load(settled.setting, settled.settings))
    wanted = (
        f"the run ends after round {overrides['federation.rounds']}, before "
        f"{settled.settings.method.name} has done all that its settings say, which takes {takes} "
    )
    assert [line.startswith(wanted) for line in said] == [True] * bool(takes)


IN_VAIN = {
    "training.label_smoothing does nothing": {
        "training.label_smoothing": 0.1, "training.objective": {"name": "simclr"},
    },
    "training.class_weights does nothing": {
        "training.class_weights": "balanced", "training.objective": {"name": "byol"},
    },
    "recovery distil does nothing": {"recovery": {"name": "distil"}},
    "federation.grace does nothing": {"federation.grace": 9.0},
    "training.cpu_amp: this machine's processor": {"training.cpu_amp": True},
}  # fmt: skip


@pytest.mark.parametrize("wanted", IN_VAIN)
def test_settings_that_do_nothing_or_the_contrary_are_said(
    wanted: str, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "sixteen_bits", lambda: False)
    overrides = {"method.name": "fedavg", **IN_VAIN[wanted]}
    settled = settle(asked(overrides=overrides))
    said = advice.lines(settled.settings, start.load(settled.setting, settled.settings))
    assert [line.startswith(wanted) for line in said] == [True]


def test_the_same_settings_where_they_do_something_are_not_said(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "sixteen_bits", lambda: True)
    overrides = {
        "training.label_smoothing": 0.1, "training.class_weights": "balanced",
        "training.cpu_amp": True, "recovery": {"name": "distil"}, "federation.rounds": 3,
        "federation.grace": 9.0, "federation.round_timeout": 60.0,
    }  # fmt: skip
    settled = settle(asked(overrides=overrides))
    assert advice.lines(settled.settings, start.load(settled.setting, settled.settings)) == []
