"""The loop over rounds: yields one report a round, resumes, branches, and keeps a quorum."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

import fedx_core
from fedx_core import allocator, checkpoint, config, ledger, rounds
from fedx_core.client import Place
from fedx_core.cohort import gather, number
from fedx_core.conclude import Clock, finish
from fedx_core.config import ExperimentConfig
from fedx_core.contents import stamp
from fedx_core.errors import (
    FedXError,
    LostRaceError,
    ObjectMissingError,
    PayloadError,
    RunError,
    StoreError,
)
from fedx_core.journal import Closed, Commit, Holding, Journal, Run
from fedx_core.messages import PROTOCOL, Ref, RoundReport, ServerState, Traffic
from fedx_core.retention import forget, sweep
from fedx_core.rounds import Server
from fedx_core.runtime import Runtime
from fedx_core.start import (
    Branch,
    Setting,
    begin,
    branch_of,
    check_beginning,
    check_same_data,
    load,
    open_server,
    settings_of,
)
from fedx_core.state import StateDict
from fedx_core.store import Store, open_store


def federate(
    settings: ExperimentConfig,
    setting: Setting,
    runtime: Runtime,
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
        runtime: who carries the work.
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
    if commits:
        forget(journal, setting.place, commits, settings.federation.keep_states)
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
        commits = [begin(beginning, settings, setting, runtime, journal, data)]

    def check_data() -> None:
        """Refuse what clients have learned while their images were prepared anew."""
        if stamp(setting.data, Path(setting.place.shards)) != prepared:
            check_same_data(journal, settings.dataset, load(setting, settings))

    server = open_server(settings, setting, runtime, journal, data, commits[0].plan)
    if branch is not None and len(commits) <= branch.round_index:
        commits, report = _branch(server, runtime, setting.place, branch, commits)
        yield report
    state = _last_state(store, commits)
    commits[:-1] = [commit.outline() for commit in commits[:-1]]
    while state.round_index < settings.federation.rounds and not commits[-1].report.stopped:
        try:
            state, commit = _round(server, runtime, setting.place, state, commits, check_data)
        except FedXError as error:
            # A server that was faster has tidied away what this one still needed.
            _check_not_lost(journal, len(commits), error)
            raise
        commits.append(commit)
        forget(journal, setting.place, commits, settings.federation.keep_states)
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


def _check_not_lost(journal: Journal, round_index: int, cause: FedXError | None = None) -> None:
    """Refuse to go on with a round that another server has committed.

    Raises:
        LostRaceError: one has.
    """
    with suppress(StoreError):  # then the cause says more
        if not isinstance(cause, LostRaceError) and journal.committed(round_index) is not None:
            raise LostRaceError(
                f"round {round_index} was committed by another server of this run; this one stops "
                "and has changed nothing"
            ) from cause


# One round


def _round(
    server: Server,
    runtime: Runtime,
    place: Place,
    before: ServerState,
    commits: Sequence[Commit],
    check_data: Callable[[], None],
) -> tuple[ServerState, Commit]:
    clock = Clock()
    last = commits[-1]
    holdings = last.holdings
    round_index = before.round_index + 1
    with clock("dispatch"):
        jobs = runtime.server_step(
            "dispatch", rounds.dispatch, server, before, last.state, holdings
        )
    with clock("train"):
        closings = server.journal.closings(round_index)
        closed, combined = closings[-1] if closings else None, None
        if closed is not None and not rounds.all_there(server, closed):
            _check_not_lost(server.journal, round_index)
            closed = None
        if closed is None:
            norms = [commit.report.norms for commit in commits[1:]]
            closed, combined = gather(server, runtime, place, jobs, before, norms)
            check_data()
            server.journal.close(closed, len(closings))
    with clock("aggregate"):
        aggregated = runtime.server_step(
            "aggregate", rounds.aggregate, server, before, closed, combined
        )
    mask = jobs[0].mask.sha256 if jobs[0].mask else ""
    new_holdings = {
        **holdings,
        **{r.client: Holding(mask=mask, memory=r.memory) for r in closed.reports},
    }
    by_client = {job.client: job for job in jobs}
    traffic = (
        ledger.traffic_of(by_client, closed, holdings)
        if server.bench.method.communicates
        else {client: Traffic() for client in by_client}
    )
    if round_index == 1:
        for client, before_round in last.report.traffic.items():
            uplink = traffic.get(client, Traffic()).uplink + before_round.uplink
            traffic[client] = replace(traffic.get(client, Traffic()), uplink=uplink)
    counted = sum(r.examples for r in closed.reports)
    kept = ledger.kept_parameters(server.bench.info.graph, before.mask)
    draft = RoundReport(
        round_index=round_index,
        rounds=server.config.federation.rounds,
        cohort=tuple(by_client),
        failures=closed.failures,
        metrics={},
        metrics_before_pruning={},
        pruned=False,
        traffic=traffic,
        paper_bytes=sum(
            server.bench.method.paper_bytes(server.bench.info, kept, job.variant) for job in jobs
        )
        if server.bench.method.communicates
        else 0,
        sparsity=0.0,
        units_kept={},
        train_loss=sum(float(number(r, "train_loss")) * r.examples for r in closed.reports)
        / max(counted, 1),
        seconds=clock.seconds,
        client_metrics={
            r.client: {
                "examples": float(r.examples),
                "seconds": r.seconds,
                "train_loss": number(r, "train_loss"),
                **{name: number(r, name) for name in r.metrics},
            }
            for r in closed.reports
        },
        method_metrics=_own(closed),
        norms=closed.norms,
        remarks=closed.remarks,
    )
    past = [commit.report for commit in commits[1:]]
    return finish(server, runtime, place, before, aggregated, draft, new_holdings, past, clock)


def _own(closed: Closed) -> dict[str, float]:
    """Average what clients say besides their loss, by examples."""
    names = dict.fromkeys(name for r in closed.reports for name in r.metrics)
    found: dict[str, float] = {}
    for name in names:
        said = [(r.examples, number(r, name)) for r in closed.reports if name in r.metrics]
        found[name] = sum(n * value for n, value in said) / sum(n for n, _ in said)
    found.pop("train_loss", None)
    return found


def _branch(
    server: Server, runtime: Runtime, place: Place, branch: Branch, commits: list[Commit]
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
    _, commit = finish(server, runtime, place, state, state, draft, last.holdings, past, Clock())
    return [*commits, commit], commit.report
