"""A site's letters: those that are not answered yet, and where the next one will lie.

Both are in one file, ``post`` in the site's folder, sealed to the site's own keys: a grant is as
good as a key, and whoever copies the file has nothing. A letter is noted before it is answered, so
a site that was killed goes on where it was.
"""

import base64
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedx_core.base.errors import FedXError, SiteError
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.base.locks import exclusive
from fedx_core.sites.grants import Grant
from fedx_core.sites.home import POST as FILE
from fedx_core.sites.keys import Keys, seal
from fedx_core.store import FileStore


@dataclass(frozen=True)
class Kept:
    """What is in the file.

    Args:
        inbox: where the next letter will lie; None where nobody has said.
        letters: by run, the last one that came, in base64: it takes the place of earlier ones.
    """

    inbox: Grant | None = None
    letters: Mapping[str, str] = field(default_factory=dict)


class Post:
    """The file; several processes of a site may use it at the same time.

    Args:
        folder: of the site.
        keys: of the site.
    """

    def __init__(self, folder: Path, keys: Keys) -> None:
        self._folder = folder
        self._keys = keys
        self._files = FileStore(folder)

    @property
    def inbox(self) -> Grant | None:
        """Where the next letter will lie."""
        return self._read().inbox

    @property
    def letters(self) -> dict[str, bytes]:
        """By run: letters that are to be answered."""
        return {run: base64.b64decode(text) for run, text in self._read().letters.items()}

    def invited(self, inbox: Grant) -> None:
        """Look there from now on, unless the site was told of a later place already.

        Where an old invitation leads, the letters are gone.
        """
        with self._alone():
            kept = self._read()
            self._write(replace(kept, inbox=_later(kept.inbox, inbox)))

    def arrived(self, run: str, letter: bytes, inbox: Grant | None, *, follow: bool = True) -> None:
        """Note a letter, and where the next one will lie.

        Args:
            run: that it belongs to.
            letter: as it came.
            inbox: that it grants; None leaves the one that is known.
            follow: whether the letter lay in the inbox that is known; one that came another way
                may be older than others that the site has read.
        """
        with self._alone():
            kept = self._read()
            letters = {**kept.letters, run: base64.b64encode(letter).decode()}
            following = inbox if follow else _later(kept.inbox, inbox)
            self._write(Kept(following or kept.inbox, letters))

    def answered(self, run: str, letter: bytes) -> None:
        """Strike a letter off, unless a later one of the same run has come meanwhile."""
        with self._alone():
            kept = self._read()
            if kept.letters.get(run) == base64.b64encode(letter).decode():
                letters = {other: text for other, text in kept.letters.items() if other != run}
                self._write(replace(kept, letters=letters))

    def _alone(self) -> AbstractContextManager[None]:
        return exclusive(self._folder / ".post.lock")

    def _read(self) -> Kept:
        if (data := self._files.read(FILE)) is None:
            return Kept()
        try:
            return parse(Kept, json.loads(self._keys.open(bytes(data))))
        except (FedXError, ValueError) as error:
            raise SiteError(
                f"{self._folder / FILE} is damaged or of other keys ({error}); delete it, and the "
                "coordinator wakes or invites this site anew"
            ) from None

    def _write(self, kept: Kept) -> None:
        self._files.put(FILE, seal(self._keys.public, canonical(kept)))


def _later(known: Grant | None, told: Grant | None) -> Grant | None:
    """Return the place of which a site was told last: the one that expires last."""
    if known is None or told is None:
        return known or told
    return told if told.expires >= known.expires else known
