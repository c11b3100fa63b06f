"""Whom a coordinator knows: its own keys and the sites that people have admitted, a file each.

    sites/keys.json             the coordinator's, made when they are first asked for
    sites/admitted/north.json   a site: its public keys and how many examples it may claim
    sites/revoked/KEY.json      a site's keys, named by their first half, that are believed no more
    sites/registrar.json        public keys of whoever admits sites, where that is somebody else

Three roles. Who can read ``keys.json`` may start runs, since sites take orders that it signs. Who
has the registrar's keys may admit and revoke sites: with a registrar, an admission counts only if
these keys have signed it. Who has neither may read, as far as the folder's modes let them.
"""

import base64
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fedx_core.base import strict_json
from fedx_core.base.errors import PayloadError, SiteError, UnknownSiteError
from fedx_core.base.frozen_json import canonical, parse, plain
from fedx_core.sites import key_files, keys, succession
from fedx_core.sites.keys import Keys, Public
from fedx_core.store import FileStore
from fedx_core.wire.messages import LARGEST_MESSAGE

COORDINATOR = "coordinator"
"""Name of the coordinator's own keys."""

REGISTRAR = "registrar"
"""Name of the keys of whoever admits sites."""

REGISTRAR_FILE = "registrar.json"


@dataclass(frozen=True)
class Admitted:
    """A site that takes part.

    Args:
        public: its keys.
        max_examples: images that it may say it has trained or evaluated on, since they weigh its
            updates; 0 for no bound of its own.
    """

    public: Public
    max_examples: int = 0


class Registry:
    """A coordinator's folder.

    Args:
        folder: see the module's docstring.
        registrar: folder of the registrar's keys; None where nobody here may admit sites, unless
            the coordinator has no registrar.
    """

    def __init__(self, folder: Path, registrar: Path | None = None) -> None:
        self.folder = folder
        self.registrar = registrar
        self._files = FileStore(folder)

    @property
    def keys(self) -> Keys:
        """The coordinator's own; made at first use.

        Raises:
            SiteError: they can't be made or read, or others may write into the folder.
        """
        if not (self.folder / key_files.FILE).exists():
            try:
                key_files.save(keys.make(COORDINATOR), self.folder)
            except SiteError:
                # Somebody else was first, or the folder can't be written; loading tells which.
                if not (self.folder / key_files.FILE).exists():
                    raise
        if (mode := self.folder.stat().st_mode) & 0o022:
            raise SiteError(
                f"others than its owner may write {self.folder} (mode {mode & 0o777:o}), and so "
                f"admit whom they like; `chmod go-w {self.folder}`"
            )
        return key_files.load(self.folder)

    def admit(self, public: Public, max_examples: int = 0) -> Admitted:
        """Let a site take part; a known one may get another bound, but no other keys.

        Raises:
            SiteError: the name is taken by other keys, these keys were revoked, or somebody else
                admits sites here.
        """
        if (self.folder / _revoked(public)).exists():
            raise SiteError(
                f"these keys of {public.name} were revoked; its people make new ones with `fedx "
                "site enroll` in a new folder"
            )
        if (self.folder / _key(keys.check_name(public.name))).exists():
            known = self.site(public.name).public
            if public.verify not in {each.verify for each in known.believed(0)}:
                raise SiteError(
                    f"{public.name} is admitted with other keys (fingerprint {known.fingerprint}); "
                    f"ask its people: if they rotated, admit {succession.FILE}; if they made new "
                    f"ones, `fedx site revoke {public.name}` first"
                )
            public = known
        return self._write(Admitted(public, max_examples))

    def follow(self, letter: bytes) -> Admitted:
        """Let the keys of a known site be followed by those of its letter.

        Raises:
            UnknownSiteError: it was not admitted.
            SignatureError: its keys have not signed the letter.
        """
        known = self.site(succession.name(letter))
        return self._write(replace(known, public=succession.follow(letter, known.public)))

    def revoke(self, name: str) -> Public:
        """Believe a site no more, from its next answer on; its keys can't be admitted again.

        Raises:
            UnknownSiteError: it was not admitted.
            SiteError: somebody else admits sites here.
        """
        public = self.site(name).public
        self._sign(b"")
        for each in (public, *((public.successor,) if public.successor else ())):
            self._files.put(
                _revoked(each), key_files.write_public(replace(each, successor=None, starts=0))
            )
        self._files.delete(_key(name))
        return public

    def appoint(self, registrar: Public) -> None:
        """Let sites be admitted by the owner of these keys alone; those admitted are signed anew.

        Raises:
            SiteError: there is another registrar.
        """
        there = self._registrar()
        if there is not None and there != registrar:
            raise SiteError(
                f"{self.folder} has a registrar (fingerprint {there.fingerprint}); delete "
                f"{self.folder / REGISTRAR_FILE} if that is over, and admit all sites again"
            )
        admitted = [self.site(name) for name in self.names()]
        self._put(REGISTRAR_FILE, key_files.write_public(registrar))
        for each in admitted:
            self._write(each)

    def site(self, name: str) -> Admitted:
        """Return a site that was admitted.

        Raises:
            UnknownSiteError: it was not.
            IdentifierError: an impossible name.
            SignatureError: there is a registrar, who has not signed its admission.
            SiteError: its file is damaged.
        """
        key = _key(keys.check_name(name))
        if (data := self._files.read(key)) is None:
            known = ", ".join(self.names()) or "nobody"
            raise UnknownSiteError(
                f"site {name} is not admitted in {self.folder} (there: {known}), or was revoked; "
                "`fedx site admit` takes the file that its people made with `fedx site enroll`"
            )
        registrar = self._registrar()
        try:
            said = strict_json.loads(data, LARGEST_MESSAGE)
            letter = said.pop("signature", None)
            found = parse(Admitted, said)
            if found.public.name != name:
                raise PayloadError(f"it names {found.public.name}")
            signature = base64.b64decode(letter or "", validate=True)
        except (ValueError, AttributeError, RecursionError, SiteError) as error:
            raise SiteError(
                f"{self.folder / key} is damaged ({error}); delete it and admit {name} anew"
            ) from error
        if registrar is not None:
            keys.verify(registrar, _ADMISSION, canonical(found), signature)
        return found

    def names(self) -> tuple[str, ...]:
        """Name all admitted sites in alphabetical order."""
        return tuple(sorted(path.stem for path in (self.folder / "admitted").glob("*.json")))

    def _write(self, admitted: Admitted) -> Admitted:
        signature = self._sign(canonical(admitted))
        said = {**plain(admitted), **({"signature": signature} if signature else {})}
        self._put(_key(admitted.public.name), canonical(said))
        return admitted

    def _put(self, key: str, data: bytes) -> None:
        with suppress(OSError):  # then the store says it
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files.put(key, data)

    def _sign(self, data: bytes) -> str:
        """Sign an admission as the registrar; without one nothing is signed.

        Raises:
            SiteError: there is a registrar, whose keys are not here.
        """
        if (wanted := self._registrar()) is None:
            return ""
        if self.registrar is None:
            raise SiteError(
                f"sites are admitted here by the registrar (fingerprint {wanted.fingerprint}); "
                "name the folder of its keys in --registrar-home, or ask who has it"
            )
        mine = key_files.load(self.registrar)
        if mine.public != wanted:
            raise SiteError(
                f"the keys in {self.registrar} are not the registrar's (fingerprint "
                f"{wanted.fingerprint}); name the folder of those"
            )
        return base64.b64encode(mine.sign(_ADMISSION, data)).decode()

    def _registrar(self) -> Public | None:
        data = self._files.read(REGISTRAR_FILE)
        return None if data is None else key_files.read_public(bytes(data))


_ADMISSION = "admission"


def _key(name: str) -> str:
    return f"admitted/{name}.json"


def _revoked(public: Public) -> str:
    return f"revoked/{public.verify[:32]}.json"
