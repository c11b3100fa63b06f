"""Clients that lie: none counts, each refusal has a code and a line, and the round goes on."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bed import Bed, tiny
from fedx_core.base import state
from fedx_core.base.errors import NormError, QuorumError
from fedx_core.clients.client import Place
from fedx_core.learning import evaluation
from fedx_core.rounds import audit
from fedx_core.rounds.carrier import InProcess, Outcome
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from fedx_core.wire import acceptance
from fedx_core.wire.messages import ClientFailure, ClientJob, ClientReport, Ref, RoundReport, Update
from outside import JOB

Lie = Callable[[ClientReport], ClientReport]


def lying(lies: dict[str, Lie], purpose: str = "train") -> InProcess:
    """Let some clients do their work, and then say something else of it."""

    @dataclass
    class Lying(InProcess):
        def do(self, job: ClientJob, place: Place) -> Outcome:
            outcome = super().do(job, place)
            if job.client in lies and job.purpose == purpose:
                assert isinstance(outcome, ClientReport)
                outcome = lies[job.client](outcome)
            return outcome

    return Lying()


def run(bed: Bed, runtime: InProcess, name: str = "run", **settings: Any) -> RoundReport:
    asked = tiny(federation__rounds=1, federation__min_reports=1, **settings)
    setting = replace(bed.setting(name), audit=bed.runs / name)
    (report,) = federate(asked, setting, runtime)
    return report


def book(bed: Bed, name: str = "run") -> list[dict[str, Any]]:
    path = bed.runs / name / audit.FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def resized(report: ClientReport, by: int) -> ClientReport:
    assert report.uplink is not None
    return replace(report, uplink=replace(report.uplink, size=report.uplink.size + by))


def test_each_lie_of_a_client_is_refused_with_a_line_and_the_others_count(bed: Bed) -> None:
    lies: dict[str, Lie] = {
        "client-00": lambda report: replace(report, examples=10**6),
        "client-01": lambda report: resized(report, 10**12),
    }
    report = run(bed, lying(lies), federation__attempts=2)
    assert [(f.client, f.reason[: f.reason.index(":")]) for f in report.failures] == [
        ("client-00", "E_EXAMPLES"),
        ("client-01", "E_TOO_BIG"),
    ]
    assert set(report.client_metrics) == {"client-02"}
    lines = book(bed)
    assert [(line["client"], line["attempt"], line["code"]) for line in lines] == [
        ("client-00", 0, "E_EXAMPLES"),
        ("client-01", 0, "E_TOO_BIG"),
        ("client-00", 1, "E_EXAMPLES"),
        ("client-01", 1, "E_TOO_BIG"),
    ]
    assert lines[3] == lines[3] | {
        "event": "uncounted",
        "run": "run",
        "round_index": 1,
        "purpose": "train",
        "object": "uplink/0001/client-01.1",
    }
    assert "not fetched" in lines[3]["said"]
    # What the one honest client sent is all that counts.
    honest = run(bed, lying({}), "honest")
    assert honest.client_metrics["client-02"]["examples"] == sum(
        values["examples"] for values in report.client_metrics.values()
    )
    assert book(bed, "honest") == []


@pytest.mark.parametrize(
    ("code", "lie"),
    [
        ("E_ID", lambda r: replace(r, uplink=replace(r.uplink, key="uplink/0001/client-02.0"))),
        ("E_ID", lambda r: replace(r, memory=Ref("memory/client-02/0001.0", "0" * 64, 1))),
        ("E_NONFINITE", lambda r: replace(r, metrics={"train_loss": float("inf")})),
        ("E_PAYLOAD", lambda r: replace(r, metrics={"train_loss": [1.0]})),
        ("E_PAYLOAD", lambda r: replace(r, uplink=None)),
        ("E_PAYLOAD", lambda r: resized(r, -1)),
        ("E_STALE", lambda r: replace(r, attempt=3)),
    ],
    ids=["another's update", "another's memory", "loss", "list", "nothing", "shorter", "attempt"],
)
def test_a_report_that_is_not_of_this_job_does_not_count(code: str, lie: Lie, bed: Bed) -> None:
    report = run(bed, lying({"client-00": lie}), federation__attempts=1)
    assert [f.reason[: len(code)] for f in report.failures] == [code]
    assert [line["code"] for line in book(bed)] == [code]
    assert set(report.client_metrics) == {"client-01", "client-02"}


def test_a_client_that_lies_about_its_scores_is_left_out_of_them(bed: Bed) -> None:
    lies: dict[str, Lie] = {
        "client-00": lambda report: replace(
            report, metrics={**report.metrics, "loss": float("nan")}
        ),
        "client-01": lambda report: replace(report, metrics={"overall_accuracy": 1.0}),
        "client-02": lambda report: replace(report, examples=0),
    }
    settings = {"method__name": "local_only"}
    report = run(bed, lying(lies, "evaluate"), federation__attempts=1, **settings)
    assert set(report.per_client) == {"client-01"}
    assert report.metrics == {"overall_accuracy": 1.0}
    assert [line["code"] for line in book(bed)] == ["E_NONFINITE", "E_EXAMPLES"]


def test_a_score_that_an_honest_clients_images_cannot_give_is_left_out(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_macro_f1", lambda *_: float("nan"))
    report = run(bed, InProcess(1))
    assert len(report.per_client) == 3
    assert all("loss" in own and "macro_f1" not in own for own in report.per_client.values())
    assert book(bed) == []


def test_an_update_beyond_the_norm_that_is_set_is_refused(bed: Bed) -> None:
    assert run(bed, InProcess(1), "free").failures == ()
    norm = state.norm(final_model(open_store(bed.setting("free").place.store)))
    wide = run(bed, InProcess(1), "wide", federation__max_update_norm=2 * norm)
    assert wide.failures == ()
    with pytest.raises(QuorumError, match=r"0 of 3.*E_NORM.*federation\.max_update_norm"):
        run(bed, InProcess(1), "narrow", federation__max_update_norm=norm / 100)
    assert {line["code"] for line in book(bed, "narrow")} == {"E_NORM"}


def test_the_norm_is_that_of_all_floating_values() -> None:
    update = Update(
        client="north",
        payload={"a": torch.tensor([3.0]), "b": torch.tensor([4.0]), "n": torch.tensor(100)},
        examples=1,
    )
    acceptance.check_norm(update, 0)
    acceptance.check_norm(update, 5)
    with pytest.raises(NormError, match=r"norm 5, wanted 4\.9"):
        acceptance.check_norm(update, 4.9)


def test_no_line_of_the_book_signs_a_url_or_has_a_password(tmp_path: Path) -> None:
    said = "E_STORAGE: PUT https://me:hunter2@s3.example/b/k?X-Amz-Signature=c0ffee&x=1 failed"
    audit.uncounted(tmp_path, JOB, ClientFailure(client="north", attempt=1, reason=said))
    audit.uncounted(tmp_path, JOB, ClientFailure(client="north", attempt=1, reason="went away"))
    text = (tmp_path / audit.FILE).read_text()
    assert "hunter2" not in text
    assert "c0ffee" not in text
    first, second = map(json.loads, text.splitlines())
    assert first["said"] == "PUT https://s3.example/b/k?... failed"
    assert (first["code"], second["code"]) == ("E_STORAGE", "E_LOST")
