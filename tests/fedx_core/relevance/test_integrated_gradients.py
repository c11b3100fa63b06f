import pytest
import torch
from torch import Tensor, nn

from fedx_core.base.errors import ConfigError
from fedx_core.models import catalogue
from fedx_core.relevance import base
from fedx_core.relevance.integrated_gradients import Criterion

ENTRY = catalogue.entry("resnet6")
MODEL = catalogue.build("resnet6", 3, 4, seed=1).double().eval()
for _, value in MODEL.named_parameters():
    if value.ndim == 1:  # shifts, without which the network is linear along the path
        nn.init.uniform_(value, -0.5, 1.0, generator=torch.Generator().manual_seed(3))
GRAPH = catalogue.entry("resnet6").graph(MODEL)
IMAGES = 2 * torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2)).double()
TARGETS = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]])
REFERENCE = base.Reference(IMAGES, TARGETS)


def score(criterion: Criterion) -> dict[str, Tensor]:
    return criterion.score(MODEL, GRAPH, ENTRY, REFERENCE, seed=0, batch_size=2)


@pytest.mark.parametrize(
    "cut", [["conv1"], ["layer2.0.conv2", "layer2.0.downsample.0"]], ids=["stem", "branch and skip"]
)
def test_conductance_of_a_cut_adds_up_to_what_the_answer_gained(cut: list[str]) -> None:
    with torch.no_grad():
        gained = (MODEL(IMAGES) - MODEL(torch.zeros_like(IMAGES))) * TARGETS
    wanted = float(gained.sum()) / 3
    errors = []
    for steps in (1, 8, 64):
        scores = score(Criterion(steps=steps, aggregation="signed"))
        errors.append(abs(sum(float(scores[name].sum()) for name in cut) - wanted))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01 * abs(wanted)


def gradients_on_path(steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Activation and gradient of layer1.0.conv1, whole reference set, at each point."""
    activations, gradients = [], []
    twin = base.copy_to_explain(MODEL)
    for step in range(steps + 1):
        with base.recording(twin, GRAPH) as recorded:
            logits = twin((IMAGES * step / steps).requires_grad_())
            activation = recorded["layer1.0.conv1"]
            answer = sum(logits[i, c] for i, c in TARGETS.nonzero().tolist())
            assert isinstance(answer, Tensor)
            gradients.append(torch.autograd.grad(answer, activation)[0])
            activations.append(activation.detach())
    return activations, gradients


def test_conductance_sums_gradient_times_growth_over_the_path() -> None:
    activations, gradients = gradients_on_path(3)
    wanted = torch.zeros(64).double()
    for image in range(3):
        total = torch.zeros_like(activations[0][0])
        for step in (1, 2, 3):
            grown = activations[step][image] - activations[step - 1][image]
            total += gradients[step][image] * grown
        wanted += total.sum((1, 2)).abs() / 3
    found = score(Criterion(steps=3))["layer1.0.conv1"]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-12)


def test_pathgrad_averages_the_gradients_alone() -> None:
    _, gradients = gradients_on_path(3)
    mean = (gradients[1] + gradients[2] + gradients[3]) / 3
    wanted = mean.sum((2, 3)).abs().mean(0)
    found = score(Criterion(mode="pathgrad", steps=3))["layer1.0.conv1"]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-12)


def test_a_path_needs_a_step() -> None:
    with pytest.raises(ConfigError, match="steps must be 1 or more, got 0"):
        Criterion(steps=0)
