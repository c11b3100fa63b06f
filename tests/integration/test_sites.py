"""A coordinator and two sites: three Unix users, a real object store, a real Prefect server.

One site is woken by Prefect, the other stays at work. They have nothing in common but the servers,
and what people carry from one to the other.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import leaks
from bed import ROOT, tiny
from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.state import equal
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from flows.data.partition import partition
from flows.data.prepare import prepare
from flows.data.reference import reference
from infra.stack import bootstrap
from infra.stack.settings import Settings
from people import Person, installed, people

pytestmark = pytest.mark.integration

NAMES = ("client-00", "client-01")
Make = Callable[..., Person]


@pytest.fixture
def make() -> Iterator[Make]:
    with people() as users:
        yield users


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Root of a data set of few real images in two shards."""
    root = tmp_path_factory.mktemp("eurosat")
    for stage in (prepare, partition, reference):
        stage(settings(), "eurosat", root)
    return root


def settings() -> ExperimentConfig:
    return tiny(
        dataset="eurosat",
        datasets__eurosat__source__limit=240,
        datasets__eurosat__partition__clients=2,
        datasets__eurosat__reference__per_class=1,
        federation__rounds=2,
        method__warmup_rounds=1,
        method__relevance={"name": "lrp"},
    )


def test_three_users_on_real_images_train_the_model_of_one_process(
    apart: Any, make: Make, eurosat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: Settings = apart.up("s3")
    apart.up("prefect")
    keys = servers.client_environment()
    prefect = {n: v for n, v in keys.items() if n.startswith("PREFECT_")}
    prefect["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    store = {n: v for n, v in keys.items() if n.startswith("AWS_")}
    coordinator = make("coordinator", **prefect, **store)
    # No key of the object store is at a site, and Prefect's password only where it wakes the site.
    woken, warm = make("woken", **prefect), make("warm")
    sites = dict(zip(NAMES, (woken, warm), strict=True))
    shared_out(eurosat / "eurosat", coordinator, sites)
    (coordinator.folder / "params.yaml").write_text(yaml.safe_dump(config.as_plain(settings())))
    installed(woken.folder / "installed")
    woken.owns()

    introduce(coordinator, sites, servers.s3)
    server = apart.prefect(servers)
    bootstrap.make_pools(server, 1, ())
    # Not the checkout: Prefect reads .env where it runs, which `make up` leaves to its owner alone.
    code = coordinator.folder / "code"
    code.mkdir()
    for package in ("fedx_core", "flows"):
        (code / package).symlink_to(ROOT / package)
    bootstrap.deploy(server, {**keys, "FEDX_HOME": str(code)}, (), tmp_path, print)
    coordinator.run("-m", "flows.sites.deploy", *NAMES)
    worker = ("-m", "prefect", "worker", "start", "--install-policy", "never")
    own = {
        "FEDX_COORDINATOR_HOME": str(coordinator.folder / "sites"),
        "FEDX_DATA_ROOT": str(coordinator.folder / "data"),
        "FEDX_RUN_ROOT": str(coordinator.folder / "runs"),
        "FEDX_STORE": "s3://fedx/runs",
    }
    coordinator.starts("worker.log", *worker, "--pool", "fedx-server", **own)
    pool = "fedx-site-client-00"
    path = {"PYTHONPATH": f"{woken.folder / 'installed'}:{woken.environment['PYTHONPATH']}"}
    woken.starts("worker.log", *worker, "--type", "fedx-site", "--pool", pool, **path)
    invitation = carried(coordinator, "client-01.invitation", warm)
    warm.starts("serve.log", "-m", "flows.cli", "site", "serve", "--invitation", invitation)

    loop = coordinator.starts(
        "loop.log", "-m", "prefect", "deployment", "run", "fedx/round-loop", "--watch",
        "-p", "run=three", "-p", "run_at=sites", "-p", "track=nothing",
        "-p", f"params={coordinator.folder / 'params.yaml'}",
    )  # fmt: skip
    try:
        for site in (woken, warm):
            approve(site, loop)
        assert loop.wait(timeout=600) == 0
    except BaseException:
        print(*(person.logs() for person in (coordinator, woken, warm)))
        raise

    here = Setting(
        run="here",
        data=eurosat / "eurosat",
        place=Place(
            store=str(tmp_path / "store"),
            shards=str(eurosat / "eurosat" / "shards"),
            memory=str(tmp_path / "memory"),
        ),
    )
    expected = list(federate(settings(), here, InProcess(1)))
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    there = open_store("s3://fedx/runs/three")
    assert equal(final_model(there), final_model(open_store(here.place.store)))
    assert [r.metrics for r in history(there)] == [r.metrics for r in expected]
    assert expected[0].pruned
    # What belongs to somebody stays with them: asked of the machine, as each of them.
    everybody = (coordinator, woken, warm)
    for person in everybody:
        for other in everybody:
            listed = person.tries(["find", str(other.folder), "-name", "keys.json"])
            assert (listed.returncode == 0) == (person is other), (person, other, listed)
            assert bool(listed.stdout) == (person is other)
    database = apart.stack.var / "prefect" / "prefect.db"
    secrets = {"s3": b"canary-of-s3", "prefect": b"canary-of-prefect"}
    for person in everybody:
        secrets |= keys_of(person)
    for site in (woken, warm):
        secrets[f"folder of {site.name}"] = str(site.folder).encode()
    values = list(leaks.rows(database))
    assert any(place == "flow_run.parameters" and b"order" in said for place, said in values)
    found = {(place, *leaks.leaked(said, secrets)) for place, said in values}
    assert {each for each in found if len(each) > 1} == set()


def keys_of(person: Person) -> dict[str, bytes]:
    """Read somebody's secret keys, as root may, by whose they are and what for."""
    (path,) = person.folder.glob("*/keys.json")
    said = json.loads(path.read_text())
    return {
        f"{half} of {person.name}": bytes.fromhex(said[half]) for half in ("signing", "sealing")
    }


def shared_out(data: Path, coordinator: Person, sites: dict[str, Person]) -> None:
    """Give each site its shard, and the coordinator its test set and its reference set."""
    for name, site in sites.items():
        shutil.copytree(data / "shards" / name, site.folder / "shards" / name)
        site.owns()
    away = shutil.ignore_patterns("shards", "train.*")
    shutil.copytree(data, coordinator.folder / "data" / "eurosat", ignore=away)
    coordinator.owns()


def introduce(coordinator: Person, sites: dict[str, Person], store: str) -> None:
    """Have people carry public keys both ways, and the warm site's invitation."""
    fedx = ("-m", "flows.cli", "site")
    for name, site in sites.items():
        site.run(*fedx, "enroll", name)
        request = carried(site, "site/request.json", coordinator)
        coordinator.run(*fedx, "admit", request, "--yes", "--max-examples", "150")
        card = carried(coordinator, "sites/coordinator.json", site)
        site.run(*fedx, "trust", card, "--yes", "--store", store)
    coordinator.run(*fedx, "roster", "eurosat", "--params", "params.yaml")
    coordinator.run(*fedx, "invite", NAMES[1], "--store", "s3://fedx/runs")


def carried(giver: Person, file: str, taker: Person) -> str:
    """Carry a file from one person to another; returns its new path."""
    path = taker.folder / Path(file).name
    shutil.copy(giver.folder / file, path)
    shutil.chown(path, taker.name, taker.name)
    return str(path)


def approve(site: Person, loop: "subprocess.Popen[bytes]") -> None:
    """Wait until a run asks the site to follow a plan, and agree to it."""
    deadline = time.monotonic() + 300
    asked: list[Path] = []
    while not asked:
        assert time.monotonic() < deadline, f"{site.name} was never asked"
        assert loop.poll() is None, "the run has ended"
        time.sleep(0.5)
        asked = list((site.folder / "site" / "plans" / "asked").glob("*.job"))
    said = site.run("-m", "flows.cli", "site", "approve", asked[0].stem[:12], "--yes")
    assert "is agreed to" in said
