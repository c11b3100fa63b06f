"""A site and its coordinator before an S3 server that fails: slower, never another result."""

import itertools
import os
from pathlib import Path

import pytest

from bed import Bed, tiny
from carrying import first_jobs
from fault_proxy import Fault, FaultProxy
from fedx_core.base.errors import StoreError
from fedx_core.clients.client import train
from fedx_core.sites.http_client import HttpClient
from fedx_core.wire.messages import ClientReport
from flows.carriers import at_sites
from institutions import Sites, answer, errand

pytestmark = pytest.mark.integration


@pytest.fixture
def sites(tmp_path: Path, bed: Bed, s3: str, request: pytest.FixtureRequest) -> Sites:
    return Sites(tmp_path / "sites", bed, f"{s3}/{request.node.name[:40]}")


@pytest.fixture
def proxy(s3: str) -> FaultProxy:
    """Before the S3 server, for whoever opens a store from now on and for every grant."""
    return FaultProxy(os.environ["AWS_ENDPOINT_URL_S3"])


def test_a_store_that_fails_often_costs_time_and_nothing_else(
    sites: Sites, bed: Bed, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, here = sites.setting("run"), bed.setting("here")
    job = first_jobs(setting, tiny())["client-00"]
    lost = Fault(kind="lose", match=rf"PUT .*/{job.uplink_key}\?", times=1)
    with proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        asked = errand(sites, sites.runtime(), setting, job)
        site = sites.serving("client-00")
        site.http = HttpClient(attempts=8, first_pause=0.01)
        sites.welcome(site)
        asked.begin()
        proxy.faults = (
            lost,
            Fault(kind="cut", match=r"GET .*downlink", times=1),
            Fault(kind="reset", match=r"PUT .*X-Amz-", times=1),
            Fault(kind="error", match=r"X-Amz-Signature", rate=0.3, status=503, code="SlowDown"),
        )
        answer(site)
        answer(site)
        assert proxy.hits(lost) == 1
        assert sum(exchange.fault is not None for exchange in proxy.exchanges) > 3
        proxy.faults = ()
        report = asked.look()
    assert isinstance(report, ClientReport)
    expected = train(first_jobs(here, tiny())["client-00"], here.place)
    assert report.uplink == expected.uplink


def test_a_store_that_is_away_is_waited_for_and_the_letter_is_kept(
    sites: Sites, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    down = Fault(kind="down")
    with proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        asked = errand(sites, sites.runtime(), setting, job)
        site = sites.serving("client-00")
        site.http = HttpClient(attempts=2, first_pause=0.01)
        sites.welcome(site)
        asked.begin()
        assert site.fetch() == 1
        proxy.faults = (down,)
        with pytest.raises(StoreError, match=r"failed 2 times, last with"):
            site.answer_all()
        with pytest.raises(StoreError, match="failed 2 times"):
            site.fetch()
        proxy.faults = ()
        answer(site)  # it had the letter on its disk
        assert isinstance(asked.look(), ClientReport)


def test_a_coordinator_waits_for_its_store_and_then_stops_in_words(
    sites: Sites, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = sites.setting("run")
    job = first_jobs(setting, tiny())["client-00"]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        runtime = sites.runtime()
        monkeypatch.setattr(at_sites, "OUTAGE_SECONDS", 0.2)
        runtime.send([job], setting.place)
        proxy.faults = (Fault(kind="down"),)
        with pytest.raises(StoreError, match="fedx resume"):
            all(not runtime.heard(None) for _ in itertools.count())
    assert any("trying again" in said for said in sites.said)
