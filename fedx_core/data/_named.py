"""Which image of a source a text means: a path, with or without its ending or its folders."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Hashable
from functools import cached_property
from pathlib import Path, PurePosixPath

from fedx_core.base.errors import DataError
from fedx_core.data._files import IMAGES, Files, Folder
from fedx_core.data._labelled import some


class Images:
    """The images of a source, found by what people call them.

    Args:
        files: of the source.
        place: that it was opened from.
        outside: whether a name may lead out of the source.
    """

    def __init__(self, files: Files, place: Path, *, outside: bool) -> None:
        self._files = files
        self.place = place
        self._outside = outside

    def find(self, text: str, where: str) -> str | None:
        """Find the image that is meant; None if there is none.

        A path in the source counts first, then one without its ending, then a file's name alone
        where only one image has it.

        Args:
            text: such as ``a/1.png``, ``./a/1.png``, ``a/1`` or ``1``; an absolute path, too.
            where: it stands, for errors.

        Raises:
            DataError: it leads out of the source, or several images are meant.
        """
        name = self._normal(text, where)
        if name is None:
            return None
        if self._files.holds(name):
            return name
        key = _key(name)
        for known in (self._paths, self._names):
            if found := known.get(key):
                if len(found) > 1:
                    raise DataError(
                        f"{where}: {text} may be {some(found)}; write the path in {self.place}"
                    )
                return found[0]
        return None

    def identity(self, name: str) -> Hashable:
        """Tell the file of a name from others; see the files."""
        return self._files.identity(name)

    def looks_named(self, text: str) -> bool:
        """Whether a text is an image's name by its ending, or names one of the source."""
        return text.lower().endswith(IMAGES) or self.is_named(text)

    def is_named(self, text: str) -> bool:
        """Whether a text names an image of the source, or several."""
        try:
            return bool(text) and self.find(text, "") is not None
        except DataError:
            return True

    @cached_property
    def all(self) -> list[str]:
        """Names of all images of the source."""
        return [name for name in self._files.names() if name.lower().endswith(IMAGES)]

    @cached_property
    def _paths(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.all:
            found[_key(name)].append(name)
            found[_key(name.rpartition(".")[0])].append(name)
        return found

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.all:
            path = PurePosixPath(name)
            found[_key(path.name)].append(name)
            found[_key(path.stem)].append(name)
        return found

    def _normal(self, text: str, where: str) -> str | None:
        """Bring a path to the form in which the source names its files."""
        if "\\" in text and not self._files.holds(text):
            text = text.replace("\\", "/")
        path = os.path.normpath(text)
        if not (Path(path).is_absolute() or path.startswith("..")):
            return path
        root = Path(os.path.normpath(self.place.absolute()))
        whole = Path(os.path.normpath(root / path))
        for above in (root, root.resolve()):
            if whole.is_relative_to(above):
                return whole.relative_to(above).as_posix()
        if not (self._outside and isinstance(self._files, Folder)):
            raise DataError(
                f"{where}: {text} lies outside {self.place}; name files of that folder, or set "
                "outside: true"
            )
        return str(whole) if whole.is_file() else None


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)
