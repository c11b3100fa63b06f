"""Whom a coordinator knows: its own keys and the sites that people have admitted, a file each.

sites/keys.json            the coordinator's, made when they are first asked for
sites/admitted/north.json  a site: its public keys and how many examples it may claim
"""

from dataclasses import dataclass
from pathlib import Path

from fedx_core import strict_json
from fedx_core.errors import AlreadyExistsError, PayloadError, SiteError, UnknownSiteError
from fedx_core.frozen_json import canonical, parse
from fedx_core.messages import LARGEST_MESSAGE
from fedx_core.sites import keys
from fedx_core.sites.keys import Keys, Public
from fedx_core.store import FileStore

COORDINATOR = "coordinator"
"""Name of the coordinator's own keys."""


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
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = FileStore(folder)

    @property
    def keys(self) -> Keys:
        """The coordinator's own; made at first use."""
        if not (self.folder / keys.FILE).exists():
            try:
                keys.save(keys.make(COORDINATOR), self.folder)
            except SiteError:
                # Somebody else was first, or the folder can't be written; loading tells which.
                if not (self.folder / keys.FILE).exists():
                    raise
        return keys.load(self.folder)

    def admit(self, public: Public, max_examples: int = 0) -> Admitted:
        """Let a site take part; a known one may get another bound, but no other keys.

        Raises:
            SiteError: the name is taken by other keys.
        """
        admitted = Admitted(public, max_examples)
        key = _key(public.name)
        try:
            self._files.create(key, canonical(admitted))
        except AlreadyExistsError:
            known = self.site(public.name).public
            if known != public:
                raise SiteError(
                    f"{public.name} is admitted with other keys (fingerprint {known.fingerprint}); "
                    f"ask its people, and delete {self.folder / key} if they did make new ones"
                ) from None
            self._files.put(key, canonical(admitted))
        return admitted

    def site(self, name: str) -> Admitted:
        """Return a site that was admitted.

        Raises:
            UnknownSiteError: it was not.
            IdentifierError: an impossible name.
            SiteError: its file is damaged.
        """
        key = _key(keys.check_name(name))
        if (data := self._files.read(key)) is None:
            known = ", ".join(self.names()) or "nobody"
            raise UnknownSiteError(
                f"site {name} is not admitted in {self.folder} (there: {known}); "
                "`fedx site admit` takes the file that its people made with `fedx site enroll`"
            )
        try:
            found = parse(Admitted, strict_json.loads(data, LARGEST_MESSAGE))
            if found.public.name != name:
                raise PayloadError(f"it names {found.public.name}")
        except (ValueError, RecursionError, SiteError) as error:
            raise SiteError(
                f"{self.folder / key} is damaged ({error}); delete it and admit {name} anew"
            ) from error
        return found

    def names(self) -> tuple[str, ...]:
        """Name all admitted sites in alphabetical order."""
        return tuple(sorted(path.stem for path in (self.folder / "admitted").glob("*.json")))


def _key(name: str) -> str:
    return f"admitted/{name}.json"
