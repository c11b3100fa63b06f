"""Roll a run back, and let its files and its copies in MLflow follow."""

import uuid
from pathlib import Path

from fedx_core.base.errors import RunError
from fedx_core.record.journal import Journal
from fedx_core.record.records import Rollback
from fedx_core.rounds.federation import history
from fedx_core.rounds.rollback import roll_back
from fedx_core.store import open_store
from flows.running import results
from flows.running.experiment import SettledRun


def go_back(settled: SettledRun, to: int) -> Rollback:
    """Let a run go on after an earlier round.

    Files of the results are those of the rounds that hold: what spoke of the run's end or of void
    rounds goes, the model too, until the run ends again. In MLflow the run so far stays, and a new
    one takes the rounds that hold and those to come.

    Args:
        settled: of a run that has begun, as for a resume.
        to: the round.

    Raises:
        RunError: a process is at work on the run, or it can't go back there.
    """
    folder, store = settled.folder, open_store(settled.setting.place.store)

    def busy() -> None:
        raise RunError(
            f"a process is at work on {settled.run!r}; stop it with `fedx stop`, then go back"
        )

    with folder.at_work(busy):
        # Sites keep what is theirs at home, and then there is no folder for it here.
        at_sites = not Path(settled.setting.place.memory).exists()
        record = roll_back(Journal(store), settled.setting.place, to, at_sites=at_sites)
        for path in (
            folder.results / "summary.json",
            folder.results / "accuracy.svg",
            folder.model,
            folder.best,
        ):
            path.unlink(missing_ok=True)
        for path in folder.pruning.glob("*.safetensors"):
            if path.stem.isdigit() and int(path.stem) > to:
                path.unlink()
        results.write_rounds(folder, history(store))
        # Points in MLflow are never taken back, so the rounds to come are another run's there.
        copies: dict[str, dict[str, str]] = {
            place: {} for place in folder.notes().get("mlflow", {})
        }
        folder.note({"id": uuid.uuid4().hex, "mlflow": copies, "status": "RUNNING"})
    return record
