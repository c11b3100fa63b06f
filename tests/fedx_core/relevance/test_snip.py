import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.base.errors import ConfigError
from fedx_core.models import catalogue
from fedx_core.relevance import base, taylor
from fedx_core.relevance.snip import Criterion

ENTRY = catalogue.entry("resnet6")


def setting() -> tuple[nn.Module, Tensor, Tensor]:
    model = catalogue.build("resnet6", 3, 4, seed=1).double().eval()
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2)).double()
    return model, images, torch.tensor([0, 3, 1])


def found(model: nn.Module, images: Tensor, targets: Tensor, saliency: str) -> dict[str, Tensor]:
    graph = catalogue.entry("resnet6").graph(model)
    reference = base.Reference(images, targets)
    return Criterion(saliency=saliency).score(model, graph, ENTRY, reference, seed=0, batch_size=2)


@pytest.mark.parametrize("layer", ["conv1", "layer2.0.conv2"])
def test_a_gate_is_the_derivative_of_the_loss_by_a_factor_on_the_units_weights(layer: str) -> None:
    model, images, targets = setting()
    scores = found(model, images, targets, "gate")[layer]
    weight = dict(model.named_parameters())[f"{layer}.weight"].detach()
    for unit in (0, 5, 63):

        def loss(gate: float, unit: int = unit) -> float:
            gated = weight.clone()
            gated[unit] *= gate
            values = {f"{layer}.weight": gated}
            logits = torch.func.functional_call(model, values, (images,))
            return float(functional.cross_entropy(logits, targets).detach())

        slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
        assert float(scores[unit]) == pytest.approx(abs(slope), rel=1e-3, abs=1e-8)


def test_connections_add_up_the_sensitivities_of_single_weights() -> None:
    model, images, _ = setting()
    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]])
    scores = found(model, images, labels, "connections")["layer1.0.conv2"]
    functional.binary_cross_entropy_with_logits(model(images), labels.double()).backward()
    weight = model.layer1[0].conv2.weight
    for unit in (0, 63):
        wanted = sum(
            abs(g * w)
            for g, w in zip(
                weight.grad[unit].flatten().tolist(), weight[unit].flatten().tolist(), strict=True
            )
        )
        assert float(scores[unit]) == pytest.approx(wanted, rel=1e-5)


def test_gates_order_units_as_the_square_of_taylors_weights_does_and_connections_do_not() -> None:
    model, images, targets = setting()
    graph = catalogue.entry("resnet6").graph(model)
    squared = taylor.Criterion(variant="weight").score(
        model, graph, ENTRY, base.Reference(images, targets), seed=0, batch_size=2
    )["conv1"]
    gate = found(model, images, targets, "gate")["conv1"]
    torch.testing.assert_close(gate.square(), squared, rtol=1e-5, atol=0)
    connections = found(model, images, targets, "connections")["conv1"]
    assert (connections >= gate).all()
    assert not torch.equal(connections.argsort(), gate.argsort())


def test_an_unknown_saliency_is_refused() -> None:
    with pytest.raises(ConfigError, match="saliency is 'unit'; choose one of gate, connections"):
        Criterion(saliency="unit")
