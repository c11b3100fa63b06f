"""Back-ups of runs whose store is a real S3 server, and of sites with their coordinator."""

import shutil
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from typer.testing import CliRunner

from bed import Bed, tiny
from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from flows.backup.gather import Wanted, back_up
from flows.backup.restore import Places, restore
from flows.carriers.runtimes import choose
from flows.cli import app
from flows.runs.run_folder import RunFolder
from institutions import CLIENTS, Sites

pytestmark = pytest.mark.integration

QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


def states(store: str) -> list[str]:
    return [commit.state.sha256 for commit in Journal(open_store(store)).commits()]


def emptied(uri: str) -> None:
    """Delete all objects under a URI."""
    import boto3

    parts = urlsplit(f"{uri.rstrip('/')}/")
    bucket = boto3.Session().resource("s3").Bucket(parts.netloc)
    for found in bucket.objects.filter(Prefix=parts.path[1:]):
        found.delete()


def test_a_run_in_s3_that_was_lost_and_restored_ends_in_the_same_bytes(
    bed: Bed, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDX_DATA_ROOT", str(bed.data))
    Path("params.yaml").write_text(yaml.safe_dump(config.as_plain(tiny()), sort_keys=False))
    shared = f"{s3}/backup"

    def fedx(*arguments: str) -> None:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output

    fedx("run", *QUIETLY, "--run", "straight", "--rounds", "4")
    fedx("run", *QUIETLY, "--run", "lost", "--rounds", "2", "--store", shared)
    fedx("backup", "kept.zip", "--run", "lost", "--store", shared)
    shutil.rmtree("runs/lost")
    emptied(f"{shared}/lost")
    fedx("restore", "kept.zip", "--store", shared)
    assert not Path("runs/lost/store").exists()
    fedx("restore", "kept.zip", "--into", "away")  # from S3 onto a disk
    fedx("resume", "lost", *QUIETLY, "--rounds", "4")
    fedx("resume", "lost", *QUIETLY, "--rounds", "4", "--run-root", "away/runs")
    right = states("runs/straight/store")
    # Of states that were not kept the hashes are in the journal.
    assert states(f"{shared}/lost") == right
    assert states("away/runs/lost/store") == right


def test_sites_and_their_coordinator_go_on_from_their_backups(
    bed: Bed, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of the run is all parties' life after a loss of everything but images."""
    sites = Sites(tmp_path / "sites", bed, f"{s3}/backup-of-sites")
    monkeypatch.setenv("FEDX_COORDINATOR_HOME", str(sites.registry.folder))
    local = tiny(training__batch_norm="local")  # so that sites keep something to themselves
    here, there = bed.setting("here"), sites.setting("there")
    list(federate(replaced(local, 4), here, InProcess(1)))
    rounds(sites, there, replaced(local, 2))

    run = RunFolder(bed.runs / "there")
    run.path.mkdir(parents=True, exist_ok=True)
    run.note({"store": there.place.store})
    wanted = Wanted(
        runs=("there",), run_root=bed.runs, store=None, coordinator=sites.registry.folder,
        site=tmp_path / "none", mlflow=tmp_path / "none",
    )  # fmt: skip
    back_up(tmp_path / "coordinator.zip", wanted)
    for name in CLIENTS:
        wanted = replace(
            wanted, runs=(), run_root=tmp_path / "none", coordinator=tmp_path / "none",
            site=sites.home(name).folder,
        )  # fmt: skip
        back_up(tmp_path / f"{name}.zip", wanted)
    before = [sites.registry.keys.public, *(sites.home(name).keys.public for name in CLIENTS)]
    for folder in (run.path, sites.registry.folder, *(sites.home(n).folder for n in CLIENTS)):
        shutil.rmtree(folder)
    emptied(there.place.store)

    places = Places(
        run_root=bed.runs, store=f"{sites.bucket}/sites", coordinator=sites.registry.folder,
        site=tmp_path / "none", mlflow=tmp_path / "none",
    )  # fmt: skip
    restore(tmp_path / "coordinator.zip", places)
    for name in CLIENTS:
        restore(tmp_path / f"{name}.zip", replace(places, site=sites.home(name).folder))
    after = [sites.registry.keys.public, *(sites.home(name).keys.public for name in CLIENTS)]
    assert after == before
    rounds(sites, there, replaced(local, 4), resume=True)
    assert states(there.place.store) == states(here.place.store)


def replaced(settings: ExperimentConfig, count: int) -> ExperimentConfig:
    return replace(settings, federation=replace(settings.federation, rounds=count))


def rounds(
    sites: Sites, setting: Setting, settings: ExperimentConfig, *, resume: bool = False
) -> None:
    """Do rounds at sites whose people agree to whatever they are asked."""
    done = threading.Event()

    def people() -> None:
        while not done.wait(0.2):
            sites.agree()

    watching = threading.Thread(target=people)
    watching.start()
    try:
        with ExitStack() as at_work:
            for name in CLIENTS:
                at_work.enter_context(sites.process(name, "--invitation", str(sites.invite(name))))
            runtime = at_work.enter_context(
                choose("sites", 1, setting.place, sites.said.append, engine=False)
            )
            list(federate(settings, setting, runtime, resume=resume))
    finally:
        done.set()
        watching.join()
