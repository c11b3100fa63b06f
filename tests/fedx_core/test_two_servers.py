"""Two servers of one run: what one of them has committed, the other leaves alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, tiny
from coordinators import final_state
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import LostRaceError
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.wire.messages import ClientJob

WHAT_STAYS = ("journal", "states", "masks-units", "pruning", "plans")


def records(setting: Setting) -> dict[str, bytes]:
    root = Path(setting.place.store)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in WHAT_STAYS
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


@dataclass
class Beaten(InProcess):
    """Lets a second server do all the rounds once the first one has come to some step."""

    settings: ExperimentConfig = field(kw_only=True)
    setting: Setting = field(kw_only=True)
    at: str = field(kw_only=True)
    left: dict[str, bytes] | None = None

    def server_step(self, name: str, step: Callable[..., Any], *arguments: Any) -> Any:
        self._come_to(name)
        return step(*arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        self._come_to("train")
        super().send(jobs, place)

    def do(self, job: ClientJob, place: Place) -> Outcome:
        if job.client == "client-01":
            self._come_to("amid training")
        return super().do(job, place)

    def _come_to(self, step: str) -> None:
        if step == self.at and self.left is None:
            list(federate(self.settings, self.setting, InProcess(1), resume=True))
            self.left = records(self.setting)


@pytest.fixture(scope="module")
def alone(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    setting = Bed(tiny_data, tmp_path_factory.mktemp("alone")).setting()
    list(federate(tiny(federation__rounds=2, method__warmup_rounds=1), setting, InProcess(1)))
    return final_state(setting)


@pytest.mark.parametrize(
    "at", ["dispatch", "train", "amid training", "aggregate", "prune", "evaluate", "commit"]
)
def test_a_server_that_another_one_has_overtaken_leaves_having_changed_nothing(
    at: str, bed: Bed, alone: str
) -> None:
    settings = tiny(federation__rounds=2, method__warmup_rounds=1)
    beaten = Beaten(settings=settings, setting=bed.setting(), at=at)
    with pytest.raises(LostRaceError, match="another server of this run; this one stops"):
        list(federate(settings, bed.setting(), beaten))
    assert beaten.left is not None
    assert records(bed.setting()) == beaten.left
    assert final_state(bed.setting()) == alone
    assert len([key for key in beaten.left if key.endswith(("closed", "closed.1"))]) == 2
