"""Sites that hold keys and approvals, and lie in what they sign: no run ends, and each is named."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bed import Bed, tiny
from fedx_core.base import config
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.record.journal import Journal
from fedx_core.record.records import Closed
from fedx_core.rounds import audit
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import Store, open_store
from fedx_core.wire.messages import ClientJob, ClientReport
from flows.cli import app
from institutions import CLIENTS, Sites, at_work
from poison import PAYLOADS, STATISTICS, Lying, finite

pytestmark = pytest.mark.integration

SETTINGS = tiny(federation__rounds=4, training__normalisation="federated")


def of_one_image(report: ClientReport) -> ClientReport:
    return replace(report, examples=1)


def of_more_images_than_there_are(report: ClientReport) -> ClientReport:
    return replace(report, examples=2**40)


Lies = dict[tuple[str, int, int], Lying]
"""By client, round and attempt."""


def lies() -> Lies:
    """Another lie in each round; every round asks for all three, and tries each of them twice."""
    absurd = Lying(payload=PAYLOADS["one weight of 3e38"], report=of_one_image)
    far = Lying(payload=PAYLOADS["one weight of 1e17"], report=of_one_image)
    negative = Lying(payload=PAYLOADS["a negative variance"])
    many = Lying(report=of_more_images_than_there_are)
    return {
        ("client-02", 0, 0): Lying(payload=STATISTICS["1e18 pixels"]),
        ("client-01", 1, 0): absurd,
        ("client-01", 1, 1): far,
        ("client-02", 2, 0): negative,
        ("client-02", 2, 1): negative,
        ("client-01", 3, 0): many,
        ("client-01", 3, 1): many,
        ("client-02", 4, 0): Lying(payload=PAYLOADS["a change fifty times as long"]),
    }


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Lies:
    """Lies that clients tell from now on, wherever they are."""
    told, honest = lies(), client.work

    def work(job: ClientJob, store: Store, place: Place) -> ClientReport:
        report = honest(job, store, place)
        lying = told.get((job.client, job.round_index, job.attempt))
        return report if lying is None else lying.lied(job, report, store)

    monkeypatch.setattr(client, "work", work)
    return told


@pytest.fixture
def sites(tmp_path: Path, bed: Bed, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sites]:
    """Three of them, at work."""
    sites = Sites(tmp_path / "sites", bed, f"{s3}/poisoned")
    monkeypatch.setenv("FEDX_COORDINATOR_HOME", str(sites.registry.folder))
    serving = [sites.serving(name) for name in CLIENTS]
    for site in serving:
        sites.welcome(site)
    with at_work(*serving):
        yield sites


def fedx(*arguments: str) -> None:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def closings(journal: Journal) -> list[Closed]:
    found = [journal.closed(round_index) for round_index in range(1, 5)]
    return [closed for closed in found if closed is not None]


def test_sites_that_lie_end_no_run_are_named_and_their_rounds_are_undone(
    sites: Sites, told: Lies, bed: Bed, tmp_path: Path
) -> None:
    params, runs, store = tmp_path / "params.yaml", tmp_path / "runs", f"{sites.bucket}/run"
    params.write_text(yaml.safe_dump(config.as_plain(SETTINGS)))
    where = ("--no-engine", "--run-at", "sites", "--track", "nothing")
    fedx(
        "run", "--run", "run", "--params", str(params), "--run-root", str(runs), "--store", store,
        "--data-root", str(bed.data), *where,
    )  # fmt: skip
    assert all(lie.told for lie in told.values())
    journal = Journal(open_store(f"{store}/run"))
    commits = journal.commits()
    assert len(commits) == 5
    assert all(finite(journal.store, commit) for commit in commits[2:])

    # Each is named: in what the run began with, in each round's record, and in the run's book.
    assert [f.client for f in commits[0].report.failures] == ["client-02"]
    closed = closings(journal)
    assert [[r.client for r in record.reports] for record in closed] == [
        ["client-00", "client-02"], ["client-00", "client-01"], ["client-00", "client-02"],
        list(CLIENTS),
    ]  # fmt: skip
    lost = [(f.client, f.reason.partition(":")[0]) for record in closed for f in record.failures]
    assert lost == [
        ("client-01", "E_OUTLIER"), ("client-02", "E_DOMAIN"), ("client-01", "E_EXAMPLES"),
    ]  # fmt: skip
    assert [list(record.remarks) for record in closed] == [[], [], [], ["client-02"]]
    assert list(closed[3].scales) == ["client-02"]
    book = list(audit.entries(runs / "run"))
    assert audit.verify(runs / "run").faults == ()
    assert [(line["round_index"], line["client"], line.get("code", "")) for line in book] == [
        (0, "client-02", "E_DOMAIN"),
        (1, "client-01", "E_DOMAIN"), (1, "client-01", "E_OUTLIER"),
        (2, "client-02", "E_DOMAIN"), (2, "client-02", "E_DOMAIN"),
        (3, "client-01", "E_EXAMPLES"), (3, "client-01", "E_EXAMPLES"),
        (4, "client-02", ""),
    ]  # fmt: skip
    # What a site may not even sign stands in the coordinator's book as well.
    refused = [line for line in sites.book("coordinator") if line["event"] == "refused"]
    assert [(line["client"], line["code"]) for line in refused] == [
        ("client-01", "E_EXAMPLES"), ("client-01", "E_EXAMPLES"),
    ]  # fmt: skip

    # Rounds 3 and 4 once more, with sites that have come to reason.
    for key in [key for key in told if key[1] > 2]:
        del told[key]
    fedx("rollback", "run", "--to", "2", "--run-root", str(runs))
    fedx("resume", "run", "--run-root", str(runs), *where)
    again = Journal(journal.store)
    honest = closings(again)[2:]
    assert [[r.client for r in record.reports] for record in honest] == [list(CLIENTS)] * 2
    assert not any(record.failures or record.remarks or record.scales for record in honest)
    assert again.store.read("journal/0004/commit") is not None  # void, and still to be read
    assert len(list(audit.entries(runs / "run"))) == len(book)

    # The same lies told in one process lead to the same bytes.
    here = bed.setting("here")
    list(federate(SETTINGS, here, InProcess(1)))
    expected = Journal(open_store(here.place.store)).commits()
    assert [c.state.sha256 for c in again.commits()] == [c.state.sha256 for c in expected]
