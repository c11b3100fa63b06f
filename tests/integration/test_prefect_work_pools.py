"""The flow on a real Prefect server, with clients on a work pool of their own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import ROOT, Bed, tiny
from fedx_core import config
from fedx_core.federation import federate, final_model, history
from fedx_core.runtime import InProcess
from fedx_core.state import equal
from fedx_core.store import open_store

pytestmark = pytest.mark.integration


class Stack:
    """A Prefect server and workers, each in a process group that can be killed as a whole."""

    def __init__(self, folder: Path, data: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}/api"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "FEDX_HOME": str(ROOT),
            "FEDX_DATA_ROOT": str(data),
            "FEDX_RUN_ROOT": str(folder / "runs"),
        }

    def start(self, name: str, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                cwd=ROOT,
                env=self.environment | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def prefect(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def read(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def wait(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            assert server.poll() is None, self.logs()
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.3)
        pytest.fail("Prefect's server did not answer within 180 s\n" + self.logs())

    def logs(self) -> str:
        return "".join(
            f"\n--- {path.name}\n{path.read_text()[-4000:]}" for path in self.folder.glob("*.log")
        )

    def stop(self) -> None:
        """Ask, then insist: idle workers have been seen to survive SIGTERM."""
        for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
            for process in reversed(self.processes):
                if process.poll() is None or number == signal.SIGKILL:
                    try:
                        os.killpg(process.pid, number)
                    except ProcessLookupError:
                        continue
            deadline = time.monotonic() + seconds
            for process in self.processes:
                try:
                    process.wait(max(deadline - time.monotonic(), 0.1))
                except subprocess.TimeoutExpired:
                    continue


@pytest.fixture(scope="module")
def stack(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Stack(tmp_path_factory.mktemp("stack"), tiny_data, port)
    try:
        running.wait(
            running.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        )
        for pool in ("fedx-server", "fedx-clients"):
            running.prefect("work-pool", "create", pool, "--type", "process")
        running.prefect("--no-prompt", "deploy", "--all")
        for pool in ("fedx-server", "fedx-clients"):
            running.start(pool, "worker", "start", "--pool", pool, "--name", pool)
        yield running
    finally:
        running.stop()


def test_work_pools_give_the_bytes_of_one_process(stack: Stack, bed: Bed) -> None:
    settings = tiny(federation__rounds=2, federation__participation=0.5, method__warmup_rounds=1)
    expected = list(federate(settings, bed.setting(), InProcess(1)))
    params = stack.folder / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(settings)))

    said = stack.prefect(
        "deployment", "run", "fedx/round-loop",
        "-p", "run=pools", "-p", f"params={params}", "-p", "track=nothing", "--watch",
    )  # fmt: skip

    folder = stack.folder / "runs" / "pools"
    assert folder.is_dir(), said + stack.logs()
    there, here = open_store(str(folder / "store")), open_store(bed.setting().place.store)
    assert equal(final_model(there), final_model(here))
    assert [r.traffic for r in history(there)] == [r.traffic for r in expected]
    assert [r.metrics for r in history(there)] == [r.metrics for r in expected]

    runs = stack.read("/flow_runs/filter", {})
    assert {run["state_type"] for run in runs} == {"COMPLETED"}
    # The cohort of each round, and every client's score at the end.
    trained = [f"r{report.round_index}-{c}" for report in expected for c in report.cohort]
    scored = [f"r2-{c}" for c in expected[-1].per_client]
    assert len(trained) == 4
    assert sorted(run["name"] for run in runs) == sorted(["fedx pools", *trained, *scored])
    steps = ("dispatch", "aggregate", "relevance", "prune", "evaluate", "commit")
    wanted = {f"{step}-r{round_index}" for step in steps for round_index in (1, 2)}
    deadline = time.monotonic() + 20  # task runs reach the server's pages as events
    found: set[str] = set()
    while not wanted <= found and time.monotonic() < deadline:
        found = {run["name"] for run in stack.read("/task_runs/filter", {})}
        time.sleep(0.5)
    assert wanted <= found
