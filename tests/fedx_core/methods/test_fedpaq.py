"""FedPAQ against a slow restatement of its equations, and its bytes against their formula."""

import math
from typing import Any

import pytest
import torch

from alone import desk_of
from bed import Bed, tiny_resnet6
from fedx_core.base import seeding, state
from fedx_core.base.errors import ConfigError
from fedx_core.methods.fedpaq import Method
from fedx_core.models import catalogue
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store
from fedx_core.wire.messages import ServerState, Update

MODEL = catalogue.build("resnet6", 3, 10, seed=0)
INFO = desk_of(MODEL, catalogue.entry("resnet6").graph(MODEL))


def updates() -> list[Update]:
    found = []
    for k, examples in enumerate((10, 30)):
        generator = seeding.torch_generator(k)
        payload = {
            f"model/{name}": torch.rand(value.shape, generator=generator)
            if value.is_floating_point()
            else torch.tensor(7 + k)
            for name, value in MODEL.state_dict().items()
        }
        found.append(Update(client=str(k), payload=payload, examples=examples))
    return found


@pytest.mark.parametrize(("weights", "share"), [("equal", 0.5), ("examples", 0.25)])
def test_the_server_takes_the_mean_of_models_that_moved_by_what_was_sent(
    weights: Any, share: float
) -> None:
    method = Method(weights=weights)
    server = ServerState(round_index=3, model=state.copy(MODEL.state_dict()))
    digest = state.digest(server.model)
    one, two = updates()
    after = method.settle_each(INFO, server, [one, two])
    assert after.round_index == 4
    assert state.digest(server.model) == digest
    state.require_same_layout(server.model, after.model)
    for name in ("conv1.weight", "fc.weight", "bn1.weight", "bn1.running_var"):
        wanted = share * one.payload[f"model/{name}"] + (1 - share) * two.payload[f"model/{name}"]
        assert torch.allclose(after.model[name], wanted, rtol=1e-5)
    assert int(after.model["bn1.num_batches_tracked"]) == 7


@pytest.mark.parametrize(("levels", "bucket"), [(1, 0), (7, 512), (127, 0)])
def test_wire_bytes_are_the_papers_formula_and_the_paper_ledger_follows_it(
    levels: int, bucket: int, bed: Bed
) -> None:
    settings = tiny_resnet6(
        method__name="fedpaq", method__levels=levels, method__bucket=bucket, federation__rounds=1
    )
    (report,) = federate(settings, bed.setting(), InProcess(1))
    sizes = [p.numel() for p in MODEL.parameters()]
    bits = 1 + math.ceil(math.log2(levels + 1))
    norms = sum(math.ceil(d / bucket) if bucket else 1 for d in sizes)
    buffers = 4 * sum(b.numel() for b in MODEL.buffers() if b.ndim) + 8 * 6
    exact = 64 + buffers + 4 * norms + sum(math.ceil(d * bits / 8) for d in sizes)
    paper = (32 * norms + sum(sizes) * bits) / 8
    sent = [traffic.uplink for traffic in report.traffic.values()]
    assert sent == [exact] * 3
    assert abs(exact - buffers - paper) < 0.02 * paper + 64
    assert report.downlink_bytes == 3 * (64 + buffers + 4 * sum(sizes))
    assert report.paper_bytes == 3 * (4 * sum(sizes) + math.ceil(paper))
    assert report.method_metrics.keys() == {"noise"}


def test_more_levels_and_smaller_buckets_make_less_noise(bed: Bed) -> None:
    noises = []
    for levels, bucket in ((7, 0), (7, 64), (127, 64)):
        settings = tiny_resnet6(
            method__name="fedpaq",
            method__levels=levels,
            method__bucket=bucket,
            federation__rounds=1,
        )
        (report,) = federate(settings, bed.setting(f"{levels}-{bucket}"), InProcess(1))
        noises.append(report.method_metrics["noise"])
    assert noises[0] > 1 > noises[1] > 0.1 > noises[2] > 0


@pytest.mark.parametrize("codec", ["dense", "sliced"])
def test_every_codec_sends_the_same_values(codec: str, bed: Bed) -> None:
    found = []
    for run, name in (("a", "masked"), ("b", codec)):
        setting = bed.setting(run)
        settings = tiny_resnet6(method__name="fedpaq", codec__name=name, federation__rounds=1)
        (report,) = federate(settings, setting, InProcess(1))
        found.append((state.digest(final_model(open_store(setting.place.store))), report.traffic))
    assert found[0] == found[1]


def test_local_batch_norm_is_not_sent(bed: Bed) -> None:
    info = desk_of(MODEL, INFO.graph, batch_norm="local")
    up = Method().schema(info, None, None).up
    assert {entry.name.removeprefix("model/") for entry in up.entries} == set(
        dict(MODEL.named_parameters())
    )
    settings = tiny_resnet6(
        method__name="fedpaq", training__batch_norm="local", federation__rounds=2
    )
    reports = list(federate(settings, bed.setting(), InProcess(1)))
    assert reports[-1].uplink_bytes < 0.27 * reports[-1].downlink_bytes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"levels": 0}, "levels must be 1 to 32767, got 0"),
        ({"levels": 40_000}, "levels must be 1 to 32767"),
        ({"bucket": -1}, "bucket must be 0 or more, got -1"),
        ({"weights": "size"}, "weights must be equal or examples"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Method(**settings)
