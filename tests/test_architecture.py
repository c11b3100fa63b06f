"""The core stands alone: layers hold, nothing heavy or chatty is imported, nothing is contacted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Run in a fresh interpreter: this one has imported whatever other tests needed.
REFUSE = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise AssertionError(f"the core imports {name}")

def offline(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind"):
        raise AssertionError(f"importing does {event} {arguments}")

sys.meta_path.insert(0, Refuse())
sys.addaudithook(offline)
"""
EVERYTHING = """
import fedx_core
for module in pkgutil.walk_packages(fedx_core.__path__, "fedx_core."):
    importlib.import_module(module.name)
assert "fedx_core.rounds.federation" in sys.modules and "fedx_core.relevance.lrp" in sys.modules
"""
CLIENT = "import fedx_core.rounds.federation"
PLANNING = ("flows", "prefect", "mlflow", "dvc", "matplotlib", "pydantic")
SLOW = ("torchvision", "timm", "zennit", "boto3", "torchgeo", "rasterio", "pandas", "torchmetrics")


def run(code: str, forbidden: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"FORBIDDEN = {forbidden}\n{REFUSE}\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        pytest.param(EVERYTHING, PLANNING, id="every module, without the planners"),
        pytest.param(CLIENT, PLANNING + SLOW, id="the loop over rounds, without slow packages"),
    ],
)
def test_importing_the_core_needs_little_contacts_nobody_and_prints_nothing(
    code: str, forbidden: tuple[str, ...]
) -> None:
    done = run(code, forbidden)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "code", ["import pydantic", "import socket; socket.create_connection(('127.0.0.1', 9))"]
)
def test_the_guards_of_the_test_above_do_refuse(code: str) -> None:
    assert "AssertionError" in run(code, PLANNING).stderr


def test_the_import_rules_of_pyproject_hold() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
