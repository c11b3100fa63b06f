"""A warm site: one process that keeps model and data in memory and takes orders as they come.

    inbox     looked at after a twentieth of the time that nothing has come, 50 ms to 1 s
    letter    opened, noted on disk, answered; of each run the last one
    trouble   what may pass is tried again; what can't be done is refused, in the site's own book

Nothing but the granted inbox is needed: no Prefect, no credentials, no open port.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedx_core.base import unfinished
from fedx_core.base.errors import FedXError, GrantError, PlanError, StoreError
from fedx_core.base.locks import exclusive
from fedx_core.rounds import audit
from fedx_core.sites import invitation, serving
from fedx_core.sites.grants import GrantedStore
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.orders import Order, open_order
from flows.sites.post import Post

SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
TROUBLED_PAUSE = 5.0
"""Seconds before another attempt where something has to be mended first."""


@dataclass
class Serving:
    """A site at its post.

    Args:
        home: of the site.
        images: folder with a folder of the site's name.
        http: carries its requests.
        say: takes one line for people.
    """

    home: Home
    images: Path
    http: HttpClient
    say: Callable[[str], None] = print
    _said: str = field(default="", init=False)
    _waiting: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        _ = self.home.coordinator
        self._post = Post(self.home.folder, self.home.keys)
        unfinished.sweep(self.home.folder)

    def invited(self, letter: bytes) -> None:
        """Look where an invitation says.

        Raises:
            OriginError: it leads elsewhere than to the coordinator's store.
            FedXError: it is not for this site, or not from its coordinator.
        """
        inbox = invitation.read(letter, self.home.keys, self.home.coordinator)
        self.home.check((inbox,))
        self._post.invited(inbox)

    def run(self, seconds: float | None = None) -> None:
        """Take orders until the process is ended.

        Args:
            seconds: to end by itself once nothing has come for so long; None never does.
        """
        heard = time.monotonic()
        while True:
            pause = SHORTEST_PAUSE
            try:
                if self.fetch() + self.answer_all():
                    heard = time.monotonic()
            except (StoreError, GrantError) as error:
                self._tell(f"{error.code}: {error}")
                pause = TROUBLED_PAUSE
            waited = time.monotonic() - heard
            if seconds is not None and waited > seconds:
                return
            time.sleep(max(pause, min(waited / 20, LONGEST_PAUSE)))

    def fetch(self) -> int:
        """Follow the inbox to its end; note and count the letters.

        Raises:
            GrantError: nobody has said where to look, or that has expired.
            StoreError: the store does not answer.
        """
        count = 0
        while True:
            inbox = self._post.inbox
            if inbox is None:
                raise GrantError(
                    "no inbox yet: ask the coordinator's people for an invitation (`fedx site "
                    f"invite {self.home.keys.name}`), or have the site woken through Prefect"
                )
            if (data := GrantedStore([inbox], None, self.http).read(inbox.key)) is None:
                return count
            if not self.accept(bytes(data)):
                time.sleep(TROUBLED_PAUSE)
                return count
            count += 1

    def accept(self, letter: bytes) -> Order | None:
        """Open a letter and note it; one that can't be believed goes into the book instead."""
        try:
            order = self._opened(letter)
            self.home.check(order.all_grants)
        except FedXError as error:
            self._refused(error)
            return None
        self._post.arrived(order.job.run, letter, order.inbox)
        return order

    def answer_all(self) -> int:
        """Answer the letters that wait; count those that are done with.

        Raises:
            StoreError: the store does not answer; the letters are kept.
        """
        count = 0
        for run, letter in self._post.letters.items():
            order = None
            try:
                # Keys or the coordinator may have changed since the letter came.
                order = self._opened(letter)
                if run in self._waiting:
                    self.home.approvals.require(order.job.plan.sha256)
                self._answer(order)
            except PlanError as error:
                self._waiting.add(run)
                self._tell(f"{error.code}: {error}")
                continue
            except FedXError as error:
                if isinstance(error, StoreError) and serving.may_pass(error):
                    raise
                self._refused(error, order)
            self._waiting.discard(run)
            self._post.answered(run, letter)
            count += 1
        return count

    def _opened(self, letter: bytes) -> Order:
        """Open a letter with the keys of today; people may have changed them meanwhile."""
        return open_order(letter, self.home.keys, self.home.coordinator)

    def _answer(self, order: Order) -> None:
        job, started = order.job, time.monotonic()
        answer(order, self.home, self.images, self.http)
        self._said = ""
        self.say(
            f"round {job.round_index} of {job.run}: {job.purpose}, attempt {job.attempt + 1}, "
            f"{time.monotonic() - started:.1f} s"
        )

    def _refused(self, error: FedXError, order: Order | None = None) -> None:
        facts: dict[str, str | int] = {}
        if order is not None:
            job = order.job
            facts = {"run": job.run, "round_index": job.round_index, "attempt": job.attempt}
        audit.refused(self.home.folder, error, **facts)
        self._tell(f"refused: {error.code}: {error}")

    def _tell(self, said: str) -> None:
        """Say a thing once, not at each attempt."""
        if said != self._said:
            self._said = said
            self.say(said)


def take(letter: bytes, home: Home, images: Path, http: HttpClient) -> Order:
    """Answer one letter that came another way, such as Prefect's; a warm site goes on after it.

    Args:
        letter: of the coordinator.
        home: of the site.
        images: folder with a folder of the site's name.
        http: carries the requests.

    Raises:
        FedXError: the letter can't be believed, or the job can't be done.
    """
    keys = home.keys
    order = open_order(letter, keys, home.coordinator)
    home.check(order.all_grants)
    unfinished.sweep(home.folder)
    post = Post(home.folder, keys)
    post.arrived(order.job.run, letter, order.inbox, follow=False)
    answer(order, home, images, http)
    post.answered(order.job.run, letter)
    return order


def answer(order: Order, home: Home, images: Path, http: HttpClient) -> None:
    """Do one order; no other process of this site does one at the same time.

    Raises:
        PlanError: people here have to agree first.
        FedXError: it can't be done; if that can't pass, the coordinator was told.
    """
    with exclusive(home.folder / ".work.lock"):
        serving.answer_or_refuse(order, home, images, http)
