"""What `make install` installs: the versions of constraints.txt, each file by its hash."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(name: str) -> dict[str, str]:
    """Read ``NAME==VERSION`` of every line that begins so; names as packages compare them."""
    lines = re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / name).read_text())
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def names(lines: list[str]) -> set[str]:
    return {re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", line)[0]).lower() for line in lines}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_versions_are_those_of_constraints_and_none_lacks_a_hash(name: str) -> None:
    wanted, found = pinned("constraints.txt"), pinned(name)
    assert {p: v for p, v in found.items() if p in wanted and v != wanted[p]} == {}
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text())
    assert all("--hash=sha256:" in each for each in entries if not each.startswith("#"))


def test_all_that_the_project_names_is_there() -> None:
    extras = PROJECT["optional-dependencies"]
    assert names([*PROJECT["dependencies"], *extras["dask"]]) <= set(pinned("requirements.txt"))
    every = names([line for each in extras.values() for line in each])
    assert every | set(pinned("requirements.txt")) <= set(pinned("requirements-dev.txt"))


def test_an_image_brings_no_tools_of_developers() -> None:
    assert not {"pytest", "playwright", "mypy"} & set(pinned("requirements.txt"))
