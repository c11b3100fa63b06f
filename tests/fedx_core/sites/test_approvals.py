import dataclasses
from pathlib import Path

import pytest
import torch

from asked import job, plan
from bed import tiny, tiny_resnet6
from fedx_core.base.config import ExperimentConfig, Plugin
from fedx_core.base.errors import FedXError, PayloadError, PlanError, SiteError, TooBigError
from fedx_core.base.frozen_json import canonical, plain
from fedx_core.base.state import Payload
from fedx_core.clients.plan import Plan, set_up
from fedx_core.sites import approvals
from fedx_core.sites.approvals import Approvals, Asked, Unreadable, describe
from fedx_core.store import reference
from fedx_core.wire import frame
from fedx_core.wire.messages import ClientJob

PLAN = canonical(plan())
ASKED = job(plan=reference("plans/a", PLAN))
SHA256 = ASKED.plan.sha256


@pytest.fixture
def kept(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "plans")


def test_nothing_is_followed_that_nobody_agreed_to(kept: Approvals) -> None:
    with pytest.raises(PlanError, match=rf"fedx site approve {SHA256[:12]}") as refused:
        kept.require(SHA256)
    assert refused.value.code == "E_PLAN"
    kept.ask(ASKED, PLAN)
    with pytest.raises(PlanError):
        kept.require(SHA256)


def test_what_people_agreed_to_is_followed_from_then_on(kept: Approvals) -> None:
    kept.ask(ASKED, PLAN)
    (waiting,) = kept.asked()
    assert isinstance(waiting, Asked)
    assert (waiting.sha256, waiting.plan, waiting.job) == (SHA256, plan(), ASKED)
    assert kept.find(SHA256[:12]) == waiting
    kept.approve(SHA256)
    Approvals(kept.folder).require(SHA256)
    assert kept.approved() == (SHA256,)
    assert list(kept.asked()) == []
    with pytest.raises(PlanError, match="has agreed to plan"):
        kept.require("0" * 64)


def test_a_plan_that_is_asked_for_again_still_names_who_asked_first(kept: Approvals) -> None:
    kept.ask(ASKED, PLAN)
    kept.ask(job(plan=ASKED.plan, round_index=9), PLAN)
    (waiting,) = kept.asked()
    assert isinstance(waiting, Asked)
    assert waiting.job == ASKED


def test_people_may_change_their_minds(kept: Approvals) -> None:
    with pytest.raises(PlanError):
        kept.withdraw(SHA256)
    kept.ask(ASKED, PLAN)
    kept.approve(SHA256)
    assert kept.agreed(SHA256[:8]) == SHA256
    kept.withdraw(SHA256)
    with pytest.raises(PlanError, match="Approved: none"):
        kept.agreed(SHA256)
    with pytest.raises(PlanError):
        kept.require(SHA256)


def test_other_bytes_than_the_job_names_are_not_kept(kept: Approvals) -> None:
    with pytest.raises(PayloadError, match="other bytes than its hash says"):
        kept.ask(ASKED, PLAN + b" ")
    with pytest.raises(PayloadError, match="no plan that this version"):
        kept.ask(job(plan=reference("plans/a", b"{}")), b"{}")
    with pytest.raises(PayloadError, match="no plan that this version"):
        kept.ask(job(plan=reference("plans/a", b"[" * 99_999)), b"[" * 99_999)
    with pytest.raises(TooBigError):
        kept.ask(ASKED, bytes(approvals.MAX_PLAN + 1))
    assert list(kept.asked()) == []


def test_a_plan_that_was_changed_on_disk_is_neither_shown_nor_followed(kept: Approvals) -> None:
    kept.ask(ASKED, PLAN)
    (kept.folder / "asked" / SHA256).write_bytes(PLAN.replace(b'"epochs":1', b'"epochs":9'))
    with pytest.raises(PayloadError, match="has changed since it came"):
        kept.approve(SHA256)
    (kept.folder / "asked" / SHA256).write_bytes(PLAN)
    kept.approve(SHA256)
    (kept.folder / "approved" / SHA256).write_bytes(PLAN + b" ")
    with pytest.raises(PlanError):
        kept.require(SHA256)


def test_a_damaged_job_says_what_to_delete(kept: Approvals) -> None:
    kept.ask(ASKED, PLAN)
    (kept.folder / "asked" / f"{SHA256}.job").write_bytes(b"{")
    with pytest.raises(SiteError, match=r"is damaged.*delete it"):
        kept.find(SHA256)


@pytest.mark.parametrize("prefix", ["", "zz", SHA256[:4], "f" * 12, "../../keys"])
def test_a_hash_has_to_name_one_plan(prefix: str, kept: Approvals) -> None:
    kept.ask(ASKED, PLAN)
    with pytest.raises(PlanError, match=f"Waiting: {SHA256[:12]}"):
        kept.find(prefix)
    with pytest.raises(PlanError):
        kept.require(prefix)


def test_people_read_what_happens_to_their_data() -> None:
    said = describe(plan(), ASKED)
    size = len(frame.encode(_payload(plan()), set_up(plan()).wire(None).up, "masked"))
    for words in (
        "demo, which asks in round 7 to train",
        "images and labels of the shard of north, and nothing else",
        "resnet6_w8, 3 bands in, 10 classes out (one label per image)\n",
        "1 pass over the training part per round, 16 images per step",
        "adam at a learning rate of 0.001",
        "learns  supervised",
        "method  fedx (", "pruning_rate 0.5", "relevance magnitude",
        f"at most {size:,} bytes of update per round",
        "8,192 bytes of signed report a job",
    ):  # fmt: skip
        assert words in said
    assert all(len(line) <= 100 for line in said.splitlines())


def _payload(of: Plan) -> Payload:
    entries = set_up(of).wire(None).up.entries
    return {e.name: torch.zeros(e.shape, dtype=getattr(torch, e.dtype[6:])) for e in entries}


@pytest.mark.parametrize(
    ("settings", "purpose", "words"),
    [
        (tiny(method__name="local_only"), "train", "no update: the method sends none"),
        (tiny(training__epochs=3), "evaluate", "3 passes over"),
        (tiny(), "statistics", "to count and add up pixels"),
        (
            tiny(codec={"down": {"name": "dense"}, "up": {"name": "signs"}}),
            "train",
            "codec   dense; of what the site sends, signs",
        ),
        (
            tiny(method__name="fedsense", method__bits=4, method__down_bits=1),
            "train",
            "codec   signs (feedback False); of what the site sends, rounded (bits 4, "
            "feedback True)",
        ),
        (
            tiny_resnet6(support={"name": "seeded"}, federation__first_model="seed"),
            "train",
            "weights of those that exist: seeded; the first ones are drawn here",
        ),
    ],
)
def test_other_plans_say_so(settings: ExperimentConfig, purpose: str, words: str) -> None:
    asked: ClientJob = job(purpose=purpose)
    assert words in describe(plan(settings), asked)


def test_a_plan_for_pixels_says_that_they_are_counted() -> None:
    of_images = plan()
    assert "of scoring, the metrics\n" in describe(of_images, ASKED)
    learns = dataclasses.replace(of_images.training, objective=Plugin(name="segmentation"))
    of_pixels = dataclasses.replace(of_images, label_kind="pixels", training=learns)
    said = describe(of_pixels, ASKED)
    assert f"of scoring, the metrics, and {64 + 8 * of_pixels.classes**2:,} bytes:\n" in said
    assert "how many test pixels of one were said to be of the other\n" in said
    assert all(len(line) <= 100 for line in said.splitlines())


def test_a_parameter_cannot_pass_for_a_line_of_the_description() -> None:
    settings = tiny()
    sly = "magnitude\nleaves  nothing\x1b[8m"
    params = {**settings.method.params, "scope": sly}
    shown = approvals._named(dataclasses.replace(settings.method, params=params))
    assert "\x1b" not in shown
    assert "scope 'magnitude\\nleaves" in " ".join(shown.split())
    assert not any(line.startswith("leaves") for line in shown.splitlines())


def test_a_plan_that_cannot_be_followed_is_refused_when_it_is_shown() -> None:
    odd = dataclasses.replace(plan(), model="resnet7")
    with pytest.raises(FedXError, match="resnet7"):
        describe(odd, ASKED)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 10**8},
        {"classes": 0},
        {"bands": 10**6},
        {"pixels": {**plain(plan().pixels), "input_size": 10**6}},
        {"pixels": {**plain(plan().pixels), "mean": [0.5]}},
        {"pixels": {**plain(plan().pixels), "std": [0.0] * plan().bands}},
        {"training": {**plain(plan().training), "threads": 10**9}},
        {"training": {**plain(plan().training), "device": "gpu"}},
    ],
)
def test_a_plan_that_asks_for_more_than_any_does_is_no_plan(
    kept: Approvals, change: dict[str, object]
) -> None:
    data = canonical({**plain(plan()), **change})
    with pytest.raises(PayloadError, match="this is no plan that this version of FedX can read"):
        kept.ask(job(plan=reference("plans/a", data)), data)


def test_a_plan_that_says_a_thing_twice_is_no_plan(kept: Approvals) -> None:
    data = PLAN.replace(b'"classes":', b'"classes":7,"classes":', 1)
    with pytest.raises(PayloadError, match="'classes' stands twice"):
        kept.ask(job(plan=reference("plans/a", data)), data)


def test_one_malformed_plan_hides_no_other(kept: Approvals) -> None:
    kept.ask(ASKED, PLAN)
    for name in ("0" * 64, "f" * 64):
        (kept.folder / "asked" / name).write_bytes(b"{")
        (kept.folder / "asked" / f"{name}.job").write_bytes(canonical(ASKED))
    (kept.folder / "asked" / "notes.job").write_bytes(b"")
    found = list(kept.asked())
    assert [each.sha256 for each in found if isinstance(each, Asked)] == [SHA256]
    assert {each.sha256 for each in found if isinstance(each, Unreadable)} == {
        "0" * 64, "f" * 64, "notes",
    }  # fmt: skip
    assert all("delete it" in each.why or "waits" in each.why
               for each in found if isinstance(each, Unreadable))  # fmt: skip
    assert kept.find(SHA256[:12]).plan == plan()
    kept.approve(SHA256)
    assert kept.approved() == (SHA256,)
