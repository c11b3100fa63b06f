import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedx_core.base.errors import ConfigError
from fedx_core.models import catalogue
from fedx_core.relevance import base, lrp
from fedx_core.relevance.diverse import Criterion, left

ENTRY = catalogue.entry("resnet6")


def setting() -> tuple[nn.Module, base.Reference]:
    model = catalogue.build("resnet6", 3, 4, seed=1).double().eval()
    images = torch.randn(6, 3, 24, 24, generator=torch.Generator().manual_seed(2)).double()
    return model, base.Reference(images, torch.tensor([0, 3, 1, 2, 2, 0]))


def scored(of: str, model: nn.Module, reference: base.Reference) -> dict[str, Tensor]:
    return Criterion(of=of).score(model, ENTRY.graph(model), ENTRY, reference, seed=0, batch_size=4)


def one_after_another(profiles: Tensor, ridge: float) -> list[float]:
    """By least squares on all profiles before, each with a ridge of its own, in plain loops."""
    images, units = profiles.shape
    # A ridge is as if each unit had an image more that nobody else responds to.
    own = torch.diag(profiles.norm(dim=0) * ridge**0.5)
    long = torch.cat([profiles, own]) / images**0.5
    scores, before = [0.0] * units, []
    for _ in range(min(images, units) + 1):
        rest = {}
        for unit in set(range(units)) - set(before):
            known = long[:, before]
            coefficients = torch.linalg.lstsq(known, long[:, unit : unit + 1]).solution
            rest[unit] = float((long[:, unit : unit + 1] - known @ coefficients).norm())
        if len(before) == min(images, units):
            for unit, size in rest.items():
                scores[unit] = size
            break
        best = max(rest, key=lambda unit: rest[unit])
        scores[best] = rest[best]
        before.append(best)
    return scores


@pytest.mark.parametrize(("images", "units"), [(7, 5), (4, 9)])
def test_what_is_left_is_the_residual_of_least_squares_on_the_units_before(
    images: int, units: int
) -> None:
    profiles = torch.randn(images, units, generator=torch.Generator().manual_seed(5)).double()
    wanted = torch.tensor(one_after_another(profiles, 0.01)).double()
    torch.testing.assert_close(left(profiles, 0.01), wanted)


@given(st.integers(1, 8), st.integers(1, 12), st.integers(0, 1000))
def test_nobody_is_worth_more_than_by_itself_and_the_first_as_much(
    images: int, units: int, seed: int
) -> None:
    profiles = torch.randn(images, units, generator=torch.Generator().manual_seed(seed)).double()
    alone = profiles.square().mean(0).mul(1.001).sqrt()
    found = left(profiles, 0.001)
    assert bool((found <= alone * (1 + 1e-9)).all())
    assert float(found.max()) == pytest.approx(float(alone.max()))
    assert bool((found > 0).all())


def test_of_two_units_that_do_the_same_one_comes_late() -> None:
    profiles = torch.tensor([[3.0, 3.0, 0.0], [0.0, 0.0, 1.0]]).double()
    found = left(profiles, 0.001)
    assert found.argsort(descending=True).tolist() == [0, 2, 1]
    dead = left(torch.zeros(2, 3).double(), 0.001)
    assert dead.tolist() == [0, 0, 0]


def test_profiles_are_the_relevance_of_each_image() -> None:
    model, reference = setting()
    graph = ENTRY.graph(model)
    with lrp.Criterion(aggregation="signed").explaining(model, graph, ENTRY) as explain:
        by_image = [
            explain(reference.images[i : i + 1], reference.targets[i : i + 1]) for i in range(6)
        ]
    found = scored("lrp", model, reference)
    for layer in graph.layers:
        profiles = torch.cat([one[layer.name] for one in by_image]).detach()
        torch.testing.assert_close(found[layer.name], left(profiles, 0.001).float())


def test_profiles_of_the_loss_and_of_activations_are_those_by_hand() -> None:
    model, reference = setting()
    kept: dict[str, Tensor] = {}
    model.bn1.register_forward_hook(lambda m, a, out: kept.setdefault("conv1", out).retain_grad())
    model.relu.inplace = False
    loss = nn.functional.cross_entropy(model(reference.images), reference.targets, reduction="sum")
    loss.backward()
    values = kept["conv1"]
    assert values.grad is not None
    slopes = (values * values.grad).mean((2, 3)).detach()
    torch.testing.assert_close(
        scored("taylor", model, reference)["conv1"], left(slopes, 0.001).float()
    )
    means = values.detach().mean((2, 3))
    torch.testing.assert_close(
        scored("activation", model, reference)["conv1"], left(means - means.mean(0), 0.001).float()
    )


def test_a_unit_that_copies_another_goes_before_it() -> None:
    model, reference = setting()
    first = scored("lrp", model, reference)["layer1.0.conv1"]
    best = int(first.argmax())
    worst = int(first.argmin())
    with torch.no_grad():
        block = model.layer1[0]
        block.conv1.weight[worst] = block.conv1.weight[best]
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(block.bn1, name)[worst] = getattr(block.bn1, name)[best]
        # Both are read alike, so they have one profile.
        block.conv2.weight[:, worst] = block.conv2.weight[:, best]
    graph = ENTRY.graph(model)
    alone = lrp.Criterion().score(model, graph, ENTRY, reference, seed=0, batch_size=4)
    apart = scored("lrp", model, reference)["layer1.0.conv1"]
    high = alone["layer1.0.conv1"].argsort(descending=True).tolist()
    low = apart.argsort(descending=True).tolist()
    pair = {best, worst}
    assert pair <= set(high[:4])
    assert min(low.index(unit) for unit in pair) < 3
    assert max(low.index(unit) for unit in pair) > 5


@pytest.mark.parametrize(
    ("wrong", "says"), [({"of": "snip"}, "of is 'snip'"), ({"ridge": 0}, "ridge")]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Criterion(**wrong)  # type: ignore[arg-type]
