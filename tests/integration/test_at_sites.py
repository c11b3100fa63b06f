"""Rounds at sites that hold keys, data and approvals, and nothing of the coordinator's store."""

import base64
import json
import os
import shutil
import threading
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import final_hashes
from bed import Bed, tiny, tiny_resnet6
from carrying import counts_late_updates, first_jobs, keeps_to_the_rules
from fedx_core.base.errors import ConfigError
from fedx_core.clients.client import Place, train
from fedx_core.record.journal import Journal
from fedx_core.rounds.asking import Asking
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate
from fedx_core.sites import notes, serving
from fedx_core.sites import presigner as presigning
from fedx_core.sites.http_client import HttpClient
from fedx_core.store import Store, open_store
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport
from flows.carriers.at_sites import AtSites
from flows.carriers.runtimes import choose
from flows.sites.errands import Errand
from flows.sites.post import Post
from flows.sites.serve import take
from institutions import CLIENTS, Sites, answer, at_work, errand

pytestmark = pytest.mark.integration


@pytest.fixture
def sites(tmp_path: Path, bed: Bed, s3: str, request: pytest.FixtureRequest) -> Sites:
    return Sites(tmp_path / "sites", bed, f"{s3}/{request.node.name[:40]}")


def what_came(store: str) -> tuple[object, ...]:
    """Hashes of all states, and every byte that was counted."""
    commits = Journal(open_store(store)).commits()
    return (
        [commit.state.sha256 for commit in commits],
        [(c.report.traffic, c.report.paper_bytes, c.report.metrics) for c in commits],
    )


def keys(uri: str) -> set[str]:
    """Return the keys of all objects under a URI, without what the URI names."""
    import boto3

    parts = urlsplit(f"{uri.rstrip('/')}/")
    bucket, prefix = boto3.Session().resource("s3").Bucket(parts.netloc), parts.path[1:]
    return {found.key.removeprefix(prefix) for found in bucket.objects.filter(Prefix=prefix)}


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ("fedx", {}),
        ("", {**final_hashes.CODED, "federation__participation": 1.0}),
    ],
    ids=["whole models", "coded changes"],
)
def test_a_federation_at_warm_sites_ends_in_the_bytes_of_one_process(
    row: str,
    settings: dict[str, Any],
    sites: Sites,
    bed: Bed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEDX_COORDINATOR_HOME", str(sites.registry.folder))
    run = "whole" if row else "coded"
    here, there = bed.setting("here"), sites.setting(run)
    list(federate(tiny_resnet6(**settings), here, InProcess(1)))
    others = keys("s3://fedx/inbox")
    done = threading.Event()

    def people() -> None:
        while not done.wait(0.2):
            sites.agree()

    watching = threading.Thread(target=people)
    watching.start()
    try:
        with (
            sites.process("client-00", "--invitation", str(sites.invite("client-00"))) as first,
            sites.process("client-01", "--invitation", str(sites.invite("client-01"))),
            sites.process("client-02", "--invitation", str(sites.invite("client-02"))),
        ):
            with choose("sites", 1, there.place, sites.said.append, engine=False) as runtime:
                reports = list(federate(tiny_resnet6(**settings), there, runtime))
            known = Path(f"/proc/{first.pid}/environ").read_bytes()
    finally:
        done.set()
        watching.join()
    assert what_came(there.place.store) == what_came(here.place.store)
    if row:
        assert [report.pruned for report in reports] == [False, True, False]
        final_hashes.check(row, here)
    else:
        assert max(report.wire_bytes for report in reports) < reports[-1].evaluation_bytes / 5
    assert any("waits for its people to agree" in line for line in sites.said)
    # The sites have neither the store's credentials nor each other's data.
    assert b"AWS" not in known
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for path in sites.folder.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path
    assert [path.name for path in sites.shards("client-00").iterdir()] == ["client-00"]
    # Nothing is left of what was said on the way: no letters, no words, one round's answers.
    assert keys("s3://fedx/inbox") == others
    kept = Path(here.place.store)
    assert keys(there.place.store) == {
        str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()
    }
    site = sites.home("client-00")
    assert not Post(site.folder, site.keys).letters
    assert [path.relative_to(site.outbox) for path in site.outbox.glob("*/*")] == [
        Path(run, "0003")
    ]


def test_what_passes_between_them_shows_no_grant(sites: Sites) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    asked = errand(sites, sites.runtime(), setting, job)
    sites.invite("client-00")
    assert asked.begin() is None
    assert asked._sent is not None
    for data in (asked._sent.letter, asked._sent.letter.hex().encode()):
        assert b"X-Amz" not in data
        assert b"http" not in data
    assert b"X-Amz" not in (sites.folder / "coordinator/inboxes/client-00.json").read_bytes()


def test_a_site_that_was_killed_goes_on_with_the_letter_that_it_had(sites: Sites) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    asked = errand(sites, sites.runtime(), setting, job)
    site = sites.home("client-00")
    with sites.process("client-00", "--invitation", str(sites.invite("client-00"))) as process:
        assert asked.begin() is None
        while not list(site.approvals.asked()):  # it has the order, and waits for its people
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.wait()
    assert asked.look() is None
    sites.agree("client-00")
    with sites.process("client-00") as process:
        while (outcome := asked.look()) is None:
            assert process.poll() is None
            time.sleep(0.05)
    assert isinstance(outcome, ClientReport)


def test_a_site_killed_while_it_stores_trains_once_and_stores_once(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    asked = errand(sites, sites.runtime(), setting, job)
    site = sites.serving("client-00")
    sites.welcome(site)
    asked.begin()
    trained: list[ClientJob] = []

    def once(asked_for: ClientJob, store: Store, place: Place) -> ClientReport:
        trained.append(asked_for)
        return work(asked_for, store, place)

    def dies(*_: object) -> bytes:
        raise KeyboardInterrupt

    work = serving.client.work
    monkeypatch.setattr(serving.client, "work", once)
    with monkeypatch.context() as killed:
        killed.setattr(serving.manifest, "write", dies)  # after the payload, before the report
        with pytest.raises(KeyboardInterrupt):
            answer(site)
    assert open_store(setting.place.store).read(job.uplink_key) is not None
    assert asked.look() is None
    again = sites.serving("client-00")
    again.answer_all()
    assert isinstance(asked.look(), ClientReport)
    assert len(trained) == 1


def test_a_site_whose_people_have_agreed_is_not_called_again(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = sites.setting("run")
    called: list[str] = []

    def wake(job: ClientJob, letter: bytes) -> bool:
        called.append(job.client)
        return True

    asked = errand(sites, sites.runtime(), setting, first_jobs(setting, tiny())["client-00"])
    asked = replace(asked, office=replace(asked.office, wake=wake, patience=0.0))
    site = sites.serving("client-00")
    sites.welcome(site)
    asked.begin()
    site.fetch()
    site.answer_all()
    assert asked.look() is None
    assert called  # a worker's run ends while its people have not agreed, so it is to be called

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    sites.agree("client-00")
    with monkeypatch.context() as killed:
        killed.setattr(serving.client, "work", dies)  # while it is at work
        with pytest.raises(KeyboardInterrupt):
            site.answer_all()
    called.clear()
    assert asked.look() is None
    assert asked.look() is None
    assert not called


def test_an_expired_order_is_dropped_by_its_site_and_sent_anew(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presigning, "MARGIN_SECONDS", 0.0)
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    asked = errand(sites, sites.runtime(life=1.0), setting, job)
    site = sites.serving("client-00")
    sites.welcome(site)
    asked.begin()
    time.sleep(2.1)
    site.fetch()
    assert site.answer_all() == 1
    assert [line["code"] for line in sites.book("client-00")] == ["E_GRANT"]
    monkeypatch.setattr(presigning, "MARGIN_SECONDS", 300.0)
    assert asked.look() is None  # it is sent anew
    answer(site)
    assert isinstance(asked.look(), ClientReport)


def test_a_late_update_is_kept_and_not_counted(sites: Sites) -> None:
    setting = sites.setting("run")
    settings = tiny(
        federation__round_timeout=1.0, federation__min_reports=1, federation__rounds=1,
        federation__attempts=1,
    )  # fmt: skip
    jobs = first_jobs(setting, settings)
    runtime = sites.runtime()
    site = sites.serving("client-00")
    sites.welcome(site)
    ((_, outcome),) = Asking(runtime, setting.place, [jobs["client-00"]]).outcomes()
    assert isinstance(outcome, ClientFailure)
    assert outcome.late
    answer(site)
    runtime.server_step("commit", lambda: None)
    assert open_store(setting.place.store).read(jobs["client-00"].uplink_key) is not None
    (line,) = [line for line in sites.book("coordinator") if line["event"] == "late"]
    assert (line["client"], line["round_index"], line["attempt"]) == ("client-00", 1, 0)
    assert line["kept"] == jobs["client-00"].uplink_key
    assert any("too late; kept as uplink/0001/client-00.0" in said for said in sites.said)
    runtime.server_step("commit", lambda: None)
    assert len([line for line in sites.book("coordinator") if line["event"] == "late"]) == 1


def test_a_round_at_sites_that_lacks_its_quorum_waits_through_its_grace(sites: Sites) -> None:
    setting = sites.setting("run")
    settings = tiny(
        federation__round_timeout=1.0, federation__grace=300.0, federation__min_reports=1,
        federation__rounds=1, federation__attempts=1,
    )  # fmt: skip
    jobs = first_jobs(setting, settings)
    site = sites.serving("client-00")
    sites.welcome(site)

    def answer_after_the_deadline() -> None:
        while not site.fetch():
            time.sleep(0.05)
        time.sleep(1.5)  # the deadline runs since before there was any letter
        answer(site)

    working = threading.Thread(target=answer_after_the_deadline)
    working.start()
    runtime = sites.runtime()
    found: dict[str, Outcome] = {}
    asking = Asking(
        runtime, setting.place, list(jobs.values()),
        lambda: 1 - sum(isinstance(outcome, ClientReport) for outcome in found.values()),
    )  # fmt: skip
    for asked, outcome in asking.outcomes():
        found[asked.client] = outcome
    working.join()
    assert isinstance(found.pop("client-00"), ClientReport)
    assert all(isinstance(lost, ClientFailure) and lost.late for lost in found.values())
    assert sorted(found) == ["client-01", "client-02"]


def test_a_coordinator_that_was_killed_finds_what_was_answered_meanwhile(sites: Sites) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    asked = errand(sites, sites.runtime(), setting, job)
    site = sites.serving("client-00")
    sites.welcome(site)
    asked.begin()
    answer(site)
    assert asked._sent is not None
    assert asked.office.inboxes.store.read(asked._sent.key) is not None
    ((_, outcome),) = Asking(sites.runtime(), setting.place, [job]).outcomes()
    assert isinstance(outcome, ClientReport)
    assert site.fetch() == 0  # and nobody was asked again
    assert asked.office.inboxes.store.read(asked._sent.key) is None


def test_a_payload_whose_length_the_site_alone_knows_is_granted_when_it_is_ready(
    sites: Sites, bed: Bed
) -> None:
    settings = tiny(method__name="fedlp", codec__name="masked")
    setting, here = sites.setting("run"), bed.setting("here")
    job = first_jobs(setting, settings)["client-00"]
    runtime = sites.runtime()
    asked = errand(sites, runtime, setting, job)
    least, most = asked.office.granting.lengths(job)
    assert least < most
    site = sites.serving("client-00")
    sites.welcome(site)
    asked.begin()
    answer(site)
    first = asked._sent
    assert asked.look() is None  # it is ready, and granted with another letter
    answer(site)
    report = asked.look()
    assert isinstance(report, ClientReport)
    for sent in (first, asked._sent):
        assert sent is not None
        assert asked.office.inboxes.store.read(sent.key) is None
    assert keys(f"{setting.place.store}/uplink") == {
        "0001/client-00.0", "0001/client-00.0.report"
    }  # fmt: skip
    expected = train(first_jobs(here, settings)["client-00"], here.place)
    assert report.uplink == expected.uplink


def test_a_site_that_can_not_do_its_job_says_the_code_and_keeps_the_reason(sites: Sites) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    asked = errand(sites, sites.runtime(), setting, job)
    site = sites.serving("client-00")
    sites.welcome(site)
    shutil.rmtree(sites.shards("client-00"))
    asked.begin()
    answer(site)
    outcome = asked.look()
    assert isinstance(outcome, ClientFailure)
    assert outcome.reason.startswith("E_DATA: client-00 refused")
    assert str(sites.folder) not in outcome.reason
    assert any("shards-of-client-00" in line["said"] for line in sites.book("client-00"))
    # Its cause was mended, and the run resumed: the refusal does not stand for ever.
    shutil.copytree(
        sites.bed.data / "synthetic/shards/client-00", sites.shards("client-00") / "client-00"
    )
    again = errand(sites, sites.runtime(), setting, job)
    assert again.begin() is None
    answer(site)
    assert isinstance(again.look(), ClientReport)


def test_a_site_that_does_not_look_into_its_inbox_is_woken_with_the_same_letter(
    sites: Sites,
) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    rung: list[bytes] = []
    asked = errand(sites, sites.runtime(), setting, job)
    office = replace(asked.office, wake=lambda _, letter: rung.append(letter))
    asked = Errand(office, job, sites.registry.site(job.client))
    asked.begin()  # it was never told of an inbox
    assert asked.look() is None
    assert len(rung) == 1
    site = sites.serving("client-00")
    with pytest.raises(Exception, match="nobody at this site has agreed"):
        take(rung[0], site.home, site.images, HttpClient())
    sites.agree("client-00")
    take(rung[0], site.home, site.images, HttpClient())
    assert isinstance(asked.look(), ClientReport)
    # From then on it knows where its letters lie.
    next_job = replace(job, attempt=1, uplink_key="uplink/0001/client-00.1")
    following = Errand(office, next_job, asked.site)
    following.begin()
    answer(site)
    assert isinstance(following.look(), ClientReport)
    assert len(rung) == 1


def test_a_bell_that_nobody_heard_is_rung_again_soon(sites: Sites) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    heard: list[bool] = []

    def wake(_: object, __: bytes) -> bool:
        heard.append(len(heard) > 9)
        return not heard[-1]

    asked = errand(sites, sites.runtime(), setting, job)
    office = replace(asked.office, wake=wake, patience=0.05)  # doubled ten times: 51 s
    asked = Errand(office, job, sites.registry.site(job.client))
    asked.begin()
    deadline = time.monotonic() + 20
    while not any(heard) and time.monotonic() < deadline:
        assert asked.look() is None
    assert heard == [False] * 10 + [True]


def test_the_same_job_with_less_time_is_not_done_again(sites: Sites) -> None:
    job = first_jobs(sites.setting("run"), tiny())["client-00"]
    hurried = replace(job, deadline=3.0, grace=1.0)
    assert notes.digest(hurried) == notes.digest(job)
    assert notes.digest(replace(job, seed=job.seed + 1)) != notes.digest(job)


def test_two_runs_that_use_one_site_find_each_others_letters_and_go_one_further(
    sites: Sites,
) -> None:
    settings = [sites.setting("one"), sites.setting("two")]
    jobs = [first_jobs(setting, tiny())["client-00"] for setting in settings]
    site = sites.serving("client-00")
    sites.welcome(site)
    errands = [errand(sites, sites.runtime(), s, j) for s, j in zip(settings, jobs, strict=True)]
    for each in errands:
        each.begin()
    assert site.fetch() == 2
    answer(site)
    assert all(isinstance(each.look(), ClientReport) for each in errands)


def test_an_answer_clears_its_letter_and_those_before_away_and_no_later_one(sites: Sites) -> None:
    setting = sites.setting("run")
    jobs = [first_jobs(setting, tiny())["client-00"]]
    jobs += [replace(jobs[0], attempt=n, uplink_key=f"uplink/0001/client-00.{n}") for n in (1, 2)]
    site, runtime = sites.serving("client-00"), sites.runtime()
    old = base64.b64decode(sites.invite("client-00").read_bytes())
    site.invited(old)
    errands = [errand(sites, runtime, setting, job) for job in jobs]
    for each in errands:
        each.begin()
    store = errands[0].office.inboxes.store

    def lie() -> list[bool]:
        sent = [each._sent.key for each in errands if each._sent is not None]
        return [store.read(key) is not None for key in sent]

    assert lie() == [True, True, True]
    site.fetch()  # of the three letters the last one counts
    answer(site)
    assert [each.look() for each in errands[:2]] == [None, None]
    assert lie() == [True, True, True]
    assert isinstance(errands[2].look(), ClientReport)
    assert lie() == [False, False, False]
    # A site that is started with its old invitation goes on where it was.
    site.invited(old)
    later = replace(jobs[0], attempt=3, uplink_key="uplink/0001/client-00.3")
    errand(sites, runtime, setting, later).begin()
    assert site.fetch() == 1


def test_a_letter_that_nobody_answers_goes_once_it_has_expired(sites: Sites) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    asked = errand(sites, sites.runtime(), setting, job)
    asked.begin()
    first = asked._sent
    path = sites.folder / "coordinator/inboxes/client-00.json"
    record = json.loads(path.read_text())
    record["letters"][0]["expires"] = time.time() - 1
    path.write_text(json.dumps(record))
    asked.send()
    assert first is not None
    assert asked._sent is not None
    assert asked.office.inboxes.store.read(first.key) is None
    assert asked.office.inboxes.store.read(asked._sent.key) is not None
    assert [letter["key"] for letter in json.loads(path.read_text())["letters"]] == [
        asked._sent.key
    ]


def test_sites_keep_to_the_rules_of_carriers(sites: Sites) -> None:
    setting = sites.setting("run")
    jobs = first_jobs(setting, tiny())
    serving = [sites.serving(name) for name in jobs]
    for site in serving:
        sites.welcome(site)
    with at_work(*serving):
        keeps_to_the_rules(sites.runtime(), setting.place, list(jobs.values()))


def test_late_updates_at_sites_count(sites: Sites, bed: Bed) -> None:
    serving = {name: sites.serving(name) for name in CLIENTS}
    for site in serving.values():
        sites.welcome(site)

    def working(clients: Collection[str]) -> AbstractContextManager[None]:
        return at_work(*(serving[client] for client in clients))

    counts_late_updates(sites.runtime, sites.setting("there"), bed.setting("here"), working)
    assert not (sites.folder / "coordinator/audit.jsonl").exists(), "nobody was too late"


def test_a_client_that_was_not_admitted_is_a_lost_client(sites: Sites) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    stranger = replace(job, client="south")
    ((_, outcome),) = Asking(sites.runtime(), setting.place, [stranger]).outcomes()
    assert isinstance(outcome, ClientFailure)
    assert outcome.reason.startswith("E_UNKNOWN_SITE")


def test_sites_need_a_store_that_can_grant(sites: Sites, bed: Bed) -> None:
    place = bed.setting("run").place
    with pytest.raises(ConfigError, match=r"s3://BUCKET"):
        AtSites.configured(1, print, place, engine=False)


def test_plain_http_to_another_machine_is_refused_unless_allowed(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://store.example:8333")
    place = sites.setting("run").place
    with pytest.raises(ConfigError, match=r"plain HTTP.*FEDX_PLAIN_HTTP"):
        AtSites.configured(1, print, place, engine=False)
    monkeypatch.setenv("FEDX_PLAIN_HTTP", "allowed")
    assert AtSites.configured(1, print, place, engine=False).plain_http
