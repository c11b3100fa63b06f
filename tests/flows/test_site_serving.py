"""A warm site whose keys or coordinator change while letters wait."""

import time
from pathlib import Path

import pytest

from asked import job
from fedx_core.rounds import audit
from fedx_core.sites import keys, orders
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.keys import DAY
from fedx_core.sites.orders import Order
from fedx_core.sites.registry import Registry
from flows.sites.post import Post
from flows.sites.serve import Serving


@pytest.fixture
def home(tmp_path: Path) -> Home:
    site = Home(tmp_path / "north")
    site.enroll("north")
    return site


def coordinator(folder: Path, home: Home) -> Registry:
    registry = Registry(folder)
    registry.admit(home.keys.public)
    return registry


def letter(registry: Registry, run: str) -> bytes:
    order = Order(job(run=run), (), None, time.time() + DAY)
    return orders.issue(order, registry.keys, registry.site("north").public)


def test_a_letter_of_an_earlier_coordinator_is_refused_and_the_site_goes_on(
    home: Home, tmp_path: Path
) -> None:
    old, new = (coordinator(tmp_path / name, home) for name in ("old", "new"))
    home.trust(old.keys.public)
    home.revoke_coordinator()
    home.trust(new.keys.public)
    post, said = Post(home.folder, home.keys), []
    post.arrived("old", letter(old, "old"), None)
    site = Serving(home, tmp_path / "images", HttpClient(), said.append)
    assert site.answer_all() == 1
    assert post.letters == {}
    assert said[0].startswith("refused: E_SIGNATURE")
    assert [entry["code"] for entry in audit.entries(home.folder)] == ["E_SIGNATURE"]


def test_trusting_another_coordinator_forgets_where_the_first_left_its_letters(
    home: Home, tmp_path: Path
) -> None:
    old, new = (coordinator(tmp_path / name, home) for name in ("old", "new"))
    home.trust(old.keys.public)
    post = Post(home.folder, home.keys)
    post.arrived("old", letter(old, "old"), None)
    home.revoke_coordinator()
    home.trust(new.keys.public)
    assert post.letters == {}
    assert post.inbox is None


def test_a_letter_to_keys_that_are_gone_is_refused_and_the_site_goes_on(
    home: Home, tmp_path: Path
) -> None:
    registry = coordinator(tmp_path / "sites", home)
    home.trust(registry.keys.public)
    post, said = Post(home.folder, home.keys), []
    registry.revoke("north")
    other = keys.make("north")
    registry.admit(other.public)
    post.arrived("run", letter(registry, "run"), None)  # sealed to other keys than the site has
    assert Serving(home, tmp_path / "images", HttpClient(), said.append).answer_all() == 1
    assert "can't be opened with the keys of north" in said[0]
