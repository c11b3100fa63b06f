"""FedMap: what is pruned when, and that it stays so."""

from itertools import pairwise

import pytest
import torch

from bed import Bed, tiny
from fedx_core.base.errors import ConfigError
from fedx_core.methods.fedmap import Method
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate
from fedx_core.store import open_store
from fedx_core.wire.frame import HEADER
from fedx_core.wire.messages import ServerState


def test_a_share_of_what_is_left_goes_at_every_event_up_to_the_last() -> None:
    method = Method(sparsity=0.5, prune_share=0.2, prune_every=2)
    left, targets = 1.0, []
    for round_index in range(1, 13):
        if round_index % 2 == 0:
            left *= 0.8
        targets.append(max(left, 0.5))
    assert [method.target(r) for r in range(1, 13)] == pytest.approx([1 - t for t in targets])
    assert method.parts.pruner.to_come(ServerState(round_index=6, model={}))
    assert not method.parts.pruner.to_come(ServerState(round_index=8, model={}))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_smallest_go_and_never_come_back_and_only_the_rest_travels(
    scope: str, bed: Bed
) -> None:
    setting = bed.setting()
    settings = tiny(
        method__name="fedmap",
        method__scope=scope,
        method__prune_share=0.4,
        codec__name="masked",
        federation__keep_states=9,
    )
    reports = list(federate(settings, setting, InProcess(1)))
    store = open_store(setting.place.store)
    states = [
        checkpoint.unpack_server_state(store.get(commit.state))
        for commit in Journal(store).commits()
    ]
    whole = sum(v.numel() * v.element_size() for v in states[0].model.values())
    for report, before, after in zip(reports, states, states[1:], strict=False):
        assert report.sparsity == pytest.approx(1 - 0.6**report.round_index, abs=1e-3)
        gone = before.mask.size - before.mask.kept if before.mask else 0
        for traffic in report.traffic.values():
            assert traffic.uplink == traffic.downlink == whole - 4 * gone + HEADER.size
        assert after.mask is not None
        assert "fc.weight" not in after.mask.entries
        held = {
            name: (after.model[name][kept].abs(), after.model[name][~kept])
            for name, kept in after.mask.entries.items()
        }
        assert not any(dead.any() for _, dead in held.values())
        smallest = min(float(alive.min()) for alive, _ in held.values())
        assert smallest > 0
    for first, later in pairwise(state.mask for state in states[1:]):
        assert first is not None
        assert later is not None
        for name, kept in later.entries.items():
            assert not (kept & ~first.entries[name]).any()
    shares = {round(kept / units, 2) for kept, units in reports[-1].units_kept.values()}
    assert (len(shares) == 1) == (scope == "layer")
    assert torch.isfinite(states[-1].model["fc.weight"]).all()


def test_settings_that_can_not_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="prune_share must lie"):
        Method(prune_share=1)
    with pytest.raises(ConfigError, match="scope must be"):
        Method(scope="model")
    with pytest.raises(ConfigError, match="prune_every must be 1"):
        Method(prune_every=0)
