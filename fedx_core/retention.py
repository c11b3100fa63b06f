"""What a committed round no longer needs: payloads, older memories, all but a few states.

The last ``federation.keep_states`` states stay, and the best round's. What pruning events saw stays
for as long as the run does. What lost clients had stored, or store late, stays until ``fedx gc``:
it counts for nothing, and somebody may want to know what it was.

Every key follows from the journal; nothing is listed, but for files that a killed writer has left
under way, which have no key.
"""

from collections.abc import Sequence

from fedx_core.client import Place
from fedx_core.journal import Commit, Journal
from fedx_core.messages import ClientFailure, ClientReport
from fedx_core.store import FileStore, Store, open_store


def collect_garbage(place: Place, keep_states: int) -> None:
    """Delete what committed rounds no longer need: payloads, and all but a few states."""
    journal = Journal(open_store(place.store))
    sweep(journal.store, open_store(place.memory))
    commits = journal.commits()
    for count in range(1, len(commits) + 1):
        forget(journal, place, commits[:count], keep_states)
        _forget_lost(journal, place, commits[count - 1].round_index)


def sweep(*stores: Store) -> None:
    """Delete what killed writers have left under way, which in stores of files alone shows."""
    for store in stores:
        if isinstance(store, FileStore):
            store.sweep()


def forget(journal: Journal, place: Place, commits: Sequence[Commit], keep_states: int) -> None:
    """Delete what the last of these rounds no longer needs.

    Args:
        journal: of the run.
        place: where clients keep what is theirs.
        commits: of all rounds up to that one, round 0 too.
        keep_states: states to keep, the last one's too.
    """
    store, round_index = journal.store, commits[-1].round_index
    closed, opened = journal.closed(round_index), journal.opened(round_index)
    if closed is not None and opened is not None:
        for report in closed.reports:
            _forget_tries(journal, round_index, report)
        for base in (opened.base, *opened.other_bases):
            store.delete(base.key)
    if round_index:
        before, after = commits[-2:]
        kept = set(range(round_index - keep_states + 1, round_index + 1))
        if after.report.best_round:
            kept.add(after.report.best_round)
        for other in {before.report.best_round, round_index - keep_states} - kept:
            if other >= 0:
                store.delete(commits[other].state.key)
        if any(holding.memory is not None for holding in before.holdings.values()):
            _forget_memories(journal, place, round_index - keep_states)


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


def _forget_lost(journal: Journal, place: Place, round_index: int) -> None:
    closed = journal.closed(round_index)
    memories = open_store(place.memory)
    for report in closed.reports if closed is not None else ():
        _forget_words(journal, round_index, report)
    for failure in closed.failures if closed is not None else ():
        _forget_tries(journal, round_index, failure)
        _forget_words(journal, round_index, failure)
        for attempt in range(failure.attempt + 1):
            memories.delete(f"memory/{failure.client}/{round_index:04d}.{attempt}")


def _forget_tries(journal: Journal, round_index: int, last: ClientReport | ClientFailure) -> None:
    for attempt in range(last.attempt + 1):
        stem = f"uplink/{journal.mark(round_index)}/{last.client}.{attempt}"
        journal.store.delete(stem)
        journal.store.delete(f"{stem}.report")


def _forget_words(journal: Journal, round_index: int, last: ClientReport | ClientFailure) -> None:
    """Forget the short words of sites that nobody has read since; see :mod:`fedx_core.sites`."""
    for attempt in range(last.attempt + 1):
        for word in ("taken", "intent"):
            stem = f"uplink/{journal.mark(round_index)}/{last.client}.{attempt}"
            journal.store.delete(f"{stem}.report.{word}")
