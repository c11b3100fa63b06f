"""FedPAQ against a slow restatement of its equations, and its bytes against their formula."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bed import Bed, tiny
from fedx_core import seeding, state
from fedx_core.errors import ConfigError
from fedx_core.federation import federate, final_model
from fedx_core.messages import ServerState, Update
from fedx_core.methods.base import model_info
from fedx_core.methods.fedpaq import Method, dequantise, quantise
from fedx_core.models import catalogue
from fedx_core.runtime import InProcess
from fedx_core.store import open_store
from fedx_core.structure import unit_graph

MODEL = catalogue.build("resnet6", 3, 10, seed=0)
INFO = model_info(MODEL, unit_graph(MODEL, "resnet", "fc"), local_batch_norm=False)


def random(seed: int = 1) -> torch.Generator:
    return seeding.torch_generator(seed)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rounding_is_qsgds_value_by_value(data: Any) -> None:
    s = data.draw(st.sampled_from([1, 2, 3, 7, 100]))
    bucket = data.draw(st.sampled_from([0, 1, 4, 5, 50]))
    wide = st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1e-30, -3e4])
    drawn = data.draw(st.lists(wide, min_size=1, max_size=12))
    norms, level = quantise(torch.tensor(drawn), s, bucket, random())
    size = bucket or len(drawn)
    rows = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    draws = torch.rand((len(rows), size), generator=random(), dtype=torch.float64)
    for i, row in enumerate(rows):
        norm = math.sqrt(sum(v * v for v in row))
        assert float(norms[i]) == pytest.approx(norm, rel=1e-6)
        for j, v in enumerate(row):
            a = s * abs(v) / float(norms[i]) if norm else 0.0
            wanted = min(math.floor(a) + (float(draws[i, j]) < a - math.floor(a)), s)
            assert int(level[i * size + j]) == math.copysign(wanted, v)
    assert level.shape == (len(drawn),)


@pytest.mark.parametrize(("s", "bucket"), [(1, 0), (2, 3), (7, 0), (127, 4)])
def test_the_mean_of_what_is_sent_is_the_change(s: int, bucket: int) -> None:
    draws = 20_000
    v = torch.tensor([0.3, -1.7, 0.0, 0.02, 2.5, -0.4], dtype=torch.float64).float()
    generator = random()
    total, squares = torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for _ in range(draws // 100):
        # Copies of v in buckets of their own are draws of their own.
        if bucket:
            copies = v.repeat(100)
            sent = dequantise(*quantise(copies, s, bucket, generator), s, bucket).reshape(100, 6)
        else:
            sent = dequantise(*quantise(v.repeat(100), s, 6, generator), s, 6).reshape(100, 6)
        total += sent.double().sum(0)
        squares += sent.double().square().sum(0)
    mean = total / draws
    deviation = (squares / draws - mean.square()).clamp(min=0).sqrt() / math.sqrt(draws)
    assert ((mean - v.double()).abs() <= 4.5 * deviation + 1e-6).all()


def test_the_noise_is_no_larger_than_qsgds_bound() -> None:
    v = torch.randn(4096, generator=random(3))
    for s, bucket in ((7, 0), (7, 512), (127, 0), (127, 64)):
        d = bucket or 4096
        bound = min(d / s**2, math.sqrt(d) / s)  # QSGD, lemma 3.1: of the squared norm
        sent = dequantise(*quantise(v, s, bucket, random(4)), s, bucket)
        noise = float((sent - v).square().sum() / v.square().sum())
        assert 0 < noise < 1.1 * bound


def test_nothing_to_send_is_zero_and_a_norm_that_is_not_finite_travels_to_be_refused() -> None:
    norms, level = quantise(torch.zeros(5), 7, 2, random())
    assert not norms.any()
    assert not level.any()
    for bad in (math.nan, math.inf):
        norms, level = quantise(torch.tensor([1.0, bad, 2.0, 3.0]), 7, 2, random())
        assert not norms[0].isfinite()
        assert norms[1].isfinite()
        assert int(level.abs().max()) <= 7


def updates(method: Method) -> list[Update]:
    found = []
    for k, examples in enumerate((10, 30)):
        generator = random(k)
        payload = {}
        for entry in method.schema(INFO, None, None).up.entries:
            if entry.levels:
                drawn = torch.randint(
                    -entry.levels, entry.levels + 1, entry.shape, generator=generator
                )
                payload[entry.name] = drawn.to(torch.int16)
            elif entry.dtype == "torch.float32":
                payload[entry.name] = torch.rand(entry.shape, generator=generator)
            else:
                payload[entry.name] = torch.tensor(7 + k)
        found.append(Update(client=str(k), payload=payload, examples=examples))
    return found


@pytest.mark.parametrize(("weights", "share"), [("equal", 0.5), ("examples", 0.25)])
def test_the_server_adds_the_mean_of_norm_times_level_over_s(weights: Any, share: float) -> None:
    method = Method(levels=5, bucket=100, weights=weights)
    server = ServerState(round_index=3, model=state.copy(MODEL.state_dict()))
    digest = state.digest(server.model)
    one, two = updates(method)
    after = method.aggregate(server, [one, two], INFO)
    assert after.round_index == 4
    assert state.digest(server.model) == digest
    state.require_same_layout(server.model, after.model)
    for name, row, column in (("conv1.weight", 3, 1), ("fc.weight", 9, 127), ("bn1.weight", 63, 0)):
        value = server.model[name].flatten(1) if "bn" not in name else server.model[name][:, None]
        flat = row * value.shape[1] + column
        changes = [
            float(u.payload[f"norm/{name}"][flat // 100])
            * int(u.payload[f"level/{name}"].reshape(-1)[flat])
            / 5
            for u in (one, two)
        ]
        wanted = float(value[row, column]) + share * changes[0] + (1 - share) * changes[1]
        assert float(after.model[name].reshape(-1)[flat]) == pytest.approx(wanted, rel=1e-5)
    means = [float(u.payload["model/bn1.running_var"][5]) for u in (one, two)]
    assert float(after.model["bn1.running_var"][5]) == pytest.approx(
        share * means[0] + (1 - share) * means[1]
    )
    assert int(after.model["bn1.num_batches_tracked"]) == 7


@pytest.mark.parametrize(("levels", "bucket"), [(1, 0), (7, 512), (127, 0)])
def test_wire_bytes_are_the_papers_formula_and_the_paper_ledger_follows_it(
    levels: int, bucket: int, bed: Bed
) -> None:
    settings = tiny(
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
        settings = tiny(
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
        settings = tiny(method__name="fedpaq", codec__name=name, federation__rounds=1)
        (report,) = federate(settings, setting, InProcess(1))
        found.append((state.digest(final_model(open_store(setting.place.store))), report.traffic))
    assert found[0] == found[1]


def test_local_batch_norm_is_not_sent(bed: Bed) -> None:
    info = model_info(MODEL, INFO.graph, local_batch_norm=True)
    up = Method().schema(info, None, None).up
    assert {entry.name.split("/")[0] for entry in up.entries} == {"norm", "level"}
    settings = tiny(method__name="fedpaq", training__batch_norm="local", federation__rounds=2)
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
