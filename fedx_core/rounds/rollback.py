"""Let a run go on after one of its earlier rounds: rounds after it are void, and nothing is erased.

The journal gets one more record, which says after which round the run goes on. Records of void
rounds stay as they are; those that come in their place have keys of their own.
"""

from fedx_core.base.errors import ObjectMissingError, PayloadError, RunError
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.record.records import Commit, Rollback
from fedx_core.store import Store, open_store


def kept(journal: Journal) -> list[int]:
    """Name the rounds whose states the store still holds, 0 for the start."""
    store = journal.store
    return [c.round_index for c in journal.commits() if store.read(c.state.key) is not None]


def roll_back(journal: Journal, place: Place, to: int, *, at_sites: bool = False) -> Rollback:
    """Let a run go on after a round whose state is kept.

    Args:
        journal: of the run; no server is at work on it.
        place: where clients keep what is theirs.
        to: the round; 0 for the start. The last one makes a round void that has begun after it.
        at_sites: clients keep what is theirs where nobody else can look; then it is not looked for.

    Raises:
        RunError: no such round is committed, or its state or what clients held then is gone.
    """
    commits = journal.commits()
    if not 0 <= to < len(commits):
        raise RunError(
            f"no committed round {to} to go back to; this run has 0 to {len(commits) - 1}"
        )
    if not _whole(journal.store, commits[to]):
        raise RunError(
            f"the state of round {to} is gone; those of {', '.join(map(str, kept(journal)))} are "
            "kept. federation.keep_states says how many are"
        )
    memories = open_store(place.memory)
    for client, holding in commits[to].holdings.items():
        if holding.memory is not None and not at_sites:
            try:
                memories.get(holding.memory)
            except (ObjectMissingError, PayloadError) as error:
                raise RunError(
                    f"what {client} held after round {to} is gone; go back to a later round"
                ) from error
    return journal.roll_back(to)


def _whole(store: Store, commit: Commit) -> bool:
    try:
        store.get(commit.state)
    except (ObjectMissingError, PayloadError):
        return False
    return True
