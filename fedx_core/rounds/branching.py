"""Another run's first rounds, shared where nothing that they depend on differs."""

from dataclasses import dataclass

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError, RunError
from fedx_core.clients.plan import read_plan
from fedx_core.images.pixels import Pixels
from fedx_core.record.journal import Journal
from fedx_core.store import open_store


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Another run whose first rounds are shared.

    Args:
        store: URI of that run's store.
        round_index: its last shared round; that round's pruning is this run's own.
    """

    store: str
    round_index: int


def branch_of(journal: Journal) -> Branch | None:
    """Return where a run branched off, or None."""
    run = journal.run()
    if run is None or not run.branched_from:
        return None
    store, _, round_index = run.branched_from.rpartition("@")
    return Branch(store=store, round_index=int(round_index))


def shared_pixels(settings: ExperimentConfig, branch: Branch) -> Pixels:
    """Check that another run's first rounds are this run's too, and take its normalisation.

    Raises:
        ConfigError: a setting that its first rounds depend on differs.
        RunError: that run lacks the round or its state.
    """
    journal = Journal(open_store(branch.store))
    run = journal.run()
    last = journal.committed(branch.round_index)
    first = journal.committed(0)
    if run is None or last is None or first is None:
        raise RunError(
            f"{branch.store} has no committed round {branch.round_index} to branch from; "
            "run it that far first"
        )
    if any(holding.memory is not None for holding in last.holdings.values()):
        raise RunError(
            f"{branch.store}'s clients keep things to themselves (training.batch_norm: local, "
            "training.optimiser_state: kept, a codec that sends later what it leaves out, or a "
            "method such as spafl), which a branch can't take over; run the first rounds again "
            "instead"
        )
    # What settings it began with lack, since they are newer, are their defaults.
    theirs, ours = config.as_plain(config.parse(run.config)), config.as_plain(settings)
    for block in ("seed", "dataset", "datasets", "model", "training", "codec", "support"):
        same = (
            theirs[block][settings.dataset] == ours[block][settings.dataset]
            if block == "datasets"
            else theirs[block] == ours[block]
        )
        if not same:
            raise ConfigError(
                f"{block} differs from the run to branch from: {theirs[block]!r} there, "
                f"{ours[block]!r} here; a branch shares all that its first rounds depend on"
            )
    if config.follows_length(settings.training) and (
        theirs["federation"]["rounds"] != ours["federation"]["rounds"]
    ):
        raise ConfigError(
            f"training.schedule falls over all rounds, which are {theirs['federation']['rounds']} "
            f"in the run to branch from and {ours['federation']['rounds']} here, so that their "
            "first rounds differ; give both the same federation.rounds, or training.schedule.length"
        )
    pruned = last.report.sparsity and (last.evidence is None or _pruned_before(journal, branch))
    if theirs["recovery"] != ours["recovery"] and _pruned_before(journal, branch):
        raise ConfigError(
            f"recovery differs from the run to branch from, {theirs['recovery']!r} there and "
            f"{ours['recovery']!r} here, and it was pruned before round {branch.round_index}; "
            "branch from its first pruned round, or with the same recovery"
        )
    if theirs["method"] != ours["method"] and (
        pruned or theirs["method"]["name"] not in ("fedavg", "fedx")
    ):
        raise ConfigError(
            f"{branch.store} is pruned or not FedAvg by round {branch.round_index}, so its rounds "
            f"are of its method alone: {theirs['method']!r}; branch with the same settings of the "
            "method, or from an unpruned round of fedavg or fedx"
        )
    if journal.store.read((last.evidence.before if last.evidence else last.state).key) is None:
        raise RunError(
            f"{branch.store} no longer holds the state of round {branch.round_index}; it keeps the "
            "last federation.keep_states only; branch from a later round, or run it again with more"
        )
    plan = read_plan(journal.store.get(first.plan))
    return plan.pixels


def _pruned_before(journal: Journal, branch: Branch) -> bool:
    before = journal.committed(branch.round_index - 1)
    return before is None or before.report.sparsity > 0
