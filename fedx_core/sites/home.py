"""A site's folder: who it is, whose orders it takes, what its people agreed to.

    keys.json         its secret keys, readable by its owner alone
    coordinator.json  public keys of the coordinator that it takes orders from
    coordinator.next.json  a letter about keys that follow these
    revoked/          public keys of coordinators that are believed no more
    store             address of that coordinator's store, the only place that it sends requests to
    request.json      its own public keys, for people to carry to the coordinator
    plans/            plans that it was asked to follow, and those that are approved
    memory/           what it keeps between rounds; never leaves
    outbox/           what it has said and hashes of what it has sent, of each run the last round
    audit.jsonl       what it has refused, and why

Its images lie elsewhere, and nothing here is a copy of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from fedx_core.base.errors import AlreadyExistsError, SiteError
from fedx_core.sites import key_files, keys, origin, succession
from fedx_core.sites.approvals import Approvals
from fedx_core.sites.grants import Grant
from fedx_core.sites.keys import VALID_DAYS, Keys, Public
from fedx_core.store import FileStore

COORDINATOR = "coordinator.json"
COORDINATOR_NEXT = "coordinator.next.json"
REQUEST = "request.json"
STORE = "store"
POST = "post"


@dataclass(frozen=True)
class Home:
    """A site's folder; see the module's docstring."""

    folder: Path

    @property
    def keys(self) -> Keys:
        """The site's own.

        Raises:
            SiteError: there are none, or others may read them.
        """
        return key_files.load(self.folder)

    @property
    def coordinator(self) -> Public:
        """Whose orders the site takes.

        Raises:
            SiteError: nobody has said.
        """
        path = self.folder / COORDINATOR
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SiteError(
                f"no coordinator at {path} ({error.strerror}); ask its people for the file that "
                "`fedx site admit` names, and pass it to `fedx site trust`"
            ) from None
        known = key_files.read_public(data)
        try:
            following = (self.folder / COORDINATOR_NEXT).read_bytes()
        except FileNotFoundError:
            return known
        return succession.follow(following, known)

    @property
    def approvals(self) -> Approvals:
        """Plans, asked for and agreed to."""
        return Approvals(self.folder / "plans")

    @property
    def memory(self) -> Path:
        """Store of what the site keeps between rounds."""
        return self.folder / "memory"

    @property
    def outbox(self) -> Path:
        """Folder for what it has said and sent, by run and round."""
        return self.folder / "outbox"

    def enroll(self, name: str, valid_days: int = VALID_DAYS) -> Keys:
        """Make the site's keys, and the file that asks a coordinator to admit it; both once.

        Args:
            name: of the site.
            valid_days: until new keys expire; 0 never.

        Raises:
            SiteError: the folder belongs to a site of another name, or can't be written.
            IdentifierError: an impossible name.
        """
        keys.check_name(name)
        if not (self.folder / key_files.FILE).exists():
            key_files.save(keys.make(name, valid_days), self.folder)
        mine = self.keys
        if mine.name != name:
            raise SiteError(
                f"{self.folder} belongs to {mine.name}, not to {name}; a site has a folder of its "
                "own (FEDX_SITE_HOME)"
            )
        FileStore(self.folder).put(REQUEST, key_files.write_public(mine.public))
        return mine

    @property
    def store(self) -> str | None:
        """Where the coordinator's store is; None while neither people nor an order have said."""
        said = FileStore(self.folder).read(STORE, 1024)
        return None if said is None else bytes(said).decode()

    def trust(self, coordinator: Public, store: str | None = None) -> None:
        """Take orders from this coordinator, and from no other.

        Args:
            coordinator: its public keys.
            store: address of its store, as its people say it. None leaves the one that is known,
                and that of a new coordinator to its first letter.

        Raises:
            SiteError: the site takes them from another one.
            ConfigError: an impossible address.
        """
        address = None if store is None else origin.of(store)
        files = FileStore(self.folder)
        if (self.folder / _revoked(coordinator)).exists():
            raise SiteError(
                f"these keys of the coordinator were revoked here (fingerprint "
                f"{coordinator.fingerprint}); ask its people for the new ones"
            )
        try:
            files.create(COORDINATOR, key_files.write_public(coordinator))
            files.delete(STORE)
            files.delete(POST)  # letters of an earlier coordinator, and where it left them
        except AlreadyExistsError:
            if (known := self.coordinator) != coordinator:
                raise SiteError(
                    f"this site takes orders from another coordinator (fingerprint "
                    f"{known.fingerprint}); `fedx site revoke coordinator` if that is over"
                ) from None
        if address is not None:
            files.put(STORE, address.encode())

    def follow(self, letter: bytes) -> Public:
        """Let the coordinator's keys be followed by those of its letter.

        Raises:
            SiteError: nobody has said whose orders the site takes.
            SignatureError: the coordinator's keys have not signed the letter.
        """
        known = succession.follow(letter, self.coordinator)
        files = FileStore(self.folder)
        files.delete(COORDINATOR_NEXT)
        first = replace(known, successor=None, starts=0)  # whoever signed the letter
        files.put(COORDINATOR, key_files.write_public(first))
        files.put(COORDINATOR_NEXT, letter)
        return known

    def revoke_coordinator(self) -> Public:
        """Take no more orders from the coordinator; its keys can't be trusted again.

        Raises:
            SiteError: nobody has said whose orders the site takes.
        """
        known = self.coordinator
        files = FileStore(self.folder)
        for each in (known, *((known.successor,) if known.successor else ())):
            public = replace(each, successor=None, starts=0)
            files.put(_revoked(public), key_files.write_public(public))
        files.delete(COORDINATOR_NEXT)
        files.delete(COORDINATOR)
        return known

    def check(self, grants: Iterable[Grant]) -> None:
        """Refuse grants that would have this site call another place than its store.

        The first that come name the store, where people have not, unless it is near: see
        :func:`fedx_core.sites.origin.is_safe_unasked`.

        Raises:
            OriginError: they do, or carry headers that are not S3's; nothing was sent.
        """
        known = self.store
        found = origin.check(grants, known)
        if known is None and found is not None:
            FileStore(self.folder).put(STORE, found.encode())


def _revoked(public: Public) -> str:
    return f"revoked/{public.verify[:32]}.json"
