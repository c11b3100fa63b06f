"""What `fedx doctor --site` looks at: all that a site needs to take orders, and what mends it."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from fedx_core import __version__
from fedx_core.base.errors import FedXError, SiteError
from fedx_core.images import set_folder
from fedx_core.sites import key_files, keys
from fedx_core.sites.home import Home
from fedx_core.sites.key_files import FILE
from fedx_core.wire.messages import PROTOCOL
from flows.doctor.checks import Check, disk, prefect, python
from flows.doctor.modes import modes

SKEW_SECONDS = 60.0
"""How far this clock may be from the store's; grants live for minutes, and S3 refuses 15."""
ANSWER_SECONDS = 10.0
WARN_DAYS = 30
"""Before keys expire."""


def examine(home: Home, shards: Path) -> list[Check]:
    """Look at everything that a site needs.

    Args:
        home: its folder.
        shards: folder with a folder of its name.
    """
    return [
        python(),
        Check("fedx", True, f"{__version__}, protocol {PROTOCOL}"),
        _keys(home),
        modes("folder", home.folder),
        _coordinator(home),
        *_shard(home, shards),
        _plans(home),
        *_store(home),
        *prefect(
            "ask the coordinator's people, or unset PREFECT_API_URL",
            "none is set; orders come to the inbox alone",
        ),
        disk(home.folder, "free some, or choose another folder (FEDX_SITE_HOME)"),
    ]


def examine_coordinator(folder: Path) -> list[Check]:
    """Look at a coordinator's folder: who may read its keys, and who could admit sites.

    Args:
        folder: of the coordinator; nothing is said where it isn't there.
    """
    if not folder.exists():
        return []
    return [_coordinators_keys(folder), modes("coordinator's folder", folder)]


def skew(url: str) -> float:
    """Return by how many seconds a server's clock is ahead of this one; it tells whole seconds.

    Args:
        url: of anything at the server; it may refuse, if it only says when.

    Raises:
        OSError: it does not answer.
        ValueError: it does not say what time it is.
    """
    asked = time.time()
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            said = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        with error:
            said = error.headers["Date"]
    if said is None:
        raise ValueError("its answer has no Date")
    return parsedate_to_datetime(said).timestamp() + 0.5 - (asked + time.time()) / 2


def _keys(home: Home) -> Check:
    return _check_keys("keys", home.folder, "fedx site enroll NAME", "fedx site rotate")


def _coordinators_keys(folder: Path) -> Check:
    what = "coordinator's keys"
    if not (folder / FILE).exists():
        return Check(what, True, f"none in {folder} yet; `fedx site admit` makes them")
    return _check_keys(what, folder, "see above", "fedx site rotate --coordinator")


def _check_keys(what: str, folder: Path, fix: str, rotate: str) -> Check:
    try:
        public = key_files.load(folder).public
    except SiteError as error:
        return Check(what, False, str(error), fix)
    said = f"{public.name}, mode 600, fingerprint {public.fingerprint}"
    if not public.expires:
        return Check(what, True, said)
    return Check(
        what, public.expires - time.time() > WARN_DAYS * keys.DAY,
        f"{said}, valid until {keys.day(public.expires)}", f"{rotate}, in time",
    )  # fmt: skip


def _coordinator(home: Home) -> Check:
    try:
        return Check("coordinator", True, f"fingerprint {home.coordinator.fingerprint}")
    except FedXError as error:
        return Check("coordinator", False, str(error), "fedx site trust FILE")


def _shard(home: Home, shards: Path) -> Iterator[Check]:
    try:
        name = home.keys.name
    except SiteError:
        return
    try:
        found = {part: len(set_folder.read_part(shards / name, part)) for part in ("train", "test")}
    except (FedXError, OSError) as error:
        yield Check(
            "images", False, f"{shards / name}: {error}",
            f"put this site's shard at {shards / name}, or name its folder in FEDX_SHARDS",
        )  # fmt: skip
        return
    others = sorted(path.name for path in shards.iterdir() if path.is_dir() and path.name != name)
    yield Check(
        "images", not others,
        f"{found['train']} to train, {found['test']} to test in {shards / name}"
        + (f"; beside it {', '.join(others[:3])}" if others else ""),
        f"leave this site's images alone in {shards}: it needs nobody else's",
    )  # fmt: skip


def _plans(home: Home) -> Check:
    try:
        waiting = [asked.sha256[:12] for asked in home.approvals.asked()]
    except FedXError as error:
        return Check("plans", False, str(error), "delete what is named")
    agreed = len(home.approvals.approved())
    return Check(
        "plans", not waiting,
        f"{agreed} agreed to, {len(waiting)} waiting {' '.join(waiting)}".strip(),
        "read and answer them: fedx site approve",
    )  # fmt: skip


def _store(home: Home) -> Iterator[Check]:
    """Look at the coordinator's store, whose address comes with the first letter, and its clock."""
    try:
        url = _address(home)
    except FedXError as error:
        yield Check("store", False, str(error), "see above")
        return
    if not url:
        yield Check("store", True, "not known yet; the first letter brings its address")
        return
    try:
        ahead = skew(url)
    except (OSError, ValueError) as error:
        yield Check(
            "store", False, f"{url} does not answer ({error})",
            "look at the network and the firewall, and ask the coordinator's people",
        )  # fmt: skip
        return
    yield Check("store", True, f"{url} answers")
    yield Check(
        "clock", abs(ahead) <= SKEW_SECONDS,
        f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the store's",
        f"E_SKEW: set this machine's clock (by NTP), grants need {SKEW_SECONDS:.0f} s or less",
    )  # fmt: skip


def _address(home: Home) -> str:
    """Return scheme and host of the store, or nothing; never a signed URL's path or query."""
    from flows.sites.post import Post

    if (home.folder / FILE).exists() and (inbox := Post(home.folder, home.keys).inbox) is not None:
        parts = urlsplit(inbox.url)
        return f"{parts.scheme}://{parts.netloc}"
    return os.environ.get("AWS_ENDPOINT_URL_S3") or ""
