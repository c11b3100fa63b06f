"""FedU, FedEMA and L-DAWA: what clients keep, and how layers count, from the equations."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from alone import alone, info_of
from fedx_core.base import state
from fedx_core.base.errors import ConfigError
from fedx_core.desk.local import Local
from fedx_core.methods import fedavg, fedema, fedu, ldawa
from fedx_core.models import catalogue
from fedx_core.wire.messages import ServerState, Update

ENCODER = [
    n for n, p in catalogue.build("resnet6", 3, 4, seed=1).named_parameters()
    if p.ndim > 1 and not n.startswith("fc.")
]  # fmt: skip


def again(local: Local, update: Update, shift: float) -> Local:
    """The same client a round later, sent another model."""
    moved = {
        n: v + shift if v.is_floating_point() and "running" not in n else v
        for n, v in local.downlink.items()
    }
    return replace(local, downlink=moved, memory=dict(update.memory or {}), round_index=2)


def moved(before: Any, after: Any) -> float:
    """Return the mean over layers of ||after - before||_2."""
    norms = [
        math.sqrt(
            sum(
                (float(a) - float(b)) ** 2
                for a, b in zip(after[n].flatten(), before[n].flatten(), strict=True)
            )
        )
        for n in ENCODER
    ]
    return sum(norms) / len(norms)


def sent(local: Local) -> dict[str, torch.Tensor]:
    return state.section(local.downlink, "model")


def of(update: Update) -> dict[str, torch.Tensor]:
    return state.section(update.payload, "model")


def test_a_client_of_fedema_goes_on_from_a_mixture_by_how_far_it_has_moved() -> None:
    method, first = fedema.Method(tau=0.7), alone()
    update = method.train(first)
    assert state.equal(update.payload, fedavg.Method().train(alone()).payload)
    d = moved(sent(first), of(update))
    assert update.metrics["client_divergence"] == pytest.approx(d, rel=1e-4)
    assert update.metrics["client_kept_share"] == 0
    assert update.memory is not None
    assert float(update.memory["diverged/scale"]) == pytest.approx(0.7 / d, rel=1e-4)
    second = again(first, update, 0.01)
    mixed = method.mixed(second, method.share(second.memory))
    for name, value in sent(second).items():
        is_parameter = name in second.desk.graph.parameters
        wanted = 0.7 * of(update)[name] + 0.3 * value if is_parameter else value
        torch.testing.assert_close(mixed[name], wanted)
    after = method.train(second)
    assert after.metrics["client_kept_share"] == pytest.approx(0.7, rel=1e-5)
    assert after.memory is not None
    assert torch.equal(after.memory["diverged/scale"], update.memory["diverged/scale"])
    d2 = moved(mixed, of(after))
    assert method.share(after.memory) == pytest.approx(min(0.7 / d * d2, 1.0), rel=1e-3)
    far = {**after.memory, "diverged/last": torch.tensor([1e6])}
    assert method.share(far) == 1.0


def test_a_client_of_fedu_keeps_its_heads_where_it_has_moved_far() -> None:
    first = alone()
    update = fedu.Method().train(first)
    d = moved(sent(first), of(update))
    for threshold, keeps in ((d * 1.01, False), (d * 0.99, True)):
        method = fedu.Method(threshold=threshold)
        second = again(first, update, 0.01)
        begun = method.chosen(second)
        for name, value in sent(second).items():
            is_head = name.startswith("fc.")
            wanted = of(update)[name] if is_head and keeps else value
            assert torch.equal(begun[name], wanted), name
        assert method.train(second).metrics["client_keeps_predictor"] == keeps
    assert not fedu.Method(threshold=0.0).keeps({}), "who has kept nothing takes the server's"


def updates_of(desk: Any) -> tuple[ServerState, list[Update]]:
    model = catalogue.build("resnet6", 3, 4, seed=1)
    before = ServerState(round_index=0, model=state.copy(model.state_dict()))
    updates = []
    for place in range(3):
        random = torch.Generator().manual_seed(place)
        changed = {
            n: v + 0.1 * torch.randn(v.shape, generator=random) if v.is_floating_point() else v
            for n, v in before.model.items()
        }
        payload = state.as_section(changed, "model")
        updates.append(Update(client=f"c{place}", payload=payload, examples=1 + place))
    return before, updates


@pytest.mark.parametrize("normalise", [False, True])
def test_a_layer_counts_by_its_cosine(normalise: bool) -> None:
    desk = info_of()
    before, updates = updates_of(desk)
    after = ldawa.Method(normalise=normalise).settle_each(desk, before, updates)
    assert after.round_index == 1
    for name in ("conv1.weight", "fc.weight", "bn1.weight"):
        old = before.model[name].double()
        models = [of(update)[name].double() for update in updates]
        cosines = [
            float((w * old).sum() / (w.square().sum().sqrt() * old.square().sum().sqrt()))
            for w in models
        ]
        by = sum(cosines) if normalise else 3
        wanted = sum(c * w for c, w in zip(cosines, models, strict=True)) / by
        torch.testing.assert_close(after.model[name].double(), wanted, atol=1e-6, rtol=1e-5)
    # Zeros have no angle, and statistics are no layers.
    for name in ("bn1.bias", "bn1.running_mean"):
        assert name == "bn1.running_mean" or not before.model[name].any()
        mean = torch.stack([of(update)[name].double() for update in updates]).mean(0)
        torch.testing.assert_close(after.model[name].double(), mean, atol=1e-6, rtol=1e-5)


def test_layers_that_all_turned_round_stay_where_normalising_can_not_help() -> None:
    desk = info_of()
    before, _ = updates_of(desk)
    turned = {n: -v if n in desk.graph.parameters else v for n, v in before.model.items()}
    update = Update(client="a", payload=state.as_section(turned, "model"), examples=1)
    after = ldawa.Method(normalise=True).settle_each(desk, before, [update])
    assert torch.equal(after.model["conv1.weight"], before.model["conv1.weight"])
    plain = ldawa.Method().settle_each(desk, before, [update])
    torch.testing.assert_close(plain.model["conv1.weight"], before.model["conv1.weight"])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tau must be positive, got 0"):
        fedema.Method(tau=0)
    with pytest.raises(ConfigError, match=r"threshold must be 0 or more"):
        fedu.Method(threshold=-1)
