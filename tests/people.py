"""Unix users with folders of their own, who run FedX as people at different institutions do."""

import contextlib
import os
import secrets
import shutil
import site
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from bed import ROOT

PACKAGES = os.pathsep.join([*site.getsitepackages(), str(ROOT)])


@dataclass(frozen=True)
class Person:
    """A user whose folder nobody else may enter.

    Args:
        name: of the user.
        folder: the user's own.
        python: an interpreter that the user can run.
        environment: of the user's processes.
    """

    name: str
    folder: Path
    python: str
    environment: Mapping[str, str] = field(repr=False)
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list, repr=False)

    def run(self, *command: str, seconds: float = 300) -> str:
        """Run ``python`` with arguments in the user's folder; it must succeed."""
        done = self.tries([self.python, *command], seconds)
        assert done.returncode == 0, f"{self.name}: {command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def tries(self, command: list[str], seconds: float = 60) -> "subprocess.CompletedProcess[str]":
        """Run any program, which may fail."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=dict(self.environment),
            user=self.name,
            group=self.name,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def starts(self, log: str, *command: str, **more: str) -> "subprocess.Popen[bytes]":
        """Start ``python`` with arguments and more environment; it ends with the user."""
        with (self.folder / log).open("wb") as out:
            process = subprocess.Popen(
                [self.python, *command],
                cwd=self.folder,
                env={**self.environment, **more},
                user=self.name,
                group=self.name,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def owns(self) -> None:
        """Give the user all that lies in the folder, and nobody else a look at it."""
        for path in (self.folder, *self.folder.rglob("*")):
            shutil.chown(path, self.name, self.name)
        self.folder.chmod(0o700)

    def logs(self) -> str:
        """The end of every log, for messages."""
        paths = sorted(self.folder.glob("*.log"))
        return "".join(f"\n--- {self.name} {p.name}\n{p.read_text()[-6000:]}" for p in paths)


def installed(folder: Path) -> None:
    """Say what pyproject.toml declares, as an installation of FedX does."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    about = folder / "fedx-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fedx\nVersion: 0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items())
             for group, names in declared.items()]  # fmt: skip
    (about / "entry_points.txt").write_text("".join(lines))


@contextmanager
def people() -> Iterator[Callable[..., Person]]:
    """Make users, as ``make(role, **environment)``; with the last one all processes of theirs end.

    The test skips where users can't be made or can't run FedX.
    """
    if os.geteuid() != 0 or not shutil.which("useradd"):
        pytest.skip("only root can make Unix users, with useradd")
    common = Path(tempfile.mkdtemp(prefix="fedx-people-"))
    common.chmod(0o711)
    made: dict[str, Person] = {}

    def make(role: str, **environment: str) -> Person:
        name, folder = f"fedx-{secrets.token_hex(3)}-{role}", common / role
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", str(folder)]
        subprocess.run(["useradd", *options, "--shell", "/usr/sbin/nologin", name], check=True)
        (folder / "tmp").mkdir(parents=True)
        inherited = {n: v for n in ("PATH", "LANG", "FEDX_SHARED_DATA") if (v := os.environ.get(n))}
        own = {
            **inherited,
            "HOME": str(folder),
            "PYTHONPATH": PACKAGES,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PREFECT_HOME": str(folder / "prefect"),
            "TMPDIR": str(folder / "tmp"),  # Prefect's workers share a folder there
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        person = Person(name, folder, "", own)
        made[name] = person
        person.owns()
        made[name] = replace(person, python=_python(person))
        return made[name]

    try:
        yield make
    finally:
        for running in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess):
                if running.username() in made:
                    running.kill()
        for name, person in made.items():
            for process in person.started:
                process.wait()
            subprocess.run(["userdel", "--force", name], check=False, capture_output=True)
        shutil.rmtree(common, ignore_errors=True)


def _python(person: Person) -> str:
    """Find an interpreter that a user can run with these packages."""
    said = ""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, shutil.which(version, path="/usr/bin:/usr/local/bin")):
        if python is not None:
            try:
                done = person.tries([python, "-c", "import numpy, flows.cli"])
            except PermissionError as error:
                said = str(error)
                continue
            if done.returncode == 0:
                return python
            said = done.stderr.strip()[-200:]
    pytest.skip(f"no other user can run this Python and FedX: {said}")
