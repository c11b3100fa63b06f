"""A sweep's runs in the test's own process, since each of their own takes seconds to start."""

from fedx_core.base import config
from flows.running import experiment
from flows.runs import run_folder
from flows.runs.live import display
from flows.sweeps.sweep import Job, Places
from flows.tracking import NoTracker


class Here:
    """Carries runs out in this process, and remembers which."""

    def __init__(self, places: Places, failing: str = "") -> None:
        self.places, self.failing, self.ran = places, failing, list[str]()

    def __call__(self, job: Job) -> str:
        step = job.step
        self.ran.append(step.run)
        if self.failing and self.failing in step.run:
            return "error E_X: made to fail"
        params = self.places.run_root / ".params" / f"{step.run}.yaml"
        run_folder.write_yaml(params, config.as_plain(step.settings))
        request = experiment.Request(
            run=step.run,
            params=str(params),
            run_root=str(self.places.run_root),
            data_root=str(job.data_root),
            branch_from=step.origin or None,
            resume=job.standing == "begun",
        )
        order = experiment.settle(request)
        experiment.carry_out(
            order, run_at="here", workers=1, display=display("nothing"), tracker=NoTracker()
        )
        return ""
