"""The file that a backup is: a ZIP without compression, and in it a manifest of all the rest.

    manifest.json                  every other file with its size, SHA-256 and mode
    runs/NAME/...                  a run's folder
    runs/NAME/store/KEY            its store, wherever that was
    coordinator/..., site/...      a coordinator's folder, a site's
    mlflow.db

Any program that reads ZIPs can look into it. Since nothing is compressed, nothing in it can be
larger than the file itself. The names say what something is, never where it goes.
"""

import hashlib
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import fedx_core
from fedx_core.base import strict_json, unfinished
from fedx_core.base.errors import (
    AlreadyExistsError,
    FedXError,
    PayloadError,
    StoreError,
    VersionError,
)
from fedx_core.base.frozen_json import canonical, parse
from flows.runs import run_folder

FORMAT = 1
MANIFEST = "manifest.json"
RUNS = "runs"
MLFLOW = "mlflow.db"
HOMES = ("coordinator", "site")

_LARGEST_MANIFEST = 1 << 28
_LONGEST_NAME = 1024
_CHUNK = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")
# Whatever zipfile meets in a file that somebody has cut short, changed or made up.
_DAMAGED = (
    zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError,
    OSError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file.

    Args:
        size: in bytes.
        sha256: of its bytes, hexadecimal.
        mode: permissions.
    """

    size: int
    sha256: str
    mode: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an archive holds.

    Args:
        fedx_backup: version of the format.
        version: of FedX, for people.
        made: when, ISO 8601.
        stores: where each run's store was; empty for in its folder.
        folders: permissions by name.
        files: by name.
    """

    fedx_backup: int
    version: str
    made: str
    stores: dict[str, str]
    folders: dict[str, int]
    files: dict[str, Member]


@dataclass
class Writer:
    """An archive under way."""

    _archive: zipfile.ZipFile
    stores: dict[str, str] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)
    files: dict[str, Member] = field(default_factory=dict)

    def add_folder(self, name: str, mode: int) -> None:
        """Note a folder, and those above it unless they are."""
        parts = name.split("/")
        for count in range(1, len(parts)):
            self.folders.setdefault("/".join(parts[:count]), 0o700)
        self.folders[name] = stat.S_IMODE(mode) & 0o777

    def add(self, name: str, file: IO[bytes], mode: int) -> None:
        """Add a file whose folder was added."""
        mode, size, digest = stat.S_IMODE(mode) & 0o777, 0, hashlib.sha256()
        with self._archive.open(_info(name, mode), "w", force_zip64=True) as target:
            while chunk := file.read(_CHUNK):
                target.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        self.files[name] = Member(size=size, sha256=digest.hexdigest(), mode=mode)

    def finish(self) -> None:
        """Add the manifest."""
        manifest = Manifest(
            fedx_backup=FORMAT,
            version=fedx_core.__version__,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            stores=self.stores,
            folders=self.folders,
            files=self.files,
        )
        self._archive.writestr(_info(MANIFEST, 0o600), canonical(manifest))


@contextmanager
def written(path: Path) -> Iterator[Writer]:
    """Write an archive beside its place and move it there once it is whole; mode 600.

    Raises:
        AlreadyExistsError: something is there.
        StoreError: it can't be written.
    """
    _check_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.beside(path, mode=0o600) as under_way:
            with zipfile.ZipFile(under_way.file, "w") as archive:
                writer = Writer(archive)
                yield writer
                writer.finish()
            under_way.file.flush()
            os.fsync(under_way.file.fileno())
            _check_free(path)
            under_way.path.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FedXError:
        raise
    except OSError as error:
        raise StoreError(
            f"can't read or write {error.filename or path}: {error.strerror or error}; see to its "
            "permissions, free the disk or choose another"
        ) from error


@dataclass(frozen=True)
class Archive:
    """An archive whose names, kinds and sizes are what they may be; contents are checked as read.

    Args:
        path: of the file.
        manifest: of it.
    """

    path: Path
    manifest: Manifest
    _archive: zipfile.ZipFile

    def verify(self) -> None:
        """Read everything once.

        Raises:
            PayloadError: something is not what the manifest says.
        """
        for name in self.manifest.files:
            self.copy(name, lambda _: None)

    def read(self, name: str) -> bytes:
        """Return a file's bytes, checked."""
        found = bytearray()
        self.copy(name, found.extend)
        return bytes(found)

    def copy(self, name: str, write: Callable[[bytes], Any]) -> None:
        """Hand on a file's bytes, which are checked once all were read.

        Raises:
            PayloadError: they are not what the manifest says.
        """
        entry, size, digest = self.manifest.files[name], 0, hashlib.sha256()
        for chunk in self._chunks(name, entry.size):
            size += len(chunk)
            digest.update(chunk)
            write(chunk)
        if (size, digest.hexdigest()) != (entry.size, entry.sha256):
            raise _damaged(self.path, f"{name} is not what its SHA-256 was made of")

    def _chunks(self, name: str, size: int) -> Iterator[bytes]:
        try:
            with self._archive.open(name) as file:
                while size >= 0 and (chunk := file.read(min(_CHUNK, size + 1))):
                    size -= len(chunk)
                    yield chunk
        except _DAMAGED as error:
            raise _damaged(self.path, f"{name}: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open an archive, and refuse whatever :func:`written` would not have written.

    Raises:
        StoreError: the file can't be read.
        VersionError: a later version of FedX has made it.
        PayloadError: it is no backup, or damaged, or would lead elsewhere.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise StoreError(f"can't read {path}: {error.strerror or error}; name a backup") from error
    with file:
        try:
            archive = zipfile.ZipFile(file)
            members = archive.infolist()
        except _DAMAGED as error:
            raise PayloadError(
                f"{path} is no backup, or was cut short ({error}); name a file that `fedx backup` "
                "has made, or another copy of it"
            ) from error
        with archive:
            for member in members:
                _check_member(path, member)
            names = [member.filename for member in members]
            if len(set(names)) != len(names):
                raise _damaged(path, "a name stands in it twice")
            if sum(member.file_size for member in members) > os.fstat(file.fileno()).st_size:
                raise _damaged(path, "it says that it holds more bytes than it has")
            manifest = _manifest(path, archive)
            if set(names) != {*manifest.files, MANIFEST}:
                odd = sorted(set(names) ^ {*manifest.files, MANIFEST})[0]
                raise _damaged(path, f"{odd[:80]!r} is in it or in its manifest, and not in both")
            for member in members:
                entry = manifest.files.get(member.filename)
                if entry is not None and entry.size != member.file_size:
                    raise _damaged(path, f"{member.filename} has {member.file_size} bytes")
            yield Archive(path, manifest, archive)


def _manifest(path: Path, archive: zipfile.ZipFile) -> Manifest:
    try:
        if archive.getinfo(MANIFEST).file_size > _LARGEST_MANIFEST:
            raise _damaged(path, f"{MANIFEST} is larger than {_LARGEST_MANIFEST} bytes")
        plain = strict_json.loads(archive.read(MANIFEST), _LARGEST_MANIFEST)
    except KeyError as error:
        raise PayloadError(
            f"{path} is no backup: it has no {MANIFEST}; name a file that `fedx backup` has made"
        ) from error
    except FedXError:
        raise
    except _DAMAGED as error:
        raise _damaged(path, f"{MANIFEST}: {error}") from error
    found = plain.get("fedx_backup") if isinstance(plain, dict) else None
    if found != FORMAT:
        raise VersionError(
            f"{path} is a backup of format {str(found)[:20]}, this FedX reads {FORMAT}; restore it "
            "with the version that made it"
        )
    try:
        manifest = parse(Manifest, plain)
    except PayloadError as error:
        raise _damaged(path, str(error)) from error
    _check(path, manifest)
    return manifest


def _check(path: Path, manifest: Manifest) -> None:
    """Refuse names that lead elsewhere, and what is no size, hash or mode of a file."""
    for name in (*manifest.folders, *manifest.files):
        parent = name.rpartition("/")[0]
        if parent and parent not in manifest.folders:
            raise _damaged(path, f"{name[:80]!r} lies in no folder of its manifest")
        if not _is_ours(name) or (name in manifest.folders and name in manifest.files):
            raise _damaged(path, f"{name[:80]!r} is no name of a backup")
        top, _, rest = name.partition("/")
        if top == RUNS and rest and rest.partition("/")[0] not in manifest.stores:
            raise _damaged(path, f"{name[:80]!r} is of no run in its manifest")
    modes = (*manifest.folders.values(), *(entry.mode for entry in manifest.files.values()))
    if not all(0 <= mode <= 0o777 for mode in modes):
        raise _damaged(path, "a mode is none of a file")
    for name, entry in manifest.files.items():
        if "/" not in name and name != MLFLOW:
            raise _damaged(path, f"{name[:80]!r} is no file of a backup")
        if entry.size < 0 or not _HASH.fullmatch(entry.sha256):
            raise _damaged(path, "a size or a hash is none")
    for run in manifest.stores:
        run_folder.checked(run)
        if f"{RUNS}/{run}" not in manifest.folders:
            raise _damaged(path, f"it has no folder of run {run}")


def _is_ours(name: str) -> bool:
    parts = name.split("/")
    return (
        (name == MLFLOW or parts[0] in (RUNS, *HOMES))
        and len(name) <= _LONGEST_NAME
        and "\\" not in name
        and name.isprintable()
        and not any(not part or part.startswith(".") for part in parts)
    )


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if (
        member.compress_type != zipfile.ZIP_STORED
        or member.compress_size != member.file_size
        or member.flag_bits & 0x1
        or member.is_dir()
        or kind not in (0, stat.S_IFREG)
    ):
        raise _damaged(
            path, f"{member.filename[:80]!r} is compressed, encrypted, a link or no file"
        )


def _info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | mode) << 16
    return info


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise AlreadyExistsError(f"{path} is there and is not overwritten; name another file")


def _damaged(path: Path, said: str) -> PayloadError:
    return PayloadError(
        f"{path} is damaged, or not as `fedx backup` writes it ({said}); nothing of it was put in "
        "place, use another copy"
    )
