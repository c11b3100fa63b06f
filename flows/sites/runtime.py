"""Clients at separate sites: letters out, signed reports in; the store's credentials stay here.

A warm site (`fedx site serve`) looks into its inbox itself. Prefect is asked only to wake one that
does not, so rounds go on while Prefect's server is away.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fedx_core import unfinished
from fedx_core.client import Place
from fedx_core.errors import SiteError, StoreError
from fedx_core.messages import ClientFailure, ClientJob
from fedx_core.runtime import Outcome, Patience, late
from fedx_core.sites.granting import Granting
from fedx_core.sites.presigner import Presigner
from fedx_core.sites.registry import Registry
from fedx_core.store import open_store
from flows.server_tasks import server_task
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
        plain_http: see :func:`fedx_core.sites.wire.check_address`.
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
    _late: list[Errand] = field(default_factory=list, init=False, repr=False)

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

    def run_cohort(self, jobs: Sequence[ClientJob], place: Place) -> Iterator[Outcome]:
        """Send all jobs, then look for answers until there is one of each or it is too late."""
        patience = Patience(jobs)
        with self._bell() as wake:
            office = replace(self.office(place), wake=wake)
            waiting: list[Errand] = []
            for job in jobs:
                try:
                    errand = Errand(office, job, self.registry.site(job.client))
                except SiteError as error:
                    yield _failure(job, f"{error.code}: {error}")
                    continue
                outcome = errand.begin()
                if outcome is None:
                    waiting.append(errand)
                else:
                    patience.saw(outcome)
                    yield outcome
            yield from self._look_after(waiting, patience)

    def _look_after(self, waiting: list[Errand], patience: Patience) -> Iterator[Outcome]:
        heard = time.monotonic()
        failing: float | None = None
        while waiting:
            waited = time.monotonic() - heard
            time.sleep(min(max(waited / 20, SHORTEST_PAUSE), LONGEST_PAUSE))
            for errand in list(waiting):
                try:
                    outcome = errand.look()
                    failing = None
                except StoreError as error:
                    failing = failing or time.monotonic()
                    if time.monotonic() - failing > OUTAGE_SECONDS:
                        raise
                    self.warn(f"{error.code}: {error}; trying again")
                    break
                if outcome is not None:
                    waiting.remove(errand)
                    heard = time.monotonic()
                    patience.saw(outcome)
                    yield outcome
            if patience.is_over():
                self._late += waiting
                yield from (late(errand.job) for errand in waiting)
                waiting = []
            self._note_late()

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

    def _bell(self) -> AbstractContextManager[Wake | None]:
        if not self.engine:
            return nullcontext()
        from flows.sites.waking import Waking

        return Waking(self.warn)


def _failure(job: ClientJob, reason: str) -> ClientFailure:
    return ClientFailure(client=job.client, attempt=job.attempt, reason=reason)
