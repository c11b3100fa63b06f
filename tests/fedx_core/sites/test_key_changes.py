"""Keys that expire, that others follow, and that are believed no more."""

import json
import stat
import time
from pathlib import Path

import pytest

from asked import job, report
from fedx_core.base.errors import KeyExpiredError, SignatureError, SiteError, UnknownSiteError
from fedx_core.sites import key_files, keys, manifest, orders, succession
from fedx_core.sites.home import COORDINATOR, Home
from fedx_core.sites.keys import DAY, LATE_DAYS, Public
from fedx_core.sites.orders import Order
from fedx_core.sites.registry import Admitted, Registry

OVERLAP = 14


class Clock:
    """The time of day, which can be set on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(time, "time", lambda: self.now)

    def after(self, days: float) -> None:
        self.now += days * DAY


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    site = Home(tmp_path / "north")
    site.enroll("north")
    return site


@pytest.fixture
def registry(tmp_path: Path, home: Home) -> Registry:
    coordinator = Registry(tmp_path / "sites")
    coordinator.admit(home.keys.public, 500)
    home.trust(coordinator.keys.public)
    return coordinator


def ordered(registry: Registry) -> bytes:
    """An order of the coordinator for north."""
    order = Order(job(), (), None, time.time() + DAY)
    return orders.issue(order, registry.keys, registry.site("north").public)


def opened(home: Home, letter: bytes) -> Order:
    return orders.open_order(letter, home.keys, home.coordinator)


def answered(home: Home) -> bytes:
    """A report of the site on its job, as it signs it today."""
    return manifest.write(report(), job(), home.keys)


def test_keys_hold_until_they_expire_and_not_after(
    clock: Clock, home: Home, registry: Registry
) -> None:
    letter, said = ordered(registry), answered(home)
    clock.after(keys.VALID_DAYS - 1)
    opened(home, letter)
    manifest.read(said, job(), registry.site("north"))
    clock.after(2)
    with pytest.raises(KeyExpiredError, match=r"the keys of north expired on .*fedx site rotate"):
        _ = home.keys
    with pytest.raises(KeyExpiredError):
        manifest.read(said, job(), registry.site("north"))
    with pytest.raises(KeyExpiredError):
        keys.seal(home_public(registry), b"")


def home_public(registry: Registry) -> Public:
    return registry.site("north").public


def test_keys_without_an_end_do_not_expire(clock: Clock, tmp_path: Path) -> None:
    site = Home(tmp_path / "south")
    site.enroll("south", valid_days=0)
    clock.after(10_000)
    assert site.keys.public.expires == 0


def test_the_fingerprint_covers_when_keys_expire() -> None:
    public = keys.make("north").public
    told = json.loads(key_files.write_public(public))
    told["expires"] += DAY
    with pytest.raises(SignatureError, match="it was changed on its way"):
        key_files.read_public(json.dumps(told).encode())


def test_nobody_can_add_keys_that_follow_to_a_file_that_is_carried() -> None:
    public, other = keys.make("north").public, keys.make("north").public
    told = json.loads(key_files.write_public(public))
    told |= {"successor": json.loads(key_files.write_public(other)), "starts": 1}
    for name in ("protocol", "fingerprint"):
        told["successor"].pop(name)
    with pytest.raises(SiteError):
        key_files.read_public(json.dumps(told).encode())


def test_both_keys_of_a_site_hold_while_one_follows_the_other(
    clock: Clock, home: Home, registry: Registry
) -> None:
    before = home.keys.public
    following, letter = succession.rotate(home.folder, OVERLAP, keys.VALID_DAYS)
    registry.follow(letter)
    # Until the day, the old ones sign and are written to.
    assert home.keys.public == before
    opened(home, ordered(registry))
    old_report, old_letter = answered(home), ordered(registry)
    manifest.read(old_report, job(), registry.site("north"))
    # From that day on, the new ones; what the old ones signed, or is on its way, still counts.
    clock.after(OVERLAP + 0.1)
    assert home.keys.public == following.public
    opened(home, old_letter)
    opened(home, ordered(registry))
    for said in (old_report, answered(home)):
        manifest.read(said, job(), registry.site("north"))
    # A week later the old ones are nobody's.
    clock.after(LATE_DAYS)
    with pytest.raises(SignatureError):
        manifest.read(old_report, job(), registry.site("north"))
    with pytest.raises(SignatureError):
        opened(home, old_letter)
    manifest.read(answered(home), job(), registry.site("north"))
    assert stat.S_IMODE((home.folder / key_files.FILE).stat().st_mode) == 0o600


def test_both_keys_of_a_coordinator_hold_while_one_follows_the_other(
    clock: Clock, home: Home, registry: Registry
) -> None:
    following, letter = succession.rotate(registry.folder, OVERLAP, keys.VALID_DAYS)
    home.follow(letter)
    old = ordered(registry)
    opened(home, old)
    clock.after(OVERLAP + 0.1)
    assert registry.keys.public == following.public
    for order in (old, ordered(registry)):
        opened(home, order)
    clock.after(LATE_DAYS)
    with pytest.raises(SignatureError):
        opened(home, old)
    opened(home, ordered(registry))


def test_a_site_that_was_not_told_refuses_new_keys(
    clock: Clock, home: Home, registry: Registry
) -> None:
    succession.rotate(registry.folder, OVERLAP, keys.VALID_DAYS)
    clock.after(OVERLAP + 0.1)
    with pytest.raises(SignatureError):
        opened(home, ordered(registry))


def test_keys_are_rotated_again_and_again(clock: Clock, home: Home, registry: Registry) -> None:
    for _ in range(3):
        for folder, follow in ((home.folder, registry.follow), (registry.folder, home.follow)):
            _, letter = succession.rotate(folder, OVERLAP, keys.VALID_DAYS)
            follow(letter)
        clock.after(OVERLAP + LATE_DAYS + 1)
        opened(home, ordered(registry))
        manifest.read(answered(home), job(), registry.site("north"))


def test_only_the_owner_of_the_known_keys_can_say_what_follows(
    tmp_path: Path, home: Home, registry: Registry
) -> None:
    stranger = Home(tmp_path / "stranger")
    stranger.enroll("north")
    _, letter = succession.rotate(stranger.folder, OVERLAP, keys.VALID_DAYS)
    with pytest.raises(SignatureError):
        registry.follow(letter)
    assert registry.site("north") == Admitted(home.keys.public, 500)


def test_a_letter_that_was_changed_is_refused(home: Home, registry: Registry) -> None:
    _, letter = succession.rotate(home.folder, OVERLAP, keys.VALID_DAYS)
    told = json.loads(letter)
    told["letter"] = told["letter"][:-8] + "AAAAAAA="
    with pytest.raises(SiteError):
        registry.follow(json.dumps(told).encode())


def test_keys_are_not_rotated_twice_at_once_nor_past_their_end(home: Home) -> None:
    succession.rotate(home.folder, OVERLAP, keys.VALID_DAYS)
    with pytest.raises(SiteError, match="holds keys that follow already"):
        succession.rotate(home.folder, OVERLAP, keys.VALID_DAYS)
    with pytest.raises(SiteError, match="choose a shorter --overlap-days"):
        succession.rotate(home.folder, keys.VALID_DAYS + 1, keys.VALID_DAYS)


def test_a_revoked_site_is_believed_no_more_and_its_keys_do_not_come_back(
    home: Home, registry: Registry
) -> None:
    said = answered(home)
    manifest.read(said, job(), registry.site("north"))
    registry.revoke("north")
    with pytest.raises(UnknownSiteError, match="or was revoked"):
        registry.site("north")
    with pytest.raises(SiteError, match="were revoked"):
        registry.admit(home.keys.public)
    registry.admit(keys.make("north").public, 500)
    with pytest.raises(SignatureError):
        manifest.read(said, job(), registry.site("north"))


def test_keys_that_follow_are_revoked_with_those_they_follow(
    home: Home, registry: Registry
) -> None:
    following, letter = succession.rotate(home.folder, OVERLAP, keys.VALID_DAYS)
    registry.follow(letter)
    registry.revoke("north")
    with pytest.raises(SiteError, match="were revoked"):
        registry.admit(following.public)


def test_a_site_can_revoke_its_coordinator(home: Home, registry: Registry) -> None:
    order = ordered(registry)
    home.revoke_coordinator()
    with pytest.raises(SiteError, match="no coordinator"):
        opened(home, order)
    with pytest.raises(SiteError, match="were revoked here"):
        home.trust(registry.keys.public)
    home.trust(keys.make("coordinator").public)
    assert (home.folder / COORDINATOR).exists()


def test_with_a_registrar_only_its_keys_admit(tmp_path: Path, home: Home) -> None:
    office = tmp_path / "registrar"
    key_files.save(keys.make("registrar"), office)
    coordinator = Registry(tmp_path / "sites")
    coordinator.admit(home.keys.public, 500)
    Registry(tmp_path / "sites", office).appoint(key_files.load(office).public)
    # Whoever starts runs can read who takes part, and can't add to it.
    assert coordinator.site("north") == Admitted(home.keys.public, 500)
    south = keys.make("south").public
    with pytest.raises(SiteError, match="admitted here by the registrar"):
        coordinator.admit(south)
    with pytest.raises(SiteError, match="admitted here by the registrar"):
        coordinator.revoke("north")
    path = tmp_path / "sites" / "admitted" / "north.json"
    forged = json.loads(path.read_bytes())
    forged["max_examples"] = 10**6
    path.write_text(json.dumps(forged))
    with pytest.raises(SignatureError):
        coordinator.site("north")
    Registry(tmp_path / "sites", office).admit(south, 20)
    assert coordinator.site("south").max_examples == 20


def test_others_keys_are_no_registrar(tmp_path: Path) -> None:
    office, other = tmp_path / "registrar", tmp_path / "other"
    for folder in (office, other):
        key_files.save(keys.make("registrar"), folder)
    Registry(tmp_path / "sites", office).appoint(key_files.load(office).public)
    with pytest.raises(SiteError, match="are not the registrar's"):
        Registry(tmp_path / "sites", other).admit(keys.make("south").public)
    with pytest.raises(SiteError, match="has a registrar"):
        Registry(tmp_path / "sites", other).appoint(key_files.load(other).public)


def test_a_folder_that_others_may_write_admits_nobody(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "sites")
    _ = registry.keys
    registry.folder.chmod(0o770)
    with pytest.raises(SiteError, match="others than its owner may write"):
        _ = registry.keys
