"""One job at one site, from the coordinator's side: sent, looked after, answered or late."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fedx_core.base.errors import FedXError, StoreError, TooBigError
from fedx_core.rounds import audit
from fedx_core.rounds.carrier import Outcome
from fedx_core.sites import manifest, notes
from fedx_core.sites.granting import Granting
from fedx_core.sites.grants import Grant
from fedx_core.sites.manifest import MANIFEST_SIZE
from fedx_core.sites.notes import NOTE_SIZE
from fedx_core.sites.orders import Order, intent_key, issue, taken_key
from fedx_core.sites.registry import Admitted, Registry
from fedx_core.store import Store
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport
from flows.sites.inboxes import READY, Inboxes, Sent

LONGEST_PAUSE = 600.0
"""Seconds between two calls of a site that does not take its order, at most."""

Wake = Callable[[ClientJob, bytes], bool | None]
"""Has a site's worker take a letter, since the site does not look for it itself; says whether that
could not be tried and is to be tried again soon."""


@dataclass(frozen=True, kw_only=True)
class Office:
    """What a coordinator needs to deal with its sites in one run.

    Args:
        store: of the run.
        granting: in that store.
        inboxes: of the sites.
        registry: of the sites.
        warn: takes one line for people.
        patience: seconds that a site has to say that it took an order.
        life: seconds that an order lives if its job has no deadline; then comes another.
        grace: seconds after the deadline during which an update can still be stored, to be kept
            and not counted.
        wake: see :data:`Wake`; None where there is no such way.
    """

    store: Store
    granting: Granting
    inboxes: Inboxes
    registry: Registry
    warn: Callable[[str], None]
    patience: float
    life: float
    grace: float
    wake: Wake | None = None


@dataclass
class Errand:
    """A job that a site was sent.

    Args:
        office: of the run.
        job: for the site.
        site: whose answer is believed.
    """

    office: Office
    job: ClientJob
    site: Admitted
    _ends: float = field(default=0.0, init=False)
    _sent: Sent | None = field(default=None, init=False)
    _calls: float = field(default=0.0, init=False)
    _pause: float = field(default=0.0, init=False)
    _warned: bool = field(default=False, init=False)
    _taken: bool = field(default=False, init=False)
    _waits: bool = field(default=False, init=False)
    _granted: bool = field(default=False, init=False)
    _varies: bool = field(default=False, init=False)

    def begin(self) -> Outcome | None:
        """Send the job, unless it was answered before this coordinator was killed.

        What an earlier go left that can't be believed, a refusal among it, is cleared away: its
        key can be written once.
        """
        earlier, store = self.answer(), self.office.store
        if isinstance(earlier, ClientReport):
            return earlier
        if earlier is not None or store.read(taken_key(self.job), NOTE_SIZE) is not None:
            for key in (self.job.report_key, taken_key(self.job), intent_key(self.job)):
                store.delete(key)
        self.send()
        return None

    def send(self, ready: int = 0) -> None:
        """Send the order.

        Args:
            ready: bytes of a payload whose length the site has said; 0 for the order as a whole.
        """
        office, job = self.office, self.job
        life = job.deadline + job.grace + office.grace if job.deadline else office.life
        granting = office.granting
        least, most = granting.lengths(job)
        self._varies = least != most
        grants = granting.for_ready(job, ready, life) if ready else granting.grants(job, life)
        expires = min(grant.expires for grant in grants)

        def write(inbox: Grant) -> bytes:
            order = Order(job, grants, inbox, expires)
            return issue(order, office.registry.keys, self.site.public)

        about = notes.digest(job) + (READY if ready else "")
        self._sent = office.inboxes.send(job.client, write, about)
        self._ends = time.monotonic() + life
        self._pause = office.patience
        self._calls = time.monotonic() + (self._pause if self._sent.expected else 0.0)

    def look(self) -> Outcome | None:
        """See whether there is an answer; do what the site needs to give one."""
        if (outcome := self.answer()) is not None:
            return outcome
        if not self._taken:
            self._look_for_word()
        if self._varies and not self._granted:
            note = self._note(intent_key(self.job))
            if note is not None:
                self._granted = True
                try:
                    self.send(ready=note.size)
                except TooBigError as error:
                    return self._refused(error)
        if time.monotonic() > self._ends:
            self._granted = self._taken = False
            self.office.store.delete(taken_key(self.job))
            self.send()
        return None

    def answer(self) -> Outcome | None:
        """Return what the site has answered, if it may be believed, or why it may not."""
        job = self.job
        try:
            data = self.office.store.read(job.report_key, MANIFEST_SIZE)
            if data is None:
                return None
            # Read anew: it may have been revoked since it was asked.
            site = self.office.registry.site(job.client)
            if notes.is_note(said := bytes(data)):
                note = notes.read(said, job, site.public)
                self._clear(notes.digest(job))
                return self._failure(f"{note.code}: {job.client} refused; its own book says more")
            report = manifest.read(said, job, site)
            # It has stored a payload, so it has read that letter which has let it.
            granted = (notes.digest(job) + READY,) if report.uplink is not None else ()
            self._clear(*granted, notes.digest(job))
            return report
        except StoreError:
            raise
        except FedXError as error:
            return self._refused(error)

    def _clear(self, *about: str) -> None:
        """Clear letters and words away that an answer has made useless."""
        with suppress(StoreError):  # then the next answer does it, or `fedx gc`
            for key in (taken_key(self.job), intent_key(self.job)):
                self.office.store.delete(key)
            self.office.inboxes.answered(self.job.client, *about)

    def note_late(self) -> bool:
        """Write an answer that came too late into the book; tell whether there is no more to see.

        It stays where it is for people to look at, until ``fedx gc``.
        """
        job = self.job
        if not isinstance(report := self.answer(), ClientReport):
            return report is not None or time.monotonic() > self._ends
        kept = report.uplink.key if report.uplink else job.report_key
        audit.note(
            self.office.registry.folder, "late", run=job.run, round_index=job.round_index,
            client=job.client, attempt=job.attempt, kept=kept,
        )  # fmt: skip
        self.office.warn(
            f"{job.client} answered round {job.round_index} too late; kept as {kept} until "
            "`fedx gc`, and not counted"
        )
        return True

    def _look_for_word(self) -> None:
        """See whether the site has the order; after a while call it, or people."""
        note = self._note(taken_key(self.job))
        self._taken = note is not None and note.word == "taken"
        if note is not None and note.word == "waits":
            self.office.store.delete(taken_key(self.job))  # so that "taken" can be said there
            if not self._waits:
                self._waits = True
                plan = self.job.plan.sha256[:12]
                self.office.warn(
                    f"{self.job.client} waits for its people to agree to plan {plan} "
                    f"(there: `fedx site approve {plan}`)"
                )
        if not self._taken and time.monotonic() > self._calls:
            self._call()

    def _call(self) -> None:
        assert self._sent is not None
        # A site that is off is not rung at for days.
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._calls = time.monotonic() + self._pause
        if self.office.wake is not None:
            if self.office.wake(self.job, self._sent.letter):
                self._pause = self.office.patience
                self._calls = time.monotonic() + self._pause
        elif not (self._warned or self._waits):
            self._warned = True
            client = self.job.client
            invite = f"`fedx site invite {client}` here and `fedx site serve --invitation` there"
            self.office.warn(
                f"{client} does not take the order of round {self.job.round_index}; is "
                f"`fedx site serve` at work there?"
                + ("" if self._sent.expected else f" It knows of no inbox: {invite}")
            )

    def _note(self, key: str) -> notes.Note | None:
        """Read a word of the site's; one that can't be believed is no word."""
        try:
            data = self.office.store.read(key, NOTE_SIZE)
            return None if data is None else notes.read(bytes(data), self.job, self.site.public)
        except StoreError:
            raise
        except FedXError as error:
            self._refused(error)
            self.office.store.delete(key)
            return None

    def _refused(self, error: FedXError) -> ClientFailure:
        job = self.job
        audit.refused(
            self.office.registry.folder, error, run=job.run, round_index=job.round_index,
            client=job.client, attempt=job.attempt,
        )  # fmt: skip
        return self._failure(f"{error.code}: {error}", refused=True)

    def _failure(self, reason: str, *, refused: bool = False) -> ClientFailure:
        job = self.job
        return ClientFailure(client=job.client, attempt=job.attempt, reason=reason, refused=refused)
