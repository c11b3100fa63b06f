import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bed import Bed, tiny
from fedx_core.rounds import start
from fedx_core.sites import keys
from fedx_core.sites.registry import Registry

Fedx = Callable[..., int]


@pytest.fixture
def root(tiny_data: Path, tmp_path: Path) -> Path:
    """Data of a coordinator: no shards, and no training images."""
    away = shutil.ignore_patterns("shards", "train.*", "countries")
    shutil.copytree(tiny_data, tmp_path / "data", ignore=away)
    return tmp_path / "data"


def call(fedx: Fedx, root: Path, tiny_params: Path) -> int:
    return fedx(
        "site", "roster", "synthetic", "--json", "--params", str(tiny_params),
        "--data-root", str(root), "--coordinator-home", str(root.parent / "sites"),
    )  # fmt: skip


def test_the_admitted_sites_are_the_clients_of_a_coordinator_without_shards(
    fedx: Fedx, root: Path, tiny_params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(root.parent / "sites")
    for name, most in (("south", 40), ("north", 30)):
        registry.admit(keys.make(name).public, most)
    assert call(fedx, root, tiny_params) == 0
    assert json.loads(capsys.readouterr().out)["clients"] == ["north", "south"]
    seen = start.load(Bed(root, root.parent / "runs").setting(), tiny())
    assert seen.clients == {"north": 30, "south": 40}
    assert len(seen.test) == 40
    # Those who are admitted later are in the next roster.
    registry.admit(keys.make("east").public, 5)
    assert call(fedx, root, tiny_params) == 0
    seen = start.load(Bed(root, root.parent / "runs").setting(), tiny())
    assert list(seen.clients) == ["east", "north", "south"]


def test_a_roster_says_what_is_missing(
    fedx: Fedx, root: Path, tiny_params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(fedx, root, tiny_params) == 1
    assert "nobody is admitted" in capsys.readouterr().err
    Registry(root.parent / "sites").admit(keys.make("north").public)
    assert call(fedx, root, tiny_params) == 1
    assert "--max-examples" in capsys.readouterr().err
    assert not (root / "synthetic" / "shards").exists()


def test_a_roster_leaves_the_shards_of_a_simulation_alone(
    fedx: Fedx, root: Path, tiny_params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Registry(root.parent / "sites").admit(keys.make("north").public, 3)
    (root / "synthetic" / "shards" / "client-00").mkdir(parents=True)
    assert call(fedx, root, tiny_params) == 1
    assert "client-00" in capsys.readouterr().err
    assert (root / "synthetic" / "shards" / "client-00").exists()
