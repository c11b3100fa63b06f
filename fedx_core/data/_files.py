"""Image files in a folder or in a zip, and their decoding."""

import io
import os
import zipfile
from collections.abc import Hashable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from fedx_core.errors import DataError, SourceMissingError
from fedx_core.examples import Image

TIFF = (".tif", ".tiff")
IMAGES = (".jpg", ".jpeg", ".png", *TIFF)
_SYSTEM = ("Thumbs.db", "desktop.ini")


def is_the_systems(name: str) -> bool:
    """Whether a file is none of the user's: hidden, a trace of macOS, Windows or Jupyter."""
    parts = PurePosixPath(name).parts
    return parts[-1] in _SYSTEM or any(p.startswith(".") or p == "__MACOSX" for p in parts)


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
            raise DataError(f"{self.root} can't be read: {error}") from error

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
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError as error:
            raise SourceMissingError(f"no {name} in {self.root}; fetch the data again") from error
        except OSError as error:
            raise DataError(f"{name} in {self.root} can't be read: {error}") from error


class Archive:
    """Files in a zip, read without unpacking it."""

    def __init__(self, path: Path) -> None:
        self.root = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is not a whole zip file ({error}); fetch it again") from error

    def names(self) -> list[str]:
        """List all files in alphabetical order, the system's left out."""
        return [name for name in self.every() if not is_the_systems(name)]

    def every(self) -> list[str]:
        """List all files in alphabetical order."""
        return sorted(name for name in self._zip.namelist() if not name.endswith("/"))

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
        for name in self._zip.namelist():
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
        return name in self._zip.NameToInfo

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            SourceMissingError: it is not there.
            DataError: the zip is damaged.
        """
        try:
            return self._zip.read(name)
        except KeyError as error:
            raise SourceMissingError(f"no {name} in {self.root}; fetch the data again") from error
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(
                f"{name} in {self.root} is damaged ({error}); fetch it again"
            ) from error


Files = Folder | Archive


def open_files(path: Path) -> Files:
    """Open a folder or a zip.

    Raises:
        DataError: it is neither.
    """
    return Folder(path) if path.is_dir() else Archive(path)


def decode(name: str, payload: bytes) -> Image:
    """Decode a JPEG, PNG or TIFF file.

    Args:
        name: of the file; its ending decides how it is read.
        payload: the file's bytes.

    Returns:
        uint8 or uint16 (bands, height, width).

    Raises:
        DataError: it does not decode, or its pixels are not 8- or 16-bit whole numbers.
    """
    try:
        image = (_tiff if name.lower().endswith(TIFF) else _pillow)(payload)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{name} does not decode ({error}); replace the file or take it out of the data set"
        ) from error
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{name} has {image.dtype} pixels, wanted uint8 or uint16; convert the images, such as "
            "reflectance times 10,000"
        )
    return image


def _pillow(payload: bytes) -> Image:
    from PIL import Image as pillow

    with pillow.open(io.BytesIO(payload)) as file:
        if file.mode == "L" or file.mode.startswith("I;16"):
            return np.asarray(file)[None]
        rgb = file if file.mode == "RGB" else file.convert("RGB")
        # In the order in which it is stored; many threads do this, one writes.
        return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1))


def _tiff(payload: bytes) -> Image:
    import rasterio

    if not payload:
        raise ValueError("the file is empty")
    # Named, since GDAL fills a cut-off PNG with zeros and says nothing.
    with rasterio.MemoryFile(payload) as memory, memory.open(driver="GTiff") as file:
        image: Image = file.read()
        return image
