"""Stage ``federate``: the experiment of ``params.yaml``, from the first round to the last.

python -m flows.stages.federate [--params params.yaml] [--data-root data] [--run-root runs] [--out
DIR]

A run of its own, ``runs/experiment-<digest>``, named after its settings, data and code: what was
stopped goes on when the stage is repeated, and variants of ``dvc exp run`` keep out of each other's
way. What DVC versions is a copy of what the run left, without its checkpoints.
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import FedXError
from fedx_core.base.frozen_json import canonical
from fedx_core.images import contents
from fedx_core.record.journal import Journal
from fedx_core.store import open_store
from flows.ending import away
from flows.running.experiment import git_commit
from flows.runs import run_folder
from flows.runs.run_folder import RunFolder
from flows.settings.request import How, Request


def name_of(settings: ExperimentConfig, data: Path) -> str:
    """Name the run of some settings, these data and this code.

    Args:
        settings: of the experiment; data sets that it does not use change nothing.
        data: folder of the one that it uses.

    Raises:
        DataError: it was not prepared.
    """
    plain = config.as_plain(settings)
    plain["datasets"] = plain["datasets"][settings.dataset]
    del plain["prepare"]
    content = contents.of_data(data, data / "shards")
    digest = hashlib.sha256(canonical([plain, git_commit(), content])).hexdigest()
    return f"experiment-{digest[:10]}"


def federate(params: Path, data_root: Path, run_root: Path, out: Path) -> Path:
    """Run the experiment and copy what it left.

    Args:
        params: the settings.
        data_root: folder of all data sets.
        run_root: folder of all runs.
        out: the folder to write; what it held is replaced.

    Returns:
        ``out``, with config.yaml, run.yaml, model.safetensors and results.

    Raises:
        FedXError: the run can't go on; repeating the stage goes on after its last round.
    """
    from flows.deployments.start import start

    settings = config.load(params)
    folder = RunFolder(run_root / name_of(settings, data_root / settings.dataset))
    if (folder.results / "summary.json").exists():
        # DVC keeps what that run left; it asks again because code has changed since.
        shutil.rmtree(folder.path)
    begun = Journal(open_store(run_folder.store_of(None, folder))).run() is not None
    request = Request(
        run=folder.name,
        run_root=str(run_root),
        data_root=str(data_root),
        params=None if begun else str(params),
        resume=begun,
    )
    start(request, How(), engine=False, as_json=False)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in (folder.config, folder.about, folder.model):
        shutil.copy2(path, out)
    shutil.copytree(folder.results, out / "results")
    return out


def main() -> int:
    """Run the stage from the command line; errors go to stderr, with exit code 1."""
    parser = argparse.ArgumentParser(description="Run the experiment of params.yaml.")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--run-root", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("experiment/federate"))
    options = parser.parse_args()
    try:
        federate(options.params, options.data_root, options.run_root, options.out)
    except FedXError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    away.leave(main())
