"""The loop over rounds: yields one report a round, resumes, branches, and keeps a quorum."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

import fedx_core
from fedx_core.base import allocator, config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import (
    FedXError,
    ObjectMissingError,
    PayloadError,
    RunError,
)
from fedx_core.base.state import StateDict
from fedx_core.clients.client import Place
from fedx_core.images.contents import stamp
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Commit, Run
from fedx_core.rounds import loop
from fedx_core.rounds.branching import Branch, branch_of
from fedx_core.rounds.carrier import Carrier
from fedx_core.rounds.conclude import Clock, finish
from fedx_core.rounds.late import lasting
from fedx_core.rounds.retention import forget, sweep
from fedx_core.rounds.start import (
    Setting,
    begin,
    check_beginning,
    check_same_data,
    load,
    open_server,
    settings_of,
)
from fedx_core.rounds.steps import Server
from fedx_core.store import Store, open_store
from fedx_core.wire.messages import PROTOCOL, Ref, RoundReport, ServerState


def federate(
    settings: ExperimentConfig,
    setting: Setting,
    carrier: Carrier,
    *,
    resume: bool = False,
    branch: Branch | None = None,
) -> Iterator[RoundReport]:
    """Run a federation, or go on with one.

    A run that stopped early (``federation.selection``) is finished: going on adds no round, however
    many are asked for.

    Args:
        settings: everything that changes a number; on ``resume`` those of the run's first start
            hold, except for ``federation.rounds``, which may grow.
        setting: where things are.
        carrier: who carries the work.
        resume: go on after the last committed round instead of starting.
        branch: share another run's first rounds instead of computing them again.

    Yields:
        One report for each round that this call completes.

    Raises:
        RunExistsError: the store holds a run and ``resume`` is not set.
        QuorumError: too few clients reported; everything is kept, and the run can be resumed.
        FedXError: settings, data or store can't be used.
    """
    store = open_store(setting.place.store)
    journal = Journal(store)
    commits = journal.commits() if resume else []
    if resume:
        settings = settings_of(journal, setting.run, settings)
        sweep(store, open_store(setting.place.memory))
    # Sums depend on how they are split: one number of threads for the server too, on any machine.
    torch.set_num_threads(settings.training.threads)
    allocator.keep_freed_memory()
    prepared = stamp(setting.data, Path(setting.place.shards))
    data = load(setting, settings)
    if resume:
        check_same_data(journal, settings.dataset, data)
        branch = branch_of(journal)
    keep_states, late = settings.federation.keep_states, settings.federation.staleness > 0
    if commits:
        forget(journal, setting.place, commits, keep_states, late=late)
    else:
        beginning = check_beginning(settings, data, branch)
        if not resume:
            origin = f"{branch.store}@{branch.round_index}" if branch else ""
            journal.begin(
                Run(
                    protocol=PROTOCOL,
                    version=fedx_core.__version__,
                    name=setting.run,
                    config=config.as_plain(settings),
                    branched_from=origin,
                    data=data.content,
                )
            )
        commits = [begin(beginning, settings, setting, carrier, journal, data)]

    def check_data() -> None:
        """Refuse what clients have learned while their images were prepared anew."""
        if stamp(setting.data, Path(setting.place.shards)) != prepared:
            check_same_data(journal, settings.dataset, load(setting, settings))

    server = open_server(settings, setting, carrier, journal, data, commits[0].plan)
    if branch is not None and len(commits) <= branch.round_index:
        commits, report = _branch(server, carrier, setting.place, branch, commits)
        yield report
    state = _last_state(store, commits)
    commits[:-1] = [commit.outline() for commit in commits[:-1]]
    with lasting(carrier) if late else nullcontext(carrier) as carrier:
        while state.round_index < settings.federation.rounds and not commits[-1].report.stopped:
            try:
                state, commit = loop.play(
                    server, carrier, setting.place, state, commits, check_data
                )
            except FedXError as error:
                # A server that was faster has tidied away what this one still needed.
                loop.check_not_lost(journal, len(commits), error)
                raise
            commits.append(commit)
            forget(journal, setting.place, commits, keep_states, late=late)
            commits[-2] = commits[-2].outline()
            yield commit.report


def history(store: Store) -> list[RoundReport]:
    """Return the reports of all committed rounds."""
    return [commit.report for commit in Journal(store).commits()[1:]]


def final_model(store: Store) -> StateDict:
    """Return the model of the last committed round.

    Raises:
        RunError: nothing was committed yet.
    """
    return _model(store, _commits(store)[-1])


def best_model(store: Store) -> StateDict | None:
    """Return the model of the best round by validation; None where rounds are not judged.

    Raises:
        RunError: nothing was committed yet.
    """
    commits = _commits(store)
    best = commits[-1].report.best_round
    return _model(store, commits[best]) if best else None


def _commits(store: Store) -> list[Commit]:
    if not (commits := Journal(store).commits()):
        raise RunError("no committed round in this run; start it with `fedx run`")
    return commits


def _model(store: Store, commit: Commit) -> StateDict:
    return checkpoint.unpack_server_state(store.get(commit.state)).model


def _last_state(store: Store, commits: Sequence[Commit]) -> ServerState:
    last, *earlier = reversed(commits)
    try:
        return checkpoint.unpack_server_state(store.get(last.state))
    except (ObjectMissingError, PayloadError) as error:
        whole = next((commit for commit in earlier if _is_whole(store, commit.state)), None)
        raise PayloadError(
            f"the state of round {last.round_index} is corrupt or gone ({error}); restore "
            f"{last.state.key} from a copy of the run's store"
            + (f"; that of round {whole.round_index} is whole: {whole.state.key}" if whole else "")
        ) from error


def _is_whole(store: Store, ref: Ref) -> bool:
    try:
        store.get(ref)
    except (ObjectMissingError, PayloadError):
        return False
    return True


def _branch(
    server: Server, carrier: Carrier, place: Place, branch: Branch, commits: list[Commit]
) -> tuple[list[Commit], RoundReport]:
    """Copy the shared rounds and do the last one's pruning anew."""
    there = Journal(open_store(branch.store))
    for round_index in range(len(commits), branch.round_index):
        commit = there.committed(round_index)
        assert commit is not None
        if commit.evidence is not None:
            for ref in (commit.evidence.before, commit.evidence.scores):
                server.store.put(ref.key, there.store.get(ref))
        # Their states stay with the other run, so none of them can be this run's best.
        report = replace(commit.report, validation={}, best_round=0, stopped="")
        commits.append(replace(commit, plan=server.plan, report=report))
        server.journal.commit(commits[-1])
    last = there.committed(branch.round_index)
    assert last is not None
    # The last round's pruning is done anew, from what it saw.
    origin = last.evidence.before if last.evidence else last.state
    state = checkpoint.unpack_server_state(there.store.get(origin))
    # It may have been that run's last round, after which models went out to be scored.
    traffic = {name: replace(sent, evaluation=0) for name, sent in last.report.traffic.items()}
    draft = replace(last.report, rounds=server.config.federation.rounds, traffic=traffic)
    past = [commit.report for commit in commits[1:]]
    _, commit = finish(server, carrier, place, state, state, draft, last.holdings, past, Clock())
    return [*commits, commit], commit.report
