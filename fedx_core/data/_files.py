"""Image files in a folder or in a zip."""

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Hashable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from fedx_core.base import limits
from fedx_core.base.errors import DataError, SourceMissingError
from fedx_core.data import _magic
from fedx_core.data._images import IMAGES, TIFF, decode

__all__ = ["IMAGES", "TIFF", "Archive", "Files", "Folder", "decode", "is_the_systems", "open_files"]

_SYSTEM = ("thumbs.db", "desktop.ini")
_DAMAGE = (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, struct.error, zlib.error)
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstandard", 95: "xz", 98: "PPMd"}


def is_the_systems(name: str) -> bool:
    """Whether a file is none of the user's: hidden, a trace of macOS, Windows or Jupyter."""
    parts = PurePosixPath(name).parts
    return parts[-1].lower() in _SYSTEM or any(p.startswith(".") or p == "__MACOSX" for p in parts)


class Folder:
    """Files under a folder, named by their path in it with forward slashes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """List all files in alphabetical order, the system's and links to nothing left out."""
        return [n for n in self.every() if not is_the_systems(n) and self.holds(n)]

    def every(self) -> list[str]:
        """List what is no folder in alphabetical order; links to folders are followed.

        A link that leads back to a folder above it is passed over.

        Raises:
            DataError: a folder can't be read.
        """
        try:
            return sorted(self._below(self.root, "", frozenset()))
        except OSError as error:
            raise DataError(
                f"{self.root} can't be read: {error}; see to its permissions, or name another"
            ) from error

    def _below(self, folder: Path, name: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        about = folder.stat()
        if (place := (about.st_dev, about.st_ino)) in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from self._below(
                        Path(entry.path), f"{name}{entry.name}/", above | {place}
                    )
                else:
                    yield name + entry.name

    def sizes(self, name: str) -> dict[str, int]:
        """Give the files in one folder and their bytes; none where there is no such folder."""
        try:
            with os.scandir(self.root / name) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except OSError:
            return {}

    def identity(self, name: str) -> Hashable:
        """Tell a file from others, whatever name it was reached by; None where there is none."""
        try:
            about = (self.root / name).stat()
        except OSError:
            return None
        return about.st_dev, about.st_ino

    def folders(self, name: str) -> set[str]:
        """Name the folders within one."""
        place = self.root / name
        return {path.name for path in place.iterdir() if path.is_dir()} if place.is_dir() else set()

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file()

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            SourceMissingError: it is not there.
            DataError: it can't be read.
        """
        path = self.root / name
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > limits.FILE_BYTES:
                    raise _too_large(str(path), size)
                return file.read()
        except FileNotFoundError as error:
            raise SourceMissingError(f"no {name} in {self.root}; fetch the data again") from error
        except OSError as error:
            raise DataError(
                f"{name} in {self.root} can't be read: {error}; see to its permissions"
            ) from error


class Archive:
    """Files in a zip, read without unpacking it."""

    def __init__(self, path: Path) -> None:
        self.root = path
        try:
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise DataError(
                f"{path} can't be read: {error.strerror or error}; see to its permissions, or name "
                "another"
            ) from error
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
            raise _no_zip(path, error) from error
        self._entries = {e.filename.replace("\\", "/"): e for e in self._zip.infolist()}
        self._check_size()

    def names(self) -> list[str]:
        """List all files in alphabetical order, the system's left out.

        Raises:
            DataError: a name leads out of the archive.
        """
        return [name for name in self.every() if not is_the_systems(name)]

    def every(self) -> list[str]:
        """List all files in alphabetical order.

        Raises:
            DataError: a name leads out of the archive.
        """
        names = sorted(name for name in self._entries if not name.endswith("/"))
        for name in names:
            if name.startswith("/") or name[1:3] == ":/" or ".." in name.split("/"):
                raise DataError(
                    f"{self.root} holds an entry {name!r}, which leads out of it; pack it anew "
                    "from within its folder"
                )
        return names

    @cached_property
    def _sizes(self) -> dict[str, dict[str, int]]:
        sizes: dict[str, dict[str, int]] = {}
        for info in self._zip.infolist():
            folder, _, name = info.filename.rpartition("/")
            if name:
                sizes.setdefault(folder, {})[name] = info.file_size
        return sizes

    def sizes(self, name: str) -> dict[str, int]:
        """Give the files in one folder and their bytes; none where there is no such folder."""
        return self._sizes.get(name, {})

    def identity(self, name: str) -> Hashable:
        """Tell a file from others; None where there is none."""
        return name if self.holds(name) else None

    @cached_property
    def _children(self) -> dict[str, set[str]]:
        children: dict[str, set[str]] = {}
        for name in self._entries:
            path = PurePosixPath(name).parent
            while path.name:
                children.setdefault(path.parent.as_posix(), set()).add(path.name)
                path = path.parent
        return children

    def folders(self, name: str) -> set[str]:
        """Name the folders within one."""
        return self._children.get(PurePosixPath(name).as_posix(), set())

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._entries and not name.endswith("/")

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            SourceMissingError: it is not there.
            DataError: it has a password, is packed otherwise than zips mostly are, is damaged, a
                link, or larger than the limits allow.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise SourceMissingError(f"no {name} in {self.root}; fetch the data again")
        shown = f"{name} in {self.root}"
        _check_entry(shown, entry)
        try:
            with self._zip.open(entry) as file:
                # So much and no more: to ask for all would unpack what the header hides.
                found = file.read(entry.file_size)
        except (*_DAMAGE, OSError) as error:
            raise DataError(f"{shown} is damaged ({error or 'cut off'}); fetch it again") from error
        if len(found) != entry.file_size:
            raise DataError(f"{shown} is damaged (shorter than it should be); fetch it again")
        return found

    def _check_size(self) -> None:
        """Refuse an archive that unpacks to more than any data set would."""
        size = self.root.stat().st_size
        whole = sum(entry.file_size for entry in self._entries.values())
        packed = sum(entry.compress_size for entry in self._entries.values())
        most = max(limits.ARCHIVE_BYTES, limits.ARCHIVE_RATIO * size)
        if whole > most or packed > size:
            raise DataError(
                f"{self.root} has {size:,} bytes and would unpack to {whole:,}, allowed are "
                f"{most:,}; if it is what you expect, unpack it and name the folder"
            )


def _check_entry(shown: str, entry: zipfile.ZipInfo) -> None:
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"{shown} is a link; pack the file itself (zip without --symlinks)")
    if entry.flag_bits & 1:
        raise DataError(
            f"{shown} has a password; unpack it and name the folder, or pack it without a password"
        )
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        raise DataError(
            f"{shown} is packed with {method}, wanted deflate; unpack it and name the folder, or "
            "pack it anew (Windows takes deflate64 above 2 GB; 7-Zip: format zip, method Deflate)"
        )
    if entry.file_size > limits.FILE_BYTES:
        raise _too_large(shown, entry.file_size)


def _too_large(shown: str, size: int) -> DataError:
    return DataError(
        f"{shown} has {size:,} bytes, allowed are {limits.FILE_BYTES:,}; cut it into tiles, or map "
        "a GeoTIFF with `fedx predict --tile`"
    )


def _no_zip(path: Path, error: Exception) -> DataError:
    with path.open("rb") as file:
        found = _magic.kind(file.read(512))
    if not found or found == "a zip":
        return DataError(f"{path} is not a whole zip file ({error}); fetch it again")
    advice = "name a folder or a zip"
    if "archive" in found or "packed" in found:
        advice = "unpack it and name the folder"
    return DataError(f"{path} is {found}, wanted a folder or a zip; {advice}")


Files = Folder | Archive


def open_files(path: Path) -> Files:
    """Open a folder or a zip.

    Raises:
        DataError: it is neither.
    """
    return Folder(path) if path.is_dir() else Archive(path)
