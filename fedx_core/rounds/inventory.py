"""What a run's store holds that going on with the run may need, by what its journal names.

The records of all rounds, void ones too; plans, the states that are kept, what pruning events saw;
changes of downlinks, by which clients catch up; and of a round under way what its clients have
stored. All of it is checked against its hash. Whole downlinks are left out, since a resumed server
writes them again, and what nobody has named.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import suppress

from fedx_core.base.errors import ObjectMissingError, PayloadError
from fedx_core.clients.plan import Plan, read_plan
from fedx_core.record.journal import RUN_KEY, Journal
from fedx_core.record.records import Closed, Commit, Opened
from fedx_core.store import Buffer, Store
from fedx_core.wire.messages import LARGEST_MESSAGE, LARGEST_RECORD, Ref


def contents(store: Store) -> Iterator[tuple[str, Buffer]]:
    """Return each object with its key, one after another; ``run.json`` is the first.

    Args:
        store: of a run that no server is at work on.

    Raises:
        PayloadError: an object is damaged, or the last round's state or plan is gone.
    """
    journal = Journal(store)
    journal.run()
    records = list(journal.records())
    for key in (RUN_KEY, *(key for key, _ in records)):
        if (data := store.read(key, LARGEST_RECORD)) is not None:
            yield key, data
    commits = journal.commits()
    public = [plan.public for plan in _plans(store, commits) if plan.public is not None]
    needed = {commits[-1].state, commits[-1].plan} if commits else set()
    for ref in dict.fromkeys((*public, *(ref for _, record in records for ref in _refs(record)))):
        try:
            yield ref.key, store.get(ref)
        except ObjectMissingError as error:
            if ref in needed:
                raise PayloadError(
                    f"{ref.key} is gone, without which the run can't go on; restore it from a copy"
                ) from error
    yield from _under_way(journal, len(commits))


def _plans(store: Store, commits: Sequence[Commit]) -> Iterator[Plan]:
    for ref in dict.fromkeys(commit.plan for commit in commits):
        with suppress(ObjectMissingError):  # said where it is needed
            yield read_plan(store.get(ref))


def _refs(record: object) -> tuple[Ref, ...]:
    if isinstance(record, Opened) and record.change is not None:
        return (record.change,)  # whoever was away will catch up by it
    if not isinstance(record, Commit):
        return ()
    seen = (record.evidence.before, record.evidence.scores) if record.evidence else ()
    return (record.plan, record.state, *seen)


def _under_way(journal: Journal, round_index: int) -> Iterator[tuple[str, Buffer]]:
    """Return what clients have stored in a round that is not committed."""
    opened, closed = journal.opened(round_index), journal.closed(round_index)
    last = _attempts(closed)
    for client in opened.cohort if opened is not None else ():
        for attempt in itertools.count():
            stem = f"uplink/{journal.mark(round_index)}/{client}.{attempt}"
            report = journal.store.read(f"{stem}.report", LARGEST_MESSAGE)
            payload = journal.store.read(stem) if report is not None else None
            if report is not None:
                yield f"{stem}.report", report
            if payload is not None:
                yield stem, payload
            if report is None and attempt >= last.get(client, 0):
                break


def _attempts(closed: Closed | None) -> dict[str, int]:
    if closed is None:
        return {}
    reports = {report.client: report.attempt for report in closed.reports}
    return reports | {failure.client: failure.attempt for failure in closed.failures}
