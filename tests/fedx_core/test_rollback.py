"""Going back to an earlier round: nothing is erased, and what follows is as it was."""

from dataclasses import dataclass
from typing import Any

import pytest

from bed import Bed, tiny
from fedx_core.base.errors import ConfigError, RunError
from fedx_core.record.journal import Journal
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.rollback import kept, roll_back
from fedx_core.store import open_store
from poison import PAYLOADS, Lying


def settings_for(name: str, **overrides: Any) -> Any:
    named = {"method__warmup_rounds": 1} if name == "fedx" else {"method__name": name}
    wanted = {"federation__rounds": 4, "federation__keep_states": 3, "federation__attempts": 1}
    return tiny(**{**named, **wanted, **overrides})


def journal_of(bed: Bed, name: str = "run") -> Journal:
    return Journal(open_store(bed.setting(name).place.store))


@pytest.mark.parametrize("name", ["fedx", "fedadam", "spafl", "local_only", "feddst"])
def test_a_run_that_is_rolled_back_ends_in_the_same_bits_and_loses_no_record(
    name: str, bed: Bed
) -> None:
    settings, setting = settings_for(name), bed.setting()
    list(federate(settings, setting, InProcess(1)))
    first = journal_of(bed)
    ended = first.commits()[-1]
    before = {r: first.store.read(f"journal/{r:04d}/commit") for r in range(5)}
    assert kept(first) == [2, 3, 4]
    with pytest.raises(RunError, match="the state of round 1 is gone; those of 2, 3, 4 are kept"):
        roll_back(first, setting.place, 1)
    with pytest.raises(RunError, match="this run has 0 to 4"):
        roll_back(first, setting.place, 5)
    roll_back(first, setting.place, 2)
    assert [report.round_index for report in history(first.store)] == [1, 2]
    again = list(federate(settings, setting, InProcess(2), resume=True))
    assert [report.round_index for report in again] == [3, 4]
    after = journal_of(bed)
    assert after.commits()[-1].state == ended.state
    assert {r: after.store.read(f"journal/{r:04d}/commit") for r in range(5)} == before
    assert after.store.read("journal/0004.1/commit") is not None
    # And once more, to a round of the second time.
    roll_back(after, setting.place, 3)
    list(federate(settings, setting, InProcess(1), resume=True))
    assert journal_of(bed).commits()[-1].state == ended.state
    assert after.store.read("journal/0004.2/commit") is not None


def test_a_round_that_one_client_spoilt_is_undone(bed: Bed) -> None:
    settings = settings_for("fedavg", federation__clip="none", federation__keep_states=9)
    spoilt = Lying(rounds=(3,), payload=PAYLOADS["a change turned round, fifty times as long"])
    list(federate(settings, bed.setting(), spoilt))
    list(federate(settings, bed.setting("honest"), InProcess(1)))
    honest, run = journal_of(bed, "honest").commits(), journal_of(bed)
    assert run.commits()[-1].state != honest[-1].state
    roll_back(run, bed.setting().place, 2)
    list(federate(settings, bed.setting(), InProcess(1), resume=True))
    assert journal_of(bed).commits()[-1].state == honest[-1].state


def test_a_branch_leaves_pruned_rounds_of_the_same_method(bed: Bed) -> None:
    settings = settings_for("fedx", federation__keep_states=9)
    list(federate(settings, bed.setting(), InProcess(1)))
    ended = journal_of(bed).commits()[-1]
    for at in (1, 3):
        branch = Branch(store=bed.setting().place.store, round_index=at)
        list(federate(settings, bed.setting(f"branch{at}"), InProcess(1), branch=branch))
        assert journal_of(bed, f"branch{at}").commits()[-1].state == ended.state
    other = settings_for("fedx", method__pruning_rate=0.25, federation__keep_states=9)
    branch = Branch(store=bed.setting().place.store, round_index=3)
    with pytest.raises(ConfigError, match="of its method alone"):
        list(federate(other, bed.setting("other"), InProcess(1), branch=branch))


@dataclass
class Killed(InProcess):
    """Is killed once the round is closed, and before it is committed."""

    def server_step(self, name: str, step: Any, *arguments: Any) -> Any:
        if name == "relevance":
            raise KeyboardInterrupt
        return super().server_step(name, step, *arguments)


@pytest.mark.parametrize(
    "kind", ["one weight of 1e17", "a change fifty times as long", "a vote for nothing"]
)
def test_a_server_that_is_killed_once_somebody_is_left_out_ends_in_the_same_bits(
    kind: str, bed: Bed
) -> None:
    name = "mpfl" if "vote" in kind else "fedavg"
    settings = settings_for(name, federation__rounds=2)
    whole = Lying(payload=PAYLOADS[kind])
    list(federate(settings, bed.setting("whole"), whole))
    assert whole.told
    parts = Lying(payload=PAYLOADS[kind])
    going = federate(settings, bed.setting(), parts)
    next(going)
    parts.server_step = Killed(1).server_step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        next(going)
    list(federate(settings, bed.setting(), InProcess(1), resume=True))
    assert journal_of(bed).commits()[-1].state == journal_of(bed, "whole").commits()[-1].state
