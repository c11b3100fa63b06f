from pathlib import Path

import pytest

from asked import COORDINATOR
from fedx_core.base.errors import IdentifierError, SiteError
from fedx_core.sites import key_files, keys
from fedx_core.sites.home import Home


def test_a_site_enrols_once_and_asks_again_with_the_same_keys(tmp_path: Path) -> None:
    home = Home(tmp_path / "site")
    mine = home.enroll("north")
    request = home.folder / "request.json"
    assert key_files.read_public(request.read_bytes()) == mine.public
    assert mine.signing.hex().encode() not in request.read_bytes()
    request.unlink()
    assert home.enroll("north") == mine == home.keys
    assert key_files.read_public(request.read_bytes()) == mine.public


def test_a_folder_is_of_one_site(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.enroll("north")
    with pytest.raises(SiteError, match="belongs to north, not to south"):
        home.enroll("south")
    with pytest.raises(IdentifierError):
        Home(tmp_path / "other").enroll("../north")
    assert not (tmp_path / "other").exists()


def test_a_site_takes_orders_from_one_coordinator(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(SiteError, match=r"no coordinator.*fedx site trust"):
        _ = home.coordinator
    home.trust(COORDINATOR.public)
    home.trust(COORDINATOR.public)
    with pytest.raises(SiteError, match=f"fingerprint {COORDINATOR.public.fingerprint}"):
        home.trust(keys.make("coordinator").public)
    assert home.coordinator == COORDINATOR.public
