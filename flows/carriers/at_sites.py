"""Clients at separate sites: letters out, signed reports in; the store's credentials stay here.

A warm site (`fedx site serve`) looks into its inbox itself. Prefect is asked only to wake one that
does not, so rounds go on while Prefect's server is away.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fedx_core.base import unfinished
from fedx_core.base.errors import SiteError, StoreError
from fedx_core.clients.client import Place
from fedx_core.rounds.carrier import Outcome, lost
from fedx_core.sites.granting import Granting
from fedx_core.sites.presigner import Presigner
from fedx_core.sites.registry import Registry
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientJob
from flows.prefect.server_tasks import server_task
from flows.sites.errands import Errand, Office, Wake
from flows.sites.folders import coordinator_home, plain_http
from flows.sites.inboxes import Inboxes

T = TypeVar("T")

SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two looks at the store; in between a twentieth of what we have waited so far."""
OUTAGE_SECONDS = 120.0
"""How long the store may fail before the run ends; it can be resumed."""


@dataclass
class AtSites:
    """Sends each client's job to the site of its name.

    Args:
        workers: threads for evaluation at the coordinator.
        registry: of the sites.
        warn: takes one line for people.
        engine: whether a Prefect flow runs this: then its steps are tasks.
        plain_http: see :func:`fedx_core.sites.http_client.check_address`.
        patience: seconds that a site has to take an order before it is woken.
        life: seconds that an order of a job without a deadline lives, before it is sent anew.
        grace: seconds after the deadline in which an update can still be stored and is kept.
    """

    workers: int
    registry: Registry
    warn: Callable[[str], None] = print
    engine: bool = False
    plain_http: bool = False
    patience: float = 10.0
    life: float = 3600.0
    grace: float = 120.0
    _opened: tuple[str, Office] | None = field(default=None, init=False, repr=False)
    _waiting: list[Errand] = field(default_factory=list, init=False, repr=False)
    _late: list[Errand] = field(default_factory=list, init=False, repr=False)
    _outcomes: list[Outcome] = field(default_factory=list, init=False, repr=False)
    _wake: Wake | None = field(default=None, init=False, repr=False)
    _closing: ExitStack = field(default_factory=ExitStack, init=False, repr=False)
    _heard: float = field(default=0.0, init=False, repr=False)
    _failing: float | None = field(default=None, init=False, repr=False)

    @classmethod
    def configured(
        cls, workers: int, warn: Callable[[str], None], place: Place, *, engine: bool
    ) -> "AtSites":
        """Take the sites from FEDX_COORDINATOR_HOME.

        Raises:
            ConfigError: the run's store is not one that sites can be granted.
        """
        Presigner(open_store(place.store), plain_http=plain_http())
        registry = Registry(coordinator_home())
        unfinished.sweep(registry.folder)
        return cls(workers, registry, warn, engine=engine, plain_http=plain_http())

    def server_step(self, name: str, step: Callable[..., T], *arguments: Any) -> T:
        """Call it, as a task if a flow runs this."""
        self._note_late()
        return server_task(name, step, arguments) if self.engine else step(*arguments)

    def send(self, jobs: Sequence[ClientJob], place: Place) -> None:
        """Write an order to each job's site."""
        self._heard = time.monotonic()  # sites that are still at work do not slow new ones down
        if not self._waiting:
            self._failing = None
        if self.engine and self._wake is None:
            from flows.sites.waking import Waking

            self._wake = self._closing.enter_context(Waking(self.warn))
        office = replace(self.office(place), wake=self._wake)
        for job in jobs:
            try:
                errand = Errand(office, job, self.registry.site(job.client))
            except SiteError as error:
                self._outcomes.append(lost(job, error))
                continue
            if (outcome := errand.begin()) is None:
                self._waiting.append(errand)
            else:
                self._outcomes.append(outcome)

    def heard(self, timeout: float | None) -> Sequence[Outcome]:
        """Look once for each site's answer, after a pause that grows while there are none."""
        if not self._outcomes:
            waited = time.monotonic() - self._heard
            pause = min(max(waited / 20, SHORTEST_PAUSE), LONGEST_PAUSE)
            time.sleep(pause if timeout is None else min(pause, timeout))
            self._look()
            self._note_late()
        outcomes, self._outcomes = self._outcomes, []
        self._rest()
        return outcomes

    def drop(self, jobs: Sequence[ClientJob]) -> None:
        """Keep what still comes of them from being counted; see :meth:`Errand.note_late`."""
        gone = {job.uplink_key for job in jobs}
        self._late += [errand for errand in self._waiting if errand.job.uplink_key in gone]
        self._waiting = [e for e in self._waiting if e.job.uplink_key not in gone]
        dropped = {(job.client, job.attempt) for job in jobs}
        self._outcomes = [o for o in self._outcomes if (o.client, o.attempt) not in dropped]
        self._rest()

    def _look(self) -> None:
        for errand in list(self._waiting):
            try:
                outcome = errand.look()
                self._failing = None
            except StoreError as error:
                self._failing = self._failing or time.monotonic()
                if time.monotonic() - self._failing > OUTAGE_SECONDS:
                    raise
                self.warn(f"{error.code}: {error}; trying again")
                return
            if outcome is not None:
                self._waiting.remove(errand)
                self._heard = time.monotonic()
                self._outcomes.append(outcome)

    def _rest(self) -> None:
        """Take back what no worker has begun, where nothing is under way."""
        if not self._waiting:
            self._wake = None
            self._closing.close()

    def _note_late(self) -> None:
        self._late = [errand for errand in self._late if not errand.note_late()]

    def office(self, place: Place) -> Office:
        """Open what a run needs, once: clients of S3 and models take long to make."""
        if self._opened is None or self._opened[0] != place.store:
            store = open_store(place.store)
            presigner = Presigner(store, plain_http=self.plain_http)
            office = Office(
                store=store,
                granting=Granting(store, presigner),
                inboxes=Inboxes(self.registry, presigner.bucket, plain_http=self.plain_http),
                registry=self.registry,
                warn=self.warn,
                patience=self.patience,
                life=self.life,
                grace=self.grace,
            )
            self._opened = (place.store, office)
        return self._opened[1]
