"""A run from what was asked to what came of it."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from bed import tiny
from fedx_core import config
from fedx_core.federation import history
from fedx_core.store import open_store
from flows.experiment import Request, carry_out, settle
from flows.live import Beside, display
from flows.tracking import NoTracker


@dataclass
class Listening(Beside):
    """Knows when it is warned."""

    warned: threading.Event = field(default_factory=threading.Event)

    def warn(self, line: str) -> None:
        assert "another process is at work on run 'one'" in line
        self.warned.set()


def test_who_finds_a_run_at_work_goes_on_after_it(tmp_path: Path, tiny_data: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(tiny(federation__rounds=1))))
    order = settle(
        Request(
            run="one",
            params=str(params),
            run_root=str(tmp_path / "runs"),
            data_root=str(tiny_data),
        )
    )
    assert order.setting.audit == order.folder.path
    shown = Listening(display("nothing"))

    def work() -> None:
        carry_out(order, run_at="here", workers=1, display=shown, tracker=NoTracker())

    store = open_store(order.setting.place.store)
    thread = threading.Thread(target=work)
    with order.folder.at_work(lambda: None):
        thread.start()
        assert shown.warned.wait(60)
        assert history(store) == []
    thread.join()
    assert len(history(store)) == 1
