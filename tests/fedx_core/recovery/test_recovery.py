"""What the server mends after pruning: from the formulas, in each model, within a federation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bed import Bed, tiny
from fedx_core.base import plugins, state
from fedx_core.base.errors import ConfigError
from fedx_core.clients.plan import MethodDesk, plan_of, set_up
from fedx_core.images import set_folder
from fedx_core.images.pixels import Pixels
from fedx_core.models import catalogue
from fedx_core.pruning.masks import Mask
from fedx_core.pruning.structure import Cut
from fedx_core.recovery.base import Recovery
from fedx_core.recovery.distil import WAYS
from fedx_core.recovery.reconstruct import refit
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model, history
from fedx_core.store import open_store
from fedx_core.wire.messages import ServerState

KINDS: dict[str, dict[str, Any]] = {
    "none": {},
    "reconstruct": {},
    "distil": {"steps": 3},
    "both": {"steps": 3, "reconstruct": True},
}


def build(kind: str, **changes: Any) -> Recovery:
    name = "distil" if kind == "both" else kind
    found: Recovery = plugins.build("recovery", name, {**KINDS[kind], **changes})
    return found


def desk_of(
    bed: Bed, model: str = "resnet6", data: str = "synthetic", **changes: Any
) -> MethodDesk:
    settings = tiny(dataset=data, model__name=model, **changes)
    prepared = set_folder.read(bed.data / data / "reference")
    bands = len(prepared.description.bands)
    pixels = Pixels(
        scale=prepared.description.scale,
        mean=(0.4,) * bands,
        std=(0.2,) * bands,
        input_size=catalogue.entry(model).input_size,
        memory_format="contiguous",
    )
    desk = set_up(plan_of(settings, prepared.description, pixels), 3)
    return replace(desk, reference=prepared.parts["reference"], seed=3)


def event(desk: MethodDesk, keep: int = 2) -> tuple[ServerState, ServerState, Mapping[str, Tensor]]:
    """Prune all but every ``keep``-th unit of each layer."""
    entries = {layer.name: torch.arange(layer.units) % keep == 0 for layer in desk.graph.layers}
    before = ServerState(round_index=2, model=state.copy(desk.model.state_dict()))
    mask = Mask("units", entries)
    pruner = desk.method.parts.pruner
    return before, pruner.pruned(desk, before, mask), desk.method.support(desk, mask, "slices")


def drift(desk: MethodDesk, before: ServerState, after: ServerState) -> float:
    images = desk.reference_set().images
    found = []
    for now in (before, after):
        desk.model.load_state_dict(now.model)
        with torch.no_grad():
            found.append(desk.model.eval()(images))
    return float((found[0] - found[1]).square().mean() / found[0].var())


def test_a_convolution_is_refitted_as_the_formula_says() -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(6, 5, 3, stride=2, padding=1, bias=False)
    read, wanted = torch.randn(4, 6, 9, 9), torch.randn(4, 5, 5, 5)
    rows, columns = torch.arange(5) != 1, torch.arange(6) % 2 == 0
    old = module.weight.detach().clone()
    refit(module, read, wanted, Cut(rows, columns), 0.1)

    # min |Y - W X|² + h |W - W0|², a position at a time, by numpy's least squares
    padded = functional.pad(read, (1, 1, 1, 1)).double().numpy()
    xs, ys = [], []
    for image in range(4):
        for i in range(5):
            for j in range(5):
                patch = padded[image][:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                xs.append(patch[columns.numpy()].ravel())
                ys.append(wanted[image, rows, i, j].double().numpy())
    x, y = np.array(xs), np.array(ys)
    h = 0.1 * np.mean(np.sum(x**2, axis=0))
    before = old[rows][:, columns].double().flatten(1).numpy()
    stacked = np.vstack([x, np.sqrt(h) * np.eye(x.shape[1])])
    targets = np.vstack([y, np.sqrt(h) * before.T])
    slow = np.linalg.lstsq(stacked, targets, rcond=None)[0].T
    fast = module.weight.detach()[rows][:, columns].double().flatten(1).numpy()
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-6)
    assert torch.equal(module.weight.detach()[~rows], old[~rows])
    assert torch.equal(module.weight.detach()[:, ~columns], old[:, ~columns])


def test_channels_that_others_can_stand_in_for_are_made_up_for_in_full() -> None:
    torch.manual_seed(1)
    module = nn.Linear(6, 4)
    alive = torch.randn(200, 3)
    read = torch.cat([alive, alive @ torch.randn(3, 3) + 1.5], dim=1)  # the last three follow
    wanted = module(read).detach()
    columns = torch.arange(6) < 3
    with torch.no_grad():
        module.weight[:, ~columns] = 0
    refit(module, read * columns, wanted, Cut(None, columns), 1e-9)
    torch.testing.assert_close(module(read * columns).detach(), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["resnet6", "resnet18", "convnextv2_atto", "vit_tiny"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_was_pruned_stays_zero_in_every_model_and_all_is_finite(
    bed: Bed, model: str, kind: str
) -> None:
    desk = desk_of(bed, model)
    before, after, support = event(desk)
    recovery = build(kind)
    recovery.check(desk)
    found = recovery.recovered(desk, before, after, support)
    again = recovery.recovered(desk, before, after, support)
    assert state.digest(found.model) == state.digest(again.model)
    assert found.mask is after.mask
    assert list(found.model) == list(before.model)
    for name, kept in support.items():
        value = found.model[name]
        assert not value[~kept.expand(value.shape)].any(), name
    assert all(bool(value.isfinite().all()) for value in found.model.values())
    changed = state.digest(found.model) != state.digest(after.model)
    assert changed == (kind != "none")


@pytest.mark.parametrize("model", ["resnet6", "resnet18", "vit_tiny"])
def test_a_refitted_model_answers_more_like_the_one_before(bed: Bed, model: str) -> None:
    desk = desk_of(bed, model)
    before, after, support = event(desk)
    found = build("reconstruct").recovered(desk, before, after, support)
    assert drift(desk, before, found) < 0.7 * drift(desk, before, after)


@pytest.mark.parametrize("data", ["synthetic", "countries"])
def test_a_taught_model_answers_more_like_the_one_before(bed: Bed, data: str) -> None:
    desk = desk_of(bed, data=data)
    before, after, support = event(desk)
    recovery = build("distil", steps=40, learning_rate=0.003)
    found = recovery.recovered(desk, before, after, support)
    desk.model.load_state_dict(found.model)
    desk.model.train()  # as it was taught; the server measures BatchNorm's statistics after it
    with torch.no_grad():
        desk.model(desk.reference_set().images)
    measured = replace(found, model=state.copy(desk.model.state_dict()))
    assert drift(desk, before, measured) < drift(desk, before, after)


def test_the_loss_is_that_of_the_source() -> None:
    recovery: Any = build("distil", temperature=3.0)
    torch.manual_seed(2)
    found, taught = torch.randn(5, 4), torch.randn(5, 4)

    class Single:
        class plan:
            label_kind = "single"

    p, q = (taught / 3).softmax(1), (found / 3).softmax(1)
    slow = (
        9 * sum(float(p[i, c] * (p[i, c] / q[i, c]).log()) for i in range(5) for c in range(4)) / 5
    )
    assert float(recovery._loss(found, taught, Single)) == pytest.approx(slow, rel=1e-5)
    assert len({tuple(way) for way in WAYS}) == 4


@pytest.mark.parametrize("kind", ["reconstruct", "both"])
def test_a_federation_with_it_costs_no_byte_and_gives_the_same_bits_after_a_resume(
    bed: Bed, kind: str
) -> None:
    recovery = {"name": "distil" if kind == "both" else kind, **KINDS[kind]}

    def run(name: str, **changes: Any) -> tuple[str, list[int]]:
        setting = bed.setting(f"{kind}-{name}")
        settings = tiny(**changes)
        going = federate(settings, setting, InProcess(2 if name == "two" else 1))
        if name == "stopped":
            next(going)
            next(going)
            going.close()
            going = federate(settings, setting, InProcess(1), resume=True)
        list(going)
        store = open_store(setting.place.store)
        return state.digest(final_model(store)), [r.wire_bytes for r in history(store)]

    plain, sent = run("plain")
    one, same = run("one", recovery=recovery)
    assert one != plain
    assert same == sent
    assert run("two", recovery=recovery) == (one, same)
    assert run("stopped", recovery=recovery) == (one, same)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"recovery": {"name": "reconstruct"}, "support": {"name": "seeded", "density": 0.2}},
            "under support seeded most of them do not exist; set recovery to distil or none",
        ),
        (
            {"recovery": {"name": "distil"}, "training__objective": {"name": "simclr"}},
            "distil teaches the answers.*simclr has none; set recovery to reconstruct or none",
        ),
        ({"recovery": {"name": "distil", "steps": 0}}, "steps must be 1 or more"),
        ({"recovery": {"name": "reconstruct", "ridge": 0}}, "ridge must be"),
        ({"recovery": {"name": "distill"}}, "did you mean 'distil'"),
    ],
)
def test_what_can_not_be_is_refused_before_the_run(
    bed: Bed, changes: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigError, match=error):
        list(federate(tiny(**changes), bed.setting("refused"), InProcess(1)))
    assert not (bed.runs / "refused").exists()
