"""``fedx site``: how site and coordinator come to know each other, and how plans are agreed to."""

import io
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asked import COORDINATOR, job, plan
from fedx_core.base.frozen_json import canonical
from fedx_core.rounds import audit
from fedx_core.sites.home import Home
from fedx_core.sites.registry import Admitted, Registry
from fedx_core.store import reference

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        return True


def types(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(text))


def events(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / audit.FILE).read_text().splitlines()]


@pytest.fixture
def waiting(tmp_path: Path) -> str:
    """The hash of a plan that waits at north, in ./site."""
    data = canonical(plan())
    home = Home(tmp_path / "site")
    home.enroll("north")
    asked = job(plan=reference("plans/a", data))
    home.approvals.ask(asked, data)
    return asked.plan.sha256


def test_site_and_coordinator_come_to_know_each_other(
    fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    assert fedx("site", "enroll", "north") == 0
    said = capsys.readouterr().out
    mine = Home(tmp_path / "site").keys
    assert mine.public.fingerprint in said
    assert "fedx site admit request.json" in said
    assert stat.S_IMODE((tmp_path / "site" / "keys.json").stat().st_mode) == 0o600
    assert fedx("site", "admit", "site/request.json", "--max-examples", "32", "--yes") == 0
    said = capsys.readouterr().out
    registry = Registry(tmp_path / "sites")
    assert registry.site("north") == Admitted(mine.public, 32)
    assert registry.keys.public.fingerprint in said
    assert fedx("site", "trust", "sites/coordinator.json", "--yes", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fingerprint"] == registry.keys.public.fingerprint
    assert Home(tmp_path / "site").coordinator == registry.keys.public
    assert events(tmp_path / "site") == ["trusted"]
    assert events(tmp_path / "sites") == ["admitted"]


def test_enrolling_twice_changes_no_keys(fedx: Fedx, capsys: Said) -> None:
    assert fedx("site", "enroll", "north", "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert fedx("site", "enroll", "north", "--json") == 0
    assert json.loads(capsys.readouterr().out) == first
    assert set(first) == {"name", "fingerprint", "file"}
    assert fedx("site", "enroll", "south") == 1
    assert "belongs to north, not to south" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "admitted"), [("y\n", ("north",)), ("n\n", ()), ("\n", ())])
def test_nobody_is_admitted_whose_fingerprint_differs(
    answer: str,
    admitted: tuple[str, ...],
    fedx: Fedx,
    capsys: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fedx("site", "enroll", "north")
    types(answer, monkeypatch)
    assert fedx("site", "admit", "site/request.json") == 0
    assert "Do its people read out the same?" in capsys.readouterr().out
    assert Registry(tmp_path / "sites").names() == admitted


def test_nobody_is_admitted_or_trusted_unasked(fedx: Fedx, capsys: Said, tmp_path: Path) -> None:
    fedx("site", "enroll", "north")
    capsys.readouterr()
    assert fedx("site", "admit", "site/request.json", "--json") == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "E_USAGE"
    assert Registry(tmp_path / "sites").names() == ()
    assert fedx("site", "admit", "params.yaml", "--yes") == 1
    assert "can't read params.yaml" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    assert fedx("site", "trust", "other.json", "--yes") == 1
    assert "no public keys of FedX" in capsys.readouterr().err


def test_a_second_key_of_one_name_is_not_admitted(fedx: Fedx, capsys: Said) -> None:
    fedx("site", "enroll", "north")
    fedx("site", "enroll", "north", "--site-home", "impostor")
    assert fedx("site", "admit", "site/request.json", "--yes") == 0
    capsys.readouterr()
    assert fedx("site", "admit", "impostor/request.json", "--yes") == 1
    assert "E_SITE: north is admitted with other keys" in capsys.readouterr().err


def test_a_plan_is_read_before_it_is_agreed_to(
    fedx: Fedx, capsys: Said, waiting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approvals = Home(tmp_path / "site").approvals
    types("n\n", monkeypatch)
    assert fedx("site", "approve") == 0
    said = capsys.readouterr().out
    assert waiting in said
    assert "bytes of update per round" in said
    assert "May this be done with the data of this site?" in said
    assert approvals.approved() == ()
    types("y\n", monkeypatch)
    assert fedx("site", "approve") == 0
    assert approvals.approved() == (waiting,)
    assert events(tmp_path / "site") == ["approved"]
    capsys.readouterr()
    assert fedx("site", "approve") == 0
    assert capsys.readouterr().out == "No plan waits; 1 agreed to.\n"


def test_a_plan_that_nobody_can_read_is_listed_as_such_beside_the_others(
    fedx: Fedx, capsys: Said, waiting: str, tmp_path: Path
) -> None:
    asked = tmp_path / "site" / "plans" / "asked"
    broken = "0" * 64
    (asked / broken).write_bytes(b"{")
    (asked / f"{broken}.job").write_bytes((asked / f"{waiting}.job").read_bytes())
    assert fedx("site", "approve") == 0
    said = capsys.readouterr().out
    assert f"plan    {broken}\ncan't be read, so nobody can agree to it: " in said
    assert f"plan    {waiting}\nrun " in said
    assert fedx("site", "approve", "--json") == 0
    told = json.loads(capsys.readouterr().out)["waiting"]
    assert [each["plan"] for each in told] == [broken, waiting]
    assert "unreadable" in told[0]
    assert fedx("site", "approve", waiting[:12], "--yes") == 0
    assert Home(tmp_path / "site").approvals.approved() == (waiting,)


def test_where_nobody_can_be_asked_nothing_is_agreed_to(
    fedx: Fedx, capsys: Said, waiting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert fedx("site", "approve") == 0
    assert f"To agree: fedx site approve {waiting[:12]} --yes" in capsys.readouterr().out
    assert fedx("site", "approve", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(each["plan"], each["run"]) for each in told["waiting"]] == [(waiting, "demo")]
    assert told["approved"] == []
    assert fedx("site", "approve", "--yes") == 2
    assert Home(tmp_path / "site").approvals.approved() == ()


def test_agreement_is_given_and_taken_back_by_hash(
    fedx: Fedx, capsys: Said, waiting: str, tmp_path: Path
) -> None:
    assert fedx("site", "approve", waiting[:12], "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["approved"] == [waiting]
    assert fedx("site", "approve", waiting[:12], "--withdraw") == 0
    assert capsys.readouterr().out == f"{waiting[:12]} is not followed.\n"
    assert Home(tmp_path / "site").approvals.approved() == ()
    assert fedx("site", "approve", "ffffffffffff", "--yes") == 1
    assert "error E_PLAN" in capsys.readouterr().err
    assert events(tmp_path / "site") == ["approved", "withdrawn"]


def test_a_site_without_keys_is_told_how_to_make_them(fedx: Fedx, capsys: Said) -> None:
    assert fedx("site", "approve") == 1
    assert "fedx site enroll NAME" in capsys.readouterr().err


def test_a_site_at_work_says_what_it_does_to_people_and_programs(
    fedx: Fedx, capsys: Said, tmp_path: Path
) -> None:
    home = Home(tmp_path / "site")
    home.enroll("north")
    home.trust(COORDINATOR.public)
    assert fedx("site", "serve", "--idle", "0") == 0
    said = capsys.readouterr()
    assert not said.out
    assert "E_GRANT: no inbox yet" in said.err
    assert fedx("site", "serve", "--idle", "0", "--json") == 0
    assert "E_GRANT: no inbox yet" in json.loads(capsys.readouterr().out)["said"]
