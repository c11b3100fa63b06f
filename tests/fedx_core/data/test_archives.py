"""Zips of all makes, and what is no zip."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from fedx_core.base import limits
from fedx_core.base.errors import DataError, FedXError
from fedx_core.data._files import Archive, open_files


def zipped(path: Path, *entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, payload in entries:
            file.writestr(name, payload)
    return path


def patched(path: Path, local: int, central: int, value: int) -> Path:
    """Set a byte of each entry's headers."""
    found = bytearray(path.read_bytes())
    for mark, at in ((b"PK\3\4", local), (b"PK\1\2", central)):
        place = -1
        while (place := found.find(mark, place + 1)) >= 0:
            found[place + at] = value
    path.write_bytes(found)
    return path


def test_traces_of_systems_are_left_out(tmp_path: Path) -> None:
    ours = ("img/a/1.png", b"1")
    traces = ("__MACOSX/img/a/._1.png", "img/a/._1.png", "img/.ipynb_checkpoints/1.png",
              "img/a/Thumbs.db", ".DS_Store")  # fmt: skip
    path = zipped(tmp_path / "a.zip", ours, *((name, b"x") for name in traces))
    assert Archive(path).names() == ["img/a/1.png"]


def test_names_of_windows_are_paths(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("img/a/1.png", b"1"))
    path.write_bytes(path.read_bytes().replace(b"img/a/1.png", b"img\\a\\1.png"))
    assert Archive(path).names() == ["img/a/1.png"]
    assert Archive(path).read("img/a/1.png") == b"1"


@pytest.mark.parametrize("name", ["../a/1.png", "/etc/1.png", "a/../../1.png", "C:/a/1.png"])
def test_names_that_lead_out_of_a_zip_are_refused(name: str, tmp_path: Path) -> None:
    archive = Archive(zipped(tmp_path / "a.zip", (name, b"1")))
    with pytest.raises(DataError, match=r"which leads out of it; pack it anew"):
        archive.names()


@pytest.mark.parametrize(
    ("local", "central", "value", "said"),
    [
        (6, 8, 1, "a/1.png in .*a.zip has a password; unpack it"),
        (8, 10, 9, "a/1.png in .*a.zip is packed with deflate64"),
        (8, 10, 12, "packed with bzip2"),
        (8, 10, 77, "packed with method 77"),
    ],
)
def test_entries_that_can_not_be_unpacked_are_named(
    local: int, central: int, value: int, said: str, tmp_path: Path
) -> None:
    path = patched(zipped(tmp_path / "a.zip", ("a/1.png", b"1" * 99)), local, central, value)
    with pytest.raises(DataError, match=said):
        Archive(path).read("a/1.png")


def test_a_damaged_stream_is_named_wherever_it_is_damaged(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a/1.png", bytes(range(256)) * 8))
    whole = path.read_bytes()
    start = whole.index(b"a/1.png") + 7
    for place in range(start, start + 120, 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"a/1.png in .*a.zip is damaged .*fetch it again"):
            Archive(path).read("a/1.png")


def test_bytes_anywhere_in_a_zip_may_be_wrong_and_no_other_error_comes(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a/1.png", b"1" * 50), ("b/2.png", b"2" * 50))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            archive = Archive(path)
            for name in archive.names():
                archive.read(name)
        except FedXError as error:
            assert "a.zip" in str(error)  # noqa: PT017


def test_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "ARCHIVE_BYTES", 3 << 20)
    path = zipped(tmp_path / "one.zip", ("a/1.png", bytes((1 << 20) + 1)))
    with pytest.raises(
        DataError, match=r"a/1.png in .* has 1,048,577 bytes, allowed are 1,048,576"
    ):
        Archive(path).read("a/1.png")
    path = zipped(tmp_path / "all.zip", *((f"a/{n}.png", bytes(1 << 20)) for n in range(4)))
    with pytest.raises(DataError, match=r"all.zip has .* would unpack to 4,194,304, allowed are 3"):
        Archive(path)


def test_an_entry_that_hides_how_large_it_is_unpacks_to_what_it_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a/1.png", bytes(1 << 20)))
    found = bytearray(path.read_bytes())
    for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = found.find(mark) + at
        found[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(found)
    with pytest.raises(DataError, match=r"a/1.png in .* is damaged"):
        Archive(path).read("a/1.png")


def test_a_link_in_a_zip_is_named(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a/1.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match=r"a/1.png in .* is a link"):
        Archive(tmp_path / "a.zip").read("a/1.png")


def tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w{mode}") as file:
        file.addfile(tarfile.TarInfo("a/1.png"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (tar(""), "is a tar archive, wanted a folder or a zip; unpack it"),
        (
            tar(":gz"),
            r"packed with gzip \(such as a .tar.gz\), wanted a folder or a zip; unpack it",
        ),
        (b"\xff\xd8\xff\xe0JFIF", "is a JPEG image, wanted a folder or a zip; name a folder"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"", "is an empty file"),
        (b"PK\3\4 and no more", "is not a whole zip file"),
    ],
    ids=["tar", "gzip", "jpeg", "pointer", "empty", "cut"],  # a gzip says when it was made
)
def test_what_is_no_zip_is_named(payload: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "source.zip").write_bytes(payload)
    with pytest.raises(DataError, match=said):
        open_files(tmp_path / "source.zip")


def test_a_file_too_large_to_be_an_image_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "1.png").open("wb") as file:
        file.truncate(limits.FILE_BYTES + 1)
    with pytest.raises(DataError, match=r"1.png has 268,435,457 bytes, allowed are 268,435,456"):
        open_files(tmp_path).read("1.png")
