import shutil
from pathlib import Path

import pytest
import yaml

from bed import tiny
from fedx_core.base import config
from flows.report.files import write_report
from flows.report.gather import gather
from reported import Written


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory, finished_run: Path, tiny_data: Path) -> Path:
    """Folder of the two runs."""
    from flows.running.experiment import carry_out, settle
    from flows.runs.live import display
    from flows.settings.request import Request
    from flows.tracking import NoTracker

    root = tmp_path_factory.mktemp("two")
    shutil.copytree(finished_run, root / "base")
    params = root / "params.yaml"
    settings = tiny(method__relevance={"name": "random"})
    params.write_text(yaml.safe_dump(config.as_plain(settings), sort_keys=False))
    request = Request(
        run="chance", params=str(params), run_root=str(root), data_root=str(tiny_data)
    )
    order = settle(request)
    carry_out(order, run_at="here", workers=1, display=display("nothing"), tracker=NoTracker())
    return root


@pytest.fixture(scope="session")
def written(two_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Written:
    runs = gather(two_runs, ["base", "chance"])
    folder = tmp_path_factory.mktemp("report")
    return Written(two_runs, runs, write_report(runs, folder, heat_maps=1, accuracy=None))
