"""What a committed round no longer needs: payloads, older memories, all but a few states.

The last ``federation.keep_states`` states stay, and the best round's. What pruning events saw stays
for as long as the run does, and changes by which clients catch up for as many rounds as one may
miss. What lost clients had stored, or store late, stays until ``fedx gc``: it counts for nothing,
and somebody may want to know what it was. Where late updates count, the state and the payloads of
their round stay until each of them has counted or is too old.

Every key follows from the journal; nothing is listed, but for files that a killed writer has left
under way, which have no key.
"""

import itertools
from collections.abc import Mapping, Sequence

from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.record.records import Commit
from fedx_core.rounds.downlink import MOST_CHANGES
from fedx_core.rounds.staleness import awaited
from fedx_core.store import FileStore, Store, open_store
from fedx_core.wire.messages import ClientFailure, ClientReport


def collect_garbage(place: Place, keep_states: int) -> None:
    """Delete what committed rounds no longer need: payloads, and all but a few states."""
    journal = Journal(open_store(place.store))
    sweep(journal.store, open_store(place.memory))
    commits = journal.commits()
    at_work = _at_work(journal, len(commits) - 1)
    for count in range(1, len(commits) + 1):
        forget(journal, place, commits[:count], keep_states, late=True)
        _forget_lost(journal, place, commits[count - 1].round_index, at_work)


def sweep(*stores: Store) -> None:
    """Delete what killed writers have left under way, which in stores of files alone shows."""
    for store in stores:
        if isinstance(store, FileStore):
            store.sweep()


def forget(
    journal: Journal, place: Place, commits: Sequence[Commit], keep_states: int, *, late: bool
) -> None:
    """Delete what the last of these rounds no longer needs.

    Args:
        journal: of the run.
        place: where clients keep what is theirs.
        commits: of all rounds up to that one, round 0 too.
        keep_states: states to keep, the last one's too.
        late: whether updates of the round before may have been waited for; if not, its record is
            not read again.
    """
    store, round_index = journal.store, commits[-1].round_index
    closed, opened = journal.closed(round_index), journal.opened(round_index)
    for question in itertools.count(1):
        if not (answers := journal.answers(round_index, question)):
            break
        for answered in answers:
            folder = f"{answered.ask}/{journal.mark(round_index)}/{question}"
            outcomes: list[ClientReport | ClientFailure] = [*answered.reports, *answered.failures]
            for last in outcomes:
                _forget_attempts(store, folder, last)
            for base in answered.bases:
                store.delete(base.key)
    waited = _at_work(journal, round_index - 1) if late else {}
    waiting = awaited(closed)
    if closed is not None and opened is not None:
        for report in closed.reports:
            own = closed.late.get(report.client)
            _forget_tries(journal, own.round_index if own else round_index, report)
        for client in waited.keys() - waiting.keys() - {r.client for r in closed.reports}:
            _forget_tries(journal, waited[client].since, waited[client])
    origins = {failure.since for failure in waiting.values()}
    ended = {failure.since for failure in waited.values()} - origins
    for over in {round_index, *ended} - origins if closed is not None else ():
        began = opened if over == round_index else journal.opened(over)
        if began is not None:
            for base in (began.base, *began.other_bases):
                store.delete(base.key)
    missed = journal.opened(round_index - MOST_CHANGES + 1) if round_index >= MOST_CHANGES else None
    if missed is not None and missed.change is not None:
        store.delete(missed.change.key)
    if round_index:
        before, after = commits[-2:]
        kept = set(range(round_index - keep_states + 1, round_index + 1))
        kept |= {since - 1 for since in origins}
        if after.report.best_round:
            kept.add(after.report.best_round)
        gone = {before.report.best_round, round_index - keep_states, *(o - 1 for o in ended)}
        for other in gone - kept:
            if other >= 0:
                store.delete(commits[other].state.key)
        if any(holding.memory is not None for holding in before.holdings.values()):
            _forget_memories(journal, place, round_index - keep_states)


def _at_work(journal: Journal, round_index: int) -> dict[str, ClientFailure]:
    return awaited(journal.closed(round_index)) if round_index > 0 else {}


def _forget_memories(journal: Journal, place: Place, round_index: int) -> None:
    """Forget what clients held after a round whose state goes, unless they held it longer.

    What they held after a kept state stays with it, so that a run can go back there.
    """
    gone, kept = journal.committed(round_index), journal.committed(round_index + 1)
    if gone is None or kept is None:
        return
    memories = open_store(place.memory)
    for client, holding in gone.holdings.items():
        if holding.memory is not None and kept.holdings[client].memory != holding.memory:
            memories.delete(holding.memory.key)


def _forget_lost(
    journal: Journal, place: Place, round_index: int, at_work: Mapping[str, ClientFailure]
) -> None:
    closed = journal.closed(round_index)
    memories = open_store(place.memory)
    for report in closed.reports if closed is not None else ():
        _forget_words(journal, round_index, report)
    for failure in closed.failures if closed is not None else ():
        since = failure.since or round_index
        if failure.client in at_work and at_work[failure.client].since == since:
            continue
        _forget_tries(journal, since, failure)
        _forget_words(journal, since, failure)
        for attempt in range(failure.attempt + 1):
            memories.delete(f"memory/{failure.client}/{since:04d}.{attempt}")


def _forget_tries(journal: Journal, round_index: int, last: ClientReport | ClientFailure) -> None:
    _forget_attempts(journal.store, f"uplink/{journal.mark(round_index)}", last)


def _forget_attempts(store: Store, folder: str, last: ClientReport | ClientFailure) -> None:
    for attempt in range(last.attempt + 1):
        stem = f"{folder}/{last.client}.{attempt}"
        store.delete(stem)
        store.delete(f"{stem}.report")


def _forget_words(journal: Journal, round_index: int, last: ClientReport | ClientFailure) -> None:
    """Forget the short words of sites that nobody has read since; see :mod:`fedx_core.sites`."""
    for attempt in range(last.attempt + 1):
        for word in ("taken", "intent"):
            stem = f"uplink/{journal.mark(round_index)}/{last.client}.{attempt}"
            journal.store.delete(f"{stem}.report.{word}")
