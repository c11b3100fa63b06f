import dataclasses
import json
import pickle

import pytest

from fedx_core.base.errors import PayloadError, UnknownNameError
from fedx_core.base.frozen_json import parse, plain
from fedx_core.clients import client
from fedx_core.clients.client import Place
from fedx_core.store import open_store
from fedx_core.wire.messages import ClientJob, ClientReport, Ref, RoundReport, Traffic

JOB = ClientJob(
    protocol=1,
    run="a-run-with-a-long-name-as-people-give-them",
    round_index=17,
    client="austria",
    attempt=0,
    seed=2**62 + 1,
    purpose="train",
    plan=Ref("plans/" + "a" * 64, "a" * 64, 800),
    base=Ref("downlink/" + "b" * 64, "b" * 64, 44_000_000),
    mask=None,
    schema="c" * 64,
    memory=None,
    uplink_key="uplink/0017/austria.0",
    deadline=0.0,
)


def test_a_job_is_less_than_a_kilobyte_and_survives_json_and_pickling() -> None:
    text = json.dumps(plain(JOB))
    assert len(text) < 1024
    assert parse(ClientJob, json.loads(text)) == JOB
    assert pickle.loads(pickle.dumps(JOB)) == JOB


def test_a_round_report_survives_json() -> None:
    report = RoundReport(
        round_index=1,
        rounds=2,
        cohort=("a", "b"),
        failures=(),
        metrics={"overall_accuracy": 0.5},
        metrics_before_pruning={},
        pruned=True,
        traffic={"a": Traffic(downlink=5, uplink=4, mask=1, retry=2, evaluation=9)},
        paper_bytes=8,
        sparsity=0.25,
        units_kept={"conv1": (32, 64)},
        train_loss=1.5,
        seconds={"train": 0.1},
        per_class={"Forest": 1.0},
        per_client={"a": {"examples": 3.0}},
        method_metrics={"churn": 0.5},
    )
    back = parse(RoundReport, json.loads(json.dumps(plain(report))))
    assert back == report
    assert (back.wire_bytes, back.evaluation_bytes) == (12, 9)
    older = {name: value for name, value in plain(report).items() if name != "method_metrics"}
    assert parse(RoundReport, older).method_metrics == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"round_index": "17"}, "round_index: wanted int"),
        ({"round_index": True}, "round_index: wanted int"),
        ({"plan": None}, "plan: wanted an object"),
        ({"base": {"key": "x"}}, "base"),
        ({"command": "rm"}, "unknown field 'command'"),
    ],
)
def test_a_malformed_job_is_refused_by_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        parse(ClientJob, {**plain(JOB), **change})


def test_a_job_that_asks_for_what_nobody_knows_is_refused_before_anything_is_fetched() -> None:
    job = dataclasses.replace(JOB, purpose="destroy")
    place = Place(store="memory://none", shards="", memory="memory://none")
    with pytest.raises(UnknownNameError, match=r"no question 'destroy'.*evaluate, statistics"):
        client.work(job, open_store(place.store), place)


def test_a_missing_field_is_named() -> None:
    values = plain(JOB)
    del values["seed"]
    with pytest.raises(PayloadError, match="'seed' is missing"):
        parse(ClientJob, values)


def test_a_list_is_no_report() -> None:
    with pytest.raises(PayloadError, match="wanted an object"):
        parse(ClientReport, [1, 2])
