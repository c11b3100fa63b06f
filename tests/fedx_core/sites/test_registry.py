import stat
from pathlib import Path

import pytest

from fedx_core.base.errors import IdentifierError, SiteError, UnknownSiteError
from fedx_core.sites import key_files, keys
from fedx_core.sites.registry import Admitted, Registry

NORTH = keys.make("north").public


def test_the_coordinators_keys_are_made_once(tmp_path: Path) -> None:
    mine = Registry(tmp_path / "sites").keys
    assert mine.name == "coordinator"
    assert Registry(tmp_path / "sites").keys == mine
    assert stat.S_IMODE((tmp_path / "sites" / key_files.FILE).stat().st_mode) == 0o600


def test_admitted_sites_are_there_afterwards(tmp_path: Path) -> None:
    south = keys.make("south").public
    registry = Registry(tmp_path)
    assert registry.names() == ()
    registry.admit(south)
    registry.admit(NORTH, max_examples=500)
    again = Registry(tmp_path)
    assert again.names() == ("north", "south")
    assert again.site("north") == Admitted(NORTH, 500)
    assert again.site("south") == Admitted(south, 0)


def test_a_known_site_may_get_another_bound_but_no_other_keys(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.admit(NORTH, 500)
    registry.admit(NORTH, 600)
    other = keys.make("north").public
    with pytest.raises(SiteError, match=rf"admitted with other keys.*{NORTH.fingerprint}"):
        registry.admit(other)
    assert registry.site("north") == Admitted(NORTH, 600)


def test_an_unknown_site_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    with pytest.raises(UnknownSiteError, match="there: nobody"):
        registry.site("south")
    registry.admit(NORTH)
    with pytest.raises(UnknownSiteError, match="there: north") as refused:
        registry.site("south")
    assert refused.value.code == "E_UNKNOWN_SITE"
    with pytest.raises(IdentifierError):
        registry.site("../keys")


@pytest.mark.parametrize("text", [b"", b"{}", b"[" * 100_000, b'{"public": 3}'])
def test_a_damaged_file_is_refused(text: bytes, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.admit(NORTH)
    (tmp_path / "admitted" / "north.json").write_bytes(text)
    with pytest.raises(SiteError, match="is damaged"):
        registry.site("north")


def test_one_sites_file_does_not_serve_for_another(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.admit(NORTH)
    folder = tmp_path / "admitted"
    (folder / "south.json").write_bytes((folder / "north.json").read_bytes())
    with pytest.raises(SiteError, match="it names north"):
        registry.site("south")
