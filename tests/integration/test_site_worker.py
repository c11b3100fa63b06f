"""A site's worker under a Prefect server whose password somebody hostile has.

Whoever has it can rewrite work pools and deployments and start any run. The site must run nothing
of that, and write down each attempt. A worker of Prefect's own does as those runs tell it.
"""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bed import ROOT
from fedx_core.rounds import audit
from fedx_core.sites import keys, orders
from fedx_core.sites.grants import Grant
from fedx_core.sites.home import Home
from fedx_core.sites.keys import Keys
from fedx_core.sites.orders import Order
from fedx_core.wire.messages import PROTOCOL, ClientJob, Ref
from flows.sites import command
from infra.stack.prefect_api import PrefectServer
from infra.stack.settings import Settings
from people import installed

pytestmark = pytest.mark.integration

POOL = "fedx-site-north"
ENDS = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Site:
    """A site ``north`` with its worker, and what is needed to attack it.

    Args:
        home: its folder.
        prefect: the server, with its password.
        coordinator: whose orders it takes.
        keys: of the site.
        environment: of a process that reaches the server.
        folder: for whatever else.
    """

    home: Path
    prefect: PrefectServer
    coordinator: Keys
    keys: Keys
    environment: dict[str, str]
    folder: Path

    @property
    def book(self) -> list[dict[str, Any]]:
        path = self.home / audit.FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def canary(self, name: str) -> Path:
        return self.folder / f"canary-{name}"

    def deploy(self, name: str, **more: Any) -> str:
        """Make a deployment on the site's pool, as its password allows; returns its id."""
        flow = self.prefect.post("/flows/", {"name": "fedx-site"})["id"]
        body = {"name": name, "flow_id": flow, "work_pool_name": POOL, **more}
        made = self.prefect.post("/deployments/", {"enforce_parameter_schema": False, **body})
        return str(made["id"])

    def start(self, deployment: str, **body: Any) -> str:
        path = f"/deployments/{deployment}/create_flow_run"
        return str(self.prefect.post(path, {"enforce_parameter_schema": False, **body})["id"])

    def state(self, run: str) -> dict[str, Any]:
        found = self.prefect.get(f"/flow_runs/{run}")
        assert found is not None
        state: dict[str, Any] = found["state"]
        return state

    def ends(self, runs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Wait for runs, by name; returns their final states."""
        deadline = time.monotonic() + 240
        found: dict[str, dict[str, Any]] = {}
        while time.monotonic() < deadline:
            found = {name: self.state(run) for name, run in runs.items()}
            if all(state["type"] in ENDS for state in found.values()):
                return found
            time.sleep(0.5)
        raise AssertionError(f"not all ended: {found}")

    @contextmanager
    def worker(self, kind: str, name: str = "first") -> Iterator["subprocess.Popen[bytes]"]:
        """Run a worker of a type on the site's pool, and kill it at the end."""
        log = self.folder / f"{kind}-{name}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--type", kind,
                 "--pool", POOL, "--name", f"north-{name}", "--install-policy", "never"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                print(log.read_text()[-4000:])


@pytest.fixture(scope="module")
def site(live: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    settings: Settings = live.up("prefect")
    folder = tmp_path_factory.mktemp("site")
    installed(folder / "installed")
    home = folder / "home"
    environment = {
        **live.environment(settings),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "FEDX_SITE_HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    environment["PYTHONPATH"] = f"{folder / 'installed'}:{environment['PYTHONPATH']}"
    live.run(settings, "flows.sites.deploy", "north")
    coordinator = keys.make("coordinator")
    mine = Home(home).enroll("north")
    Home(home).trust(coordinator.public, settings.s3)
    return Site(home, live.prefect(settings), coordinator, mine, environment, folder)


def order(
    issuer: Keys, to: Keys, client: str = "north", seconds: float = 600.0, plan_at: str = ""
) -> str:
    """Write an order as a flow run's parameter; its plan lies at a URL, or nowhere."""
    nothing = Ref("plan", "0" * 64, 1)
    ends = time.time() + seconds
    granted = (Grant("get", "plan", 1, plan_at, {}, ends),) if plan_at else ()
    job = ClientJob(
        protocol=PROTOCOL, run="run", round_index=1, client=client, attempt=0, seed=1,
        purpose="train", plan=nothing, base=None, mask=None, schema="", memory=None,
        uplink_key="rounds/1/north", deadline=0.0,
    )  # fmt: skip
    letter = orders.issue(Order(job, granted, None, ends), issuer, to.public)
    return base64.b64encode(letter).decode()


def test_a_site_runs_nothing_that_prefect_tells_it_and_writes_down_each_attempt(site: Site) -> None:
    evil = site.folder / "evil"
    evil.mkdir()
    for name in ("startup", "entrypoint", "adhoc"):
        touch = f"open({str(site.canary(name))!r}, 'w').close()\n"
        (evil / f"{name}.py").write_text(f"{touch}\ndef evil(): pass\n")
    (evil / "startup.py").rename(evil / "sitecustomize.py")
    # The template of the pool stands in nobody's way who may rewrite it.
    variables = {"properties": {"command": {"type": "string"}, "env": {"type": "object"}}}
    configuration = {"command": "{{ command }}", "env": "{{ env }}"}
    template = {"job_configuration": configuration, "variables": {"type": "object", **variables}}
    site.prefect.patch(f"/work_pools/{POOL}", {"base_job_template": template})
    # Prefect's own worker copies all of a deployment's folder, and a checkout holds gigabytes.
    entrypoint = "flows/sites/deploy.py"
    (site.folder / "code" / entrypoint).parent.mkdir(parents=True)
    shutil.copy(ROOT / entrypoint, site.folder / "code" / entrypoint)
    genuine = {"entrypoint": f"{entrypoint}:fedx_site", "path": str(site.folder / "code")}
    shell = {"script": f"touch {site.canary('pull')}"}
    attacks = {
        "command": (genuine, {"command": f"touch {site.canary('command')}"}),
        "startup": (genuine, {"env": {"PYTHONPATH": str(evil)}}),
        "pull": (
            {**genuine, "pull_steps": [{"prefect.deployments.steps.run_shell_script": shell}]},
            {},
        ),
        "entrypoint": ({"entrypoint": f"{evil / 'entrypoint.py'}:evil", "path": str(evil)}, {}),
    }
    deployed = {n: site.deploy(f"evil-{n}", **made) for n, (made, _) in attacks.items()}
    stranger = keys.make("stranger")
    letters: dict[str, tuple[str, str]] = {
        "no order": ("", "E_PAYLOAD"),
        "shell": ("$(touch canary)", "E_PAYLOAD"),
        "overlong": ("A" * (command.ORDER_LENGTH + 4), "E_TOO_BIG"),
        "unsigned": (order(stranger, site.keys), "E_SIGNATURE"),
        "of another site": (order(site.coordinator, stranger), "E_SIGNATURE"),
        "mixed up": (order(site.coordinator, site.keys, "south"), "E_UNKNOWN_SITE"),
        "expired": (order(site.coordinator, site.keys, seconds=-1.0), "E_STALE"),
    }

    def attack() -> dict[str, str]:
        return {
            name: site.start(deployed[name], job_variables=variables)
            if name != "startup"
            # This one gets as far as the site's command.
            else site.start(deployed[name], job_variables=variables, parameters={"order": "QUFB"})
            for name, (_, variables) in attacks.items()
        }

    plain = site.deploy("plain", **genuine)
    with site.worker("fedx-site"):
        runs = attack() | {
            name: site.start(plain, parameters={"order": text})
            for name, (text, _) in letters.items()
        }
        ends = site.ends(runs)

    assert {state["type"] for state in ends.values()} == {"FAILED"}
    codes = {name: state["message"].partition(":")[0] for name, state in ends.items()}
    assert codes == {
        **dict.fromkeys(attacks, "E_PAYLOAD"),
        "startup": "E_SIGNATURE",
        **{name: code for name, (_, code) in letters.items()},
    }
    assert [name for name in attacks if site.canary(name).exists()] == []
    assert not list(site.home.glob("memory/*"))
    book = [line for line in site.book if line["event"] == "refused"]
    assert {line["flow_run"]: line["code"] for line in book} == {
        run: codes[name] for name, run in runs.items()
    }
    assert len(book) == len(runs)

    # The same on a worker of Prefect's own: the attacks are real.
    with site.worker("process"):
        runs = attack()
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not all(site.canary(n).exists() for n in runs):
            time.sleep(0.5)
    assert [name for name in runs if not site.canary(name).exists()] == []


@contextmanager
def an_order_that_waits(site: Site) -> Iterator[tuple[socket.socket, str]]:
    """Have the site's worker carry out an order whose plan never comes.

    Returns:
        The connection on which the site's command waits, and the flow run.
    """
    deployment = site.prefect.get("/deployments/name/fedx-site/north")
    assert deployment is not None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        plan_at = f"http://127.0.0.1:{silent.getsockname()[1]}/plan"
        Home(site.home).trust(site.coordinator.public, plan_at)
        text = order(site.coordinator, site.keys, plan_at=plan_at)
        run = site.start(deployment["id"], parameters={"order": text})
        asking, _ = silent.accept()
        with asking:
            asking.settimeout(30)
            assert asking.recv(4) == b"GET "
            yield asking, run


def test_a_cancelled_order_ends_at_the_site_too(site: Site) -> None:
    with site.worker("fedx-site"), an_order_that_waits(site) as (asking, run):
        assert site.state(run)["type"] == "RUNNING"
        cancelling = {"type": "CANCELLING", "name": "Cancelling"}
        site.prefect.post(f"/flow_runs/{run}/set_state", {"state": cancelling})
        while asking.recv(4096):
            pass  # until the site hangs up, for its process is gone
        assert site.ends({"it": run})["it"]["type"] == "CANCELLED"


def test_what_a_killed_worker_has_left_ends_when_the_next_one_starts(site: Site) -> None:
    with site.worker("fedx-site") as worker, an_order_that_waits(site) as (_, run):
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        assert site.state(run)["type"] == "RUNNING"
        with site.worker("fedx-site", "next"):
            assert site.ends({"it": run})["it"]["type"] == "CRASHED"
        # The command outlives its worker, and would have finished its work.
        left = commands_of(site)
        assert len(left) == 1
        left[0].kill()


def commands_of(site: Site) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            at_home = process.environ().get("FEDX_SITE_HOME") == str(site.home)
            if at_home and process.cmdline()[1:] == list(command.COMMAND[1:]):
                found.append(process)
    return found


def test_a_site_has_one_worker(site: Site) -> None:
    with site.worker("fedx-site"):
        deadline = time.monotonic() + 60
        first = site.folder / "fedx-site-first.log"
        while "started!" not in first.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        with site.worker("fedx-site", "second") as second:
            assert second.wait(timeout=120) == 1
        assert "another worker of this site" in (site.folder / "fedx-site-second.log").read_text()
