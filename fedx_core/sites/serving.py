"""A site at work: an order that was opened and believed in; payload and report out.

    plan      fetched; nothing more happens unless people here have agreed to it
    taken     a word that the order has arrived
    work      with what the order grants and the site's own shard; the payload stays on its disk
    payload   stored, or said to be ready where the coordinator does not know its length
    report    signed and stored, last

Each step finds what an earlier go at the same job has left, so a site that was killed anywhere goes
on with the next order for that job, and trains once.
"""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedx_core.base import strict_json
from fedx_core.base.errors import (
    AlreadyExistsError,
    FedXError,
    GrantError,
    ObjectMissingError,
    PayloadError,
    PlanError,
    RunError,
    StoreError,
)
from fedx_core.base.frozen_json import canonical, parse
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.sites import manifest, notes
from fedx_core.sites.approvals import Approvals
from fedx_core.sites.grants import GrantedStore
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.keys import Keys
from fedx_core.sites.orders import Order, intent_key, taken_key
from fedx_core.store import Buffer, FileStore, reference
from fedx_core.wire.messages import LARGEST_MESSAGE, ClientJob, ClientReport, Ref

LONGEST_SILENCE = 30 * 24 * 3600.0
"""Seconds after which a site forgets what it has sent in a run of which it hears no more."""

_REPORT = "report"


def answer(
    order: Order,
    keys: Keys,
    approvals: Approvals,
    shards: str,
    memory: str,
    outbox: Path,
    http: HttpClient | None = None,
) -> None:
    """Do what an order asks for, and store what comes of it.

    Args:
        order: that :func:`fedx_core.sites.orders.open_order` has read.
        keys: of this site.
        approvals: of its people.
        shards: folder with a folder of this site's name.
        memory: folder for what the site keeps between rounds.
        outbox: folder for what is to be stored and was stored.
        http: carries the requests.

    Raises:
        PlanError: nobody here has agreed to the plan; the coordinator was told so.
        GrantError: a grant has expired or was refused.
        StoreError: the coordinator's store does not answer.
        FedXError: the job can't be done, see :func:`fedx_core.clients.client.train`.
    """
    job = order.job
    folder = outbox / job.run / f"{job.round_index:04d}" / notes.digest(job)
    desk = FileStore(folder / "done", durable=False)
    granted = GrantedStore(
        order.grants, FileStore(folder / "sent", durable=False), http or HttpClient()
    )
    _agreed(job, granted, approvals, keys)
    _tidy(outbox, job)
    report = _left(desk) or _work(job, granted, desk, shards, memory)
    if report.uplink is not None and not _store(report.uplink, job, granted, desk, keys):
        return
    granted.create(job.report_key, manifest.write(report, job, keys))
    desk.delete(job.uplink_key)
    _forget(Path(memory), job)


def answer_or_refuse(
    order: Order, home: Home, shards: Path, http: HttpClient | None = None
) -> None:
    """Do what an order asks for; if that can't be done, tell the coordinator.

    Args:
        order: that was opened.
        home: of this site.
        shards: folder with a folder of this site's name.
        http: carries the requests.

    Raises:
        OriginError: it would lead elsewhere than to the site's store; nothing was sent.
        FedXError: as :func:`answer`; whatever else went wrong becomes one.
    """
    home.check(order.all_grants)
    mine = home.keys
    try:
        answer(order, mine, home.approvals, str(shards), str(home.memory), home.outbox, http)
    except Exception as error:  # a job may fail in any way; the site goes on
        if may_pass(error):
            raise
        with suppress(GrantError, StoreError):
            refuse(order, mine, error, http)
        if isinstance(error, FedXError):
            raise
        raise RunError(f"the job failed with {type(error).__name__}: {error}") from error


def may_pass(error: Exception) -> bool:
    """Tell whether the same order may yet be answered, or another for the same job."""
    if isinstance(error, AlreadyExistsError | ObjectMissingError):
        return False
    return isinstance(error, StoreError | GrantError | PlanError)


def refuse(order: Order, keys: Keys, error: Exception, http: HttpClient | None = None) -> None:
    """Tell the coordinator that this attempt will have no answer, and the error's code.

    Raises:
        GrantError: even that is not granted any more.
        StoreError: the store does not answer, or holds an answer already.
    """
    code = error.code if isinstance(error, FedXError) else type(error).__name__
    granted = GrantedStore(order.grants, None, http or HttpClient())
    said = notes.write("refused", order.job, keys, code=code[:64])
    granted.create(order.job.report_key, said)


def _agreed(job: ClientJob, granted: GrantedStore, approvals: Approvals, keys: Keys) -> None:
    """Let the job pass if its plan was agreed to; say that it was taken, or that it waits."""
    try:
        approvals.require(job.plan.sha256)
    except PlanError:
        approvals.ask(job, granted.get(job.plan))
        _say("waits", job, granted, keys)
        raise
    _say("taken", job, granted, keys)


def _say(word: notes.Word, job: ClientJob, granted: GrantedStore, keys: Keys) -> None:
    """Leave word, which nothing depends on, once an order."""
    if granted.allows("put", taken_key(job)):
        with suppress(AlreadyExistsError):
            granted.create(taken_key(job), notes.write(word, job, keys))


def _left(desk: FileStore) -> ClientReport | None:
    """Return the report of an earlier go at this job, or None; the payload may be stored by now."""
    if (data := desk.read(_REPORT)) is None:
        return None
    try:
        report = parse(ClientReport, strict_json.loads(data, LARGEST_MESSAGE))
        if report.uplink is not None and (payload := desk.read(report.uplink.key)) is not None:
            _whole(report.uplink, payload)
        return report
    except (PayloadError, ValueError):  # cut short as the machine went down
        desk.delete(_REPORT)
        return None


def _whole(ref: Ref, payload: Buffer) -> None:
    if reference(ref.key, payload) != ref:
        raise PayloadError(f"{ref.key!r} was cut short on this site's disk")


def _work(
    job: ClientJob, granted: GrantedStore, desk: FileStore, shards: str, memory: str
) -> ClientReport:
    desk.delete(job.uplink_key)
    place = Place(store="", shards=shards, memory=str(Path(memory) / job.run))
    report = client.work(job, _Desk(granted, desk), place)
    desk.put(_REPORT, canonical(report))
    return report


def _store(uplink: Ref, job: ClientJob, granted: GrantedStore, desk: FileStore, keys: Keys) -> bool:
    """Store the payload if that is granted, else say that it is ready; tell whether it is there."""
    if (payload := desk.read(uplink.key)) is None:
        return True  # stored with an earlier order
    if granted.allows("put", uplink.key):
        granted.create(uplink.key, payload)
        return True
    granted.create(intent_key(job), notes.write("ready", job, keys, size=uplink.size))
    return False


def _tidy(outbox: Path, job: ClientJob) -> None:
    """Forget what was sent in rounds before the order's, and in runs of which nobody asks any more.

    A coordinator asks for a round only once the one before it is closed. Whatever it may ask for
    again all the same can be trained again.
    """
    for folder in outbox.glob("*"):
        if folder.name != job.run and folder.stat().st_mtime < time.time() - LONGEST_SILENCE:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in (outbox / job.run).glob("*"):
        if folder.name < f"{job.round_index:04d}":
            shutil.rmtree(folder, ignore_errors=True)


def _forget(memory: Path, job: ClientJob) -> None:
    """Forget memories from before the one that the job names: no later job names them."""
    if job.memory is not None:
        folder = memory / job.run / "memory" / job.client
        for path in folder.glob("*"):
            if path.name < Path(job.memory.key).name:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Desk:
    """A store from which granted objects are read, and into which is put what is to be sent."""

    granted: GrantedStore
    own: FileStore

    def get(self, ref: Ref) -> Buffer:
        return self.granted.get(ref)

    def read(self, key: str, limit: int | None = None) -> Buffer | None:
        return self.own.read(key, limit)

    def put(self, key: str, data: Buffer, sha256: str | None = None) -> Ref:
        return self.own.put(key, data, sha256)

    def create(self, key: str, data: Buffer) -> Ref:
        return self.own.create(key, data)

    def delete(self, key: str) -> None:
        self.own.delete(key)
