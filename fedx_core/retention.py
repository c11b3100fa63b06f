"""What a committed round no longer needs: payloads, older memories, all but a few states.

The last ``federation.keep_states`` states stay, and the best round's. What pruning events saw stays
for as long as the run does.

Every key follows from the journal; nothing is listed.
"""

from fedx_core.client import Place
from fedx_core.journal import Journal
from fedx_core.store import open_store


def collect_garbage(place: Place, keep_states: int) -> None:
    """Delete what committed rounds no longer need: payloads, and all but a few states."""
    journal = Journal(open_store(place.store))
    for commit in journal.commits():
        forget(journal, place, commit.round_index, keep_states)


def forget(journal: Journal, place: Place, round_index: int, keep_states: int) -> None:
    """Delete what a committed round no longer needs."""
    store = journal.store
    closed, opened = journal.closed(round_index), journal.opened(round_index)
    if closed is not None and opened is not None:
        attempts = {f.client: f.attempt for f in closed.failures}
        attempts |= {r.client: r.attempt for r in closed.reports}
        for client, last in attempts.items():
            for attempt in range(last + 1):
                stem = f"uplink/{round_index:04d}/{client}.{attempt}"
                store.delete(stem)
                store.delete(f"{stem}.report")
        store.delete(opened.base.key)
    before, after = journal.committed(round_index - 1), journal.committed(round_index)
    if before is not None and after is not None:
        kept = set(range(round_index - keep_states + 1, round_index + 1))
        if after.report.best_round:
            kept.add(after.report.best_round)
        for other in {before.report.best_round, round_index - keep_states} - kept:
            if (old := journal.committed(other)) is not None:
                store.delete(old.state.key)
        memories = open_store(place.memory)
        for client, holding in before.holdings.items():
            if holding.memory is not None and after.holdings[client].memory != holding.memory:
                memories.delete(holding.memory.key)
