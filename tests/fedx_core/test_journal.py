from dataclasses import replace

import pytest

from fedx_core.base.errors import LostRaceError, PayloadError, RunExistsError, VersionError
from fedx_core.base.frozen_json import canonical, plain
from fedx_core.record.journal import Journal
from fedx_core.record.records import Closed, Commit, Opened, Run
from fedx_core.store import MemoryStore
from fedx_core.wire.messages import PROTOCOL, Ref, RoundReport

REF = Ref("states/a", "a" * 64, 3)
RUN = Run(protocol=PROTOCOL, version="0", name="one", config={"seed": 1})


def report(round_index: int) -> RoundReport:
    return RoundReport(
        round_index=round_index,
        rounds=2,
        cohort=(),
        failures=(),
        metrics={},
        metrics_before_pruning={},
        pruned=False,
        traffic={},
        paper_bytes=0,
        sparsity=0.0,
        units_kept={},
        train_loss=0.0,
        seconds={},
    )


@pytest.fixture
def journal() -> Journal:
    return Journal(MemoryStore())


def test_a_run_is_begun_once(journal: Journal) -> None:
    assert journal.run() is None
    journal.begin(RUN)
    assert journal.run() == RUN
    with pytest.raises(RunExistsError, match="fedx resume one"):
        journal.begin(RUN)


def test_records_come_back_and_saying_the_same_again_is_no_conflict(journal: Journal) -> None:
    opened = Opened(round_index=1, state=REF, base=REF, cohort=("a", "b"))
    closed = Closed(round_index=1, reports=(), failures=())
    for _ in range(2):
        journal.open(opened)
        journal.close(closed)
    assert journal.opened(1) == opened
    assert journal.closed(1) == closed
    assert journal.opened(2) is None


def test_a_round_that_an_earlier_version_opened_may_be_opened_again(journal: Journal) -> None:
    opened = Opened(round_index=1, state=REF, base=REF, cohort=("a",))
    earlier = plain(opened)
    del earlier["other_bases"]
    journal.store.put("journal/0001/open", canonical(earlier))
    journal.open(opened)
    assert journal.opened(1) == opened
    with pytest.raises(LostRaceError, match="journal/0001/open"):
        journal.open(replace(opened, other_bases=(REF,)))


def test_another_servers_record_is_never_overwritten(journal: Journal) -> None:
    journal.commit(Commit(round_index=0, plan=REF, state=REF, report=report(0)))
    with pytest.raises(LostRaceError, match="journal/0000/commit"):
        journal.commit(Commit(round_index=0, plan=REF, state=REF, report=report(1)))
    assert [c.report.round_index for c in journal.commits()] == [0]


def test_commits_are_read_in_order_until_one_is_missing(journal: Journal) -> None:
    for round_index in (0, 1, 3):
        journal.commit(Commit(round_index=round_index, plan=REF, state=REF, report=report(0)))
    assert [commit.round_index for commit in journal.commits()] == [0, 1]
    assert journal.committed(-1) is None


def test_a_corrupt_record_and_another_version_are_clear_errors(journal: Journal) -> None:
    journal.store.put("journal/0001/closed", b'{"round_index": 1, "rep')
    with pytest.raises(PayloadError, match="journal/0001/closed is corrupt"):
        journal.closed(1)
    journal.store.put("run.json", b'{"protocol": 99}')
    with pytest.raises(VersionError, match="protocol 99"):
        journal.run()
    journal.store.put("run.json", b"[]")
    with pytest.raises(VersionError, match="protocol None"):
        journal.run()
