"""``fedx doctor --site``: each thing that a site lacks is said, with what mends it."""

import json
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from asked import COORDINATOR, job, plan
from fedx_core.base.frozen_json import canonical
from fedx_core.sites.grants import Grant
from fedx_core.sites.home import Home
from fedx_core.sites.registry import Registry
from fedx_core.store import reference
from flows.doctor import site
from flows.doctor.checks import Check
from flows.sites.post import Post

Fedx = Callable[..., int]


@contextmanager
def server(ahead: float = 0.0, *, dated: bool = True) -> Iterator[str]:
    """Something that refuses everything, as S3 does without a signature, but says when."""

    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            if dated:
                self.send_header("Date", self.date_time_string(time.time() + ahead))
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    home = Home(tmp_path / "site")
    home.enroll("client-00")
    home.trust(COORDINATOR.public)
    return home


@pytest.fixture
def shards(tmp_path: Path, tiny_data: Path) -> Path:
    folder = tmp_path / "shards"
    shutil.copytree(tiny_data / "synthetic" / "shards" / "client-00", folder / "client-00")
    return folder


def found(home: Home, shards: Path) -> dict[str, Check]:
    return {check.what: check for check in site.examine(home, shards)}


def test_a_site_that_has_everything_is_well(home: Home, shards: Path) -> None:
    checks = found(home, shards)
    assert [check.what for check in checks.values() if not check.ok] == []
    assert home.keys.public.fingerprint in checks["keys"].found
    assert COORDINATOR.public.fingerprint in checks["coordinator"].found
    assert "32 to train" in checks["images"].found
    assert checks["plans"].found == "0 agreed to, 0 waiting"
    assert "not known yet" in checks["store"].found


def test_a_folder_without_keys_is_told_what_to_do_first(tmp_path: Path) -> None:
    checks = found(Home(tmp_path / "none"), tmp_path)
    assert checks["keys"].fix == "fedx site enroll NAME"
    assert checks["coordinator"].fix == "fedx site trust FILE"
    assert not checks["keys"].ok
    assert not checks["coordinator"].ok


def test_keys_that_others_may_read_are_not_well(home: Home, shards: Path) -> None:
    (home.folder / "keys.json").chmod(0o644)
    assert "chmod 600" in found(home, shards)["keys"].found


@pytest.mark.parametrize("name", ["", "coordinator.json", "plans"])
def test_a_folder_that_others_may_write_is_not_well(name: str, home: Home, shards: Path) -> None:
    (home.folder / "plans").mkdir()
    path = home.folder / name
    path.chmod(path.stat().st_mode | 0o020)
    check = found(home, shards)["folder"]
    assert not check.ok
    assert check.fix == f"chmod go-w {path}"


def test_a_plan_that_waits_is_said(home: Home, shards: Path) -> None:
    data = canonical(plan())
    home.approvals.ask(job(plan=reference("plans/a", data)), data)
    check = found(home, shards)["plans"]
    assert not check.ok
    assert "1 waiting" in check.found
    assert "fedx site approve" in check.fix


def test_images_that_are_missing_or_somebody_elses_are_said(home: Home, shards: Path) -> None:
    (shards / "client-01").mkdir()
    check = found(home, shards)["images"]
    assert not check.ok
    assert "beside it client-01" in check.found
    shutil.rmtree(shards / "client-00")
    check = found(home, shards)["images"]
    assert not check.ok
    assert "FEDX_SHARDS" in check.fix


@pytest.mark.parametrize(
    ("ahead", "ok", "words"),
    [
        (0.0, True, ""),
        (630.0, False, r"6[23]\d s behind"),
        (-7230.0, False, r"72[23]\d s ahead of"),
    ],
)
def test_a_clock_that_is_wrong_is_measured_against_the_store(
    ahead: float, ok: bool, words: str, home: Home, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(ahead) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        checks = found(home, shards)
    assert checks["store"].ok
    assert checks["clock"].ok is ok
    assert re.match(words, checks["clock"].found)
    assert "E_SKEW" in checks["clock"].fix


def test_the_stores_address_is_that_of_the_inbox_without_its_signature(
    home: Home, shards: Path
) -> None:
    with server() as url:
        inbox = Grant(
            "get", "inbox/client-00/1", 65536, f"{url}/fedx/inbox?X-Amz-Signature=canary", {},
            time.time() + 60,
        )  # fmt: skip
        Post(home.folder, home.keys).invited(inbox)
        checks = found(home, shards)
    assert checks["store"].found == f"{url} answers"
    assert "canary" not in repr(checks)


def test_servers_that_do_not_answer_or_do_not_say_when_are_said(
    home: Home, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(dated=False) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        assert "has no Date" in found(home, shards)["store"].found
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        assert not found(home, shards)["prefect server"].ok
    checks = found(home, shards)
    for name in ("store", "prefect server"):
        assert not checks[name].ok
        assert "does not answer" in checks[name].found
        assert "coordinator's people" in checks[name].fix


def test_the_command_says_each_thing_and_ends_with_1_if_one_is_missing(
    fedx: Fedx, capsys: pytest.CaptureFixture[str], home: Home, shards: Path, tmp_path: Path
) -> None:
    # Both lie where a site looks if nothing else is said.
    assert fedx("doctor", "--site") == 0
    said = capsys.readouterr().out
    assert "ok    keys: client-00" in said
    assert home.keys.signing.hex() not in said
    (home.folder / "coordinator.json").unlink()
    assert fedx("doctor", "--site", "--json") == 1
    checks = {each["what"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
    assert not checks["coordinator"]["ok"]
    assert canonical(checks)


def coordinators(folder: Path) -> dict[str, Check]:
    return {check.what: check for check in site.examine_coordinator(folder)}


def test_a_coordinators_folder_is_made_as_closed_as_a_sites(tmp_path: Path, home: Home) -> None:
    registry = Registry(tmp_path / "new" / "sites")
    registry.admit(home.keys.public)
    modes = {stat.S_IMODE(folder.stat().st_mode) for folder in (registry.folder, home.folder)}
    assert modes == {0o700}
    assert registry.keys
    checks = coordinators(registry.folder)
    assert [check.what for check in checks.values() if not check.ok] == []
    assert registry.keys.public.fingerprint in checks["coordinator's keys"].found


def test_nothing_is_said_of_a_coordinators_folder_that_is_not_there(tmp_path: Path) -> None:
    assert site.examine_coordinator(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", ["", "admitted", "admitted/client-00.json", "keys.json"])
def test_a_coordinators_folder_that_others_may_write_is_not_well(
    name: str, tmp_path: Path, home: Home
) -> None:
    registry = Registry(tmp_path / "sites")
    registry.admit(home.keys.public)
    assert registry.keys
    path = registry.folder / name
    path.chmod(path.stat().st_mode | 0o022)
    check = coordinators(registry.folder)["coordinator's folder"]
    assert not check.ok
    assert check.fix == f"chmod go-w {path}"


def test_folders_that_everybody_may_read_are_not_well(
    tmp_path: Path, home: Home, shards: Path
) -> None:
    registry = Registry(tmp_path / "sites")
    assert registry.keys
    for folder in (registry.folder, home.folder):
        folder.chmod(0o755)
    assert found(home, shards)["folder"].fix == f"chmod 700 {home.folder}"
    check = coordinators(registry.folder)["coordinator's folder"]
    assert (check.ok, check.fix) == (False, f"chmod 700 {registry.folder}")
    registry.folder.chmod(0o750)  # whoever may look on
    assert coordinators(registry.folder)["coordinator's folder"].ok


def test_a_coordinators_keys_that_others_may_read_fail_the_doctor(
    fedx: Fedx, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(tmp_path / "sites")
    assert registry.keys
    (registry.folder / "keys.json").chmod(0o640)
    assert fedx("doctor", "--json") == 1
    checks = {each["what"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
    assert not checks["coordinator's keys"]["ok"]
    assert "chmod 600 sites/keys.json" in checks["coordinator's keys"]["found"]
