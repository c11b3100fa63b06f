"""Back-ups: what comes back is what was there; a file that is none puts nothing in place."""

import hashlib
import json
import shutil
import sqlite3
import stat
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedx_core.base.errors import FedXError, StoreError
from fedx_core.record.journal import Journal
from fedx_core.sites.home import Home
from fedx_core.sites.registry import Registry
from fedx_core.store import open_store
from flows.backup import archive, restore
from flows.backup.archive import Writer
from flows.backup.restore import Places
from flows.runs.run_folder import RunFolder

Fedx = Callable[..., int]
Said = pytest.CaptureFixture[str]
QUIETLY = ("--no-engine", "--track", "nothing", "--workers", "1")


def state(store: str | Path) -> str:
    """Name the last committed state by its hash."""
    return Journal(open_store(str(store))).commits()[-1].state.sha256


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return modes and bytes of all that lies in a folder, but for locks."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
        if not path.name.startswith(".")
    }


@pytest.mark.parametrize("shared", [False, True], ids=["own store", "shared store"])
@pytest.mark.parametrize("norm", ["global", "local"], ids=["no memory", "memory at clients"])
def test_a_run_that_was_lost_and_restored_ends_in_the_bytes_of_one_that_never_stopped(
    shared: bool, norm: str, fedx: Fedx, tmp_path: Path
) -> None:
    store = ("--store", str(tmp_path / "shared")) if shared else ()
    keeps = ("--set", "training.batch_norm=local") if norm == "local" else ()
    assert fedx("run", *QUIETLY, *keeps, "--run", "straight", "--rounds", "4") == 0
    assert fedx("run", *QUIETLY, *keeps, *store, "--run", "lost", "--rounds", "2") == 0
    assert fedx("backup", "kept.zip", "--run", "lost", *store) == 0
    shutil.rmtree("runs/lost")
    shutil.rmtree(tmp_path / "shared", ignore_errors=True)
    assert fedx("restore", "kept.zip", *store) == 0
    assert fedx("resume", "lost", *QUIETLY, "--rounds", "4") == 0
    where = tmp_path / "shared" / "lost" if shared else Path("runs/lost/store")
    assert RunFolder(Path("runs/lost")).notes()["store"] == str(where.absolute())
    assert state(where) == state("runs/straight/store")


def test_a_copy_beside_the_original_goes_on_without_touching_it(
    base: RunFolder, fedx: Fedx
) -> None:
    before = tree(base.path)
    assert fedx("backup", "kept.zip") == 0
    assert fedx("restore", "kept.zip", "--into", "elsewhere") == 0
    assert fedx("resume", "base", *QUIETLY, "--rounds", "4", "--run-root", "elsewhere/runs") == 0
    assert tree(base.path) == before
    assert len(Journal(open_store("elsewhere/runs/base/store")).commits()) == 5


def test_a_site_and_a_coordinator_go_on_with_their_keys_and_modes(
    fedx: Fedx, tmp_path: Path, capsys: Said
) -> None:
    registry, home = Registry(tmp_path / "sites"), Home(tmp_path / "site")
    home.enroll("north")
    home.trust(registry.keys.public)
    registry.admit(home.keys.public, 30)
    before = [(folder.stat().st_mode, tree(folder)) for folder in (registry.folder, home.folder)]
    assert fedx("backup", "kept.zip") == 0
    said = capsys.readouterr().out
    assert "secret keys (sites/keys.json, site/keys.json)" in said
    assert "without mlflow.db: not there" in said
    assert stat.S_IMODE(Path("kept.zip").stat().st_mode) == 0o600
    shutil.rmtree(registry.folder)
    shutil.rmtree(home.folder)
    assert fedx("restore", "kept.zip") == 0
    after = [(folder.stat().st_mode, tree(folder)) for folder in (registry.folder, home.folder)]
    assert after == before
    assert stat.S_IMODE(registry.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((home.folder / "keys.json").stat().st_mode) == 0o600
    assert registry.site("north").public == home.keys.public
    assert home.coordinator == registry.keys.public


def test_keys_can_be_left_out(fedx: Fedx, tmp_path: Path, capsys: Said) -> None:
    registry, home = Registry(tmp_path / "sites"), Home(tmp_path / "site")
    home.enroll("north")
    registry.admit(home.keys.public)
    secrets = [(folder / "keys.json").read_bytes() for folder in (home.folder,)]
    assert registry.keys
    assert fedx("backup", "kept.zip", "--without-keys", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["keys"] == []
    assert "sites/keys.json: secret" in told["left_out"]
    data = Path("kept.zip").read_bytes()
    assert not any(secret in data for secret in secrets)
    with zipfile.ZipFile("kept.zip") as found:
        assert "site/request.json" in found.namelist()


def test_a_run_that_goes_on_is_refused_with_what_to_do(
    base: RunFolder, fedx: Fedx, capsys: Said
) -> None:
    with base.at_work(lambda: None):
        assert fedx("backup", "kept.zip") == 1
    assert "run 'base' goes on; stop it with `fedx stop base`" in capsys.readouterr().err
    note = {"round": 1, "doing": "train", "time": 1.0, "host": "another", "pid": 1}
    (base.results / "now.json").write_text(json.dumps(note))
    assert fedx("backup", "kept.zip") == 1
    assert "goes on on another, as process 1; stop it" in capsys.readouterr().err
    assert not Path("kept.zip").exists()


def test_no_backup_is_overwritten_and_none_is_made_of_nothing(
    base: RunFolder, fedx: Fedx, capsys: Said
) -> None:
    Path("kept.zip").write_text("precious")
    assert fedx("backup", "kept.zip") == 1
    assert "kept.zip is there and is not overwritten" in capsys.readouterr().err
    assert Path("kept.zip").read_text() == "precious"
    assert fedx("backup", "other.zip", "--run-root", "none") == 1
    assert "nothing to back up: no run in none" in capsys.readouterr().err
    assert fedx("backup", "other.zip", "--run", "bsae") == 1
    assert "there are base" in capsys.readouterr().err


def test_a_folder_that_changes_while_it_is_copied_is_refused(
    base: RunFolder, fedx: Fedx, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Writer.add

    def meddling(writer: Writer, name: str, *arguments: Any) -> None:
        add(writer, name, *arguments)
        if name.endswith("rounds.csv"):
            (base.path / "config.yaml").write_text("changed: now\n")

    monkeypatch.setattr(Writer, "add", meddling)
    assert fedx("backup", "kept.zip") == 1
    assert "base changed while it was copied" in capsys.readouterr().err
    assert not Path("kept.zip").exists()


def test_a_link_is_refused_and_named(base: RunFolder, fedx: Fedx, capsys: Said) -> None:
    (base.path / "passwords").symlink_to("/etc/passwd")
    assert fedx("backup", "kept.zip") == 1
    assert "runs/base/passwords is a link" in capsys.readouterr().err


def test_mlflows_numbers_are_those_of_its_last_transaction(fedx: Fedx, capsys: Said) -> None:
    with closing(sqlite3.connect("mlflow.db", isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE metrics (value REAL)")
        database.execute("INSERT INTO metrics VALUES (0.5)")
        database.execute("BEGIN")
        database.execute("INSERT INTO metrics VALUES (0.75)")
        assert fedx("backup", "kept.zip") == 0
        assert fedx("restore", "kept.zip", "--mlflow", "again.db") == 0
    with closing(sqlite3.connect("again.db")) as again:
        assert again.execute("SELECT value FROM metrics").fetchall() == [(0.5,)]
    Path("mlflow.db").write_text("no database at all")
    capsys.readouterr()
    assert fedx("backup", "other.zip") == 1
    assert "can't be read as MLflow's database" in capsys.readouterr().err


def test_nothing_is_put_over_what_is_there(
    base: RunFolder, fedx: Fedx, tmp_path: Path, capsys: Said
) -> None:
    Home(tmp_path / "site").enroll("north")
    assert fedx("backup", "kept.zip") == 0
    shutil.rmtree(base.path)
    before = tree(tmp_path)
    capsys.readouterr()
    assert fedx("restore", "kept.zip") == 1
    assert "error E_EXISTS: site is there, and nothing is overwritten" in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert fedx("restore", "kept.zip", "--run", "base") == 0
    assert (base.path / "config.yaml").exists()


def test_a_store_that_holds_the_run_is_not_written_to(fedx: Fedx, capsys: Said) -> None:
    assert fedx("run", *QUIETLY, "--run", "a", "--rounds", "1", "--store", "shared") == 0
    assert fedx("backup", "kept.zip", "--run", "a") == 0
    shutil.rmtree("runs/a")
    before = tree(Path("shared"))
    capsys.readouterr()
    assert fedx("restore", "kept.zip", "--store", "shared") == 1
    assert "shared/a holds a run" in capsys.readouterr().err
    assert tree(Path("shared")) == before
    assert not Path("runs/a").exists()
    # Of a shared store that is gone, what a killed restore has left may stay, and no other bytes.
    Path("shared/a/run.json").unlink()
    commit = Path("shared/a/journal/0000/commit")
    commit.write_bytes(b"other")
    assert fedx("restore", "kept.zip", "--store", "shared") == 1
    assert "journal/0000/commit is there in shared/a, with other bytes" in capsys.readouterr().err
    assert commit.read_bytes() == b"other"
    commit.unlink()
    assert fedx("restore", "kept.zip", "--store", "shared") == 0
    assert tree(Path("shared")) == before


def test_a_restore_that_fails_halfway_leaves_nothing(
    base: RunFolder, fedx: Fedx, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    Home(tmp_path / "site").enroll("north")
    assert fedx("backup", "kept.zip") == 0
    move = restore._move

    def full(staged: Path, target: Path) -> None:
        if target.name == "site":
            raise OSError(28, "No space left on device", str(target))
        move(staged, target)

    monkeypatch.setattr(restore, "_move", full)
    capsys.readouterr()
    assert fedx("restore", "kept.zip", "--into", "new") == 1
    assert "No space left on device; nothing was put in place" in capsys.readouterr().err
    assert [path for path in Path("new").rglob("*") if path.name != "runs"] == []


@pytest.fixture
def kept(fedx: Fedx, tmp_path: Path) -> Path:
    """A backup of a site."""
    Home(tmp_path / "site").enroll("north")
    assert fedx("backup", "kept.zip") == 0
    shutil.rmtree(tmp_path / "site")
    return tmp_path / "kept.zip"


def refused(path: Path) -> FedXError:
    """Restore what can't be restored; nothing comes of it."""
    into = path.with_name("into")
    with pytest.raises(FedXError) as error:
        restore.restore(path, Places.below(into))
    assert not into.exists()
    return error.value


def test_a_backup_with_any_byte_changed_or_missing_is_refused_or_the_same(kept: Path) -> None:
    whole, with_site = kept.read_bytes(), kept.with_name("into")
    restore.restore(kept, Places.below(with_site))
    right = tree(with_site)
    shutil.rmtree(with_site)
    tried = 0
    for place in range(0, len(whole), 7):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            restore.restore(kept, Places.below(with_site))
        except FedXError:
            assert not with_site.exists(), place
            tried += 1
        else:  # a date, or a byte that no reader needs
            assert tree(with_site) == right, place
            shutil.rmtree(with_site)
    assert tried > len(whole) / 14
    for length in range(0, len(whole), 31):
        kept.write_bytes(whole[:length])
        assert refused(kept).code == "E_PAYLOAD"


def crafted(path: Path, change: Callable[[dict[str, Any]], None], **more: Any) -> None:
    """Write an archive by hand with one file, ``site/a``; what is in its manifest is changed."""
    data = b"bytes of a file"
    plain: dict[str, Any] = {
        "fedx_backup": 1, "version": "1", "made": "", "stores": {}, "folders": {"site": 0o700},
        "files": {"site/a": {
            "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "mode": 0o600,
        }},
    }  # fmt: skip
    change(plain)
    with zipfile.ZipFile(path, "w") as found:
        for name in plain["files"]:
            info = zipfile.ZipInfo(name)
            info.compress_type = more.get("method", zipfile.ZIP_STORED)
            info.external_attr = more.get("kind", stat.S_IFREG | 0o600) << 16
            found.writestr(info, more.get("data", data))
        found.writestr(archive.MANIFEST, json.dumps(plain))


def named(name: str) -> Callable[[dict[str, Any]], None]:
    """Call the file something else, and have its folders in the manifest as well."""

    def change(plain: dict[str, Any]) -> None:
        plain["files"] = {name: plain["files"]["site/a"]}
        parts = name.split("/")
        for count in range(1, len(parts)):
            plain["folders"]["/".join(parts[:count])] = 0o700

    return change


def test_an_archive_that_is_made_by_hand_as_it_should_be_is_taken(tmp_path: Path) -> None:
    crafted(tmp_path / "a.zip", lambda plain: None)
    restore.restore(tmp_path / "a.zip", Places.below(tmp_path / "into"))
    assert (tmp_path / "into/site/a").read_bytes() == b"bytes of a file"


@pytest.mark.parametrize(
    "name",
    ["/etc/cron.d/a", "../a", "site/../../a", "site/..", "site//a", "site/./a", "site/.bashrc",
     "site\\..\\a", "other/a", "site/a\nb", "runs/x/a", "runs/../a", "runs/-x/a", "loose",
     "site/" + "n" * 2000],
)  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    crafted(tmp_path / "a.zip", named(name))
    assert refused(tmp_path / "a.zip").code == "E_PAYLOAD"
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        (lambda p: None, {"method": zipfile.ZIP_DEFLATED, "data": bytes(10**8)}, "compressed"),
        (lambda p: None, {"kind": stat.S_IFLNK | 0o777}, "a link"),
        (lambda p: None, {"kind": stat.S_IFIFO | 0o600}, "no file"),
        (lambda p: None, {"data": b"other bytes here"}, "16 bytes"),
        (lambda p: None, {"data": b"bytes of a filE"}, "is not what its SHA-256"),
        (lambda p: p["folders"].update(site=0o4700), {}, "a mode is none"),
        (lambda p: p["files"]["site/a"].update(mode=0o4755), {}, "a mode is none"),
        (lambda p: p["files"]["site/a"].update(size=-1), {}, "a size or a hash is none"),
        (lambda p: p["files"]["site/a"].update(sha256="0"), {}, "a size or a hash is none"),
        (lambda p: p["folders"].clear(), {}, "lies in no folder"),
        (lambda p: p["folders"].update({"site/a": 0o700}), {}, "no name of a backup"),
        (lambda p: p["stores"].update(x=""), {}, "no folder of run x"),
        (lambda p: p.update(more=1), {}, "unknown field"),
        (lambda p: p.update(fedx_backup=2), {}, "a backup of format 2"),
    ],
)
def test_what_no_backup_holds_is_refused(
    change: Callable[[dict[str, Any]], None], more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    crafted(tmp_path / "a.zip", change, **more)
    assert words in str(refused(tmp_path / "a.zip"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice_or_in_one_place_only_are_refused(tmp_path: Path) -> None:
    for number, extra in enumerate(("site/a", "site/b")):
        path = tmp_path / f"{number}.zip"
        crafted(path, lambda plain: None)
        with zipfile.ZipFile(path, "a") as found:
            found.writestr(extra, b"more")
        assert "twice" in str(refused(path)) or "not in both" in str(refused(path))


def test_other_files_are_no_backups(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with pytest.raises(StoreError, match="can't read"):
        restore.restore(path, Places.below(tmp_path / "into"))
    path.write_text("text")
    assert "is no backup" in str(refused(path))
    path.unlink()
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("site/a", b"")
    assert "is no backup: it has no manifest.json" in str(refused(path))
