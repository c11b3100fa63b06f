import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor

from fedx_core.models import catalogue
from fedx_core.models.convnext import respond
from fedx_core.relevance import base


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_response_norm_and_its_gradients_are_timms(channels_last: bool) -> None:
    norm = GlobalResponseNorm(6, channels_last=channels_last).double()
    with torch.no_grad():
        norm.weight.copy_(randn(6, seed=1))
        norm.bias.copy_(randn(6, seed=2))
    x = randn(2, 4, 5, 6, seed=3)
    x[0, ..., 2] = 0  # a channel that does not respond, where a root has no slope
    x = (x if channels_last else x.movedim(-1, 1).contiguous()).requires_grad_()
    found = respond(
        x,
        norm.weight.view(norm.wb_shape),
        norm.bias.view(norm.wb_shape),
        eps=norm.eps,
        spatial_dim=norm.spatial_dim,
        channel_dim=norm.channel_dim,
        channels=6,
    )
    wanted = norm(x)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    inputs, arriving = (x, norm.weight, norm.bias), randn(*x.shape, seed=4)
    for quick, slow in zip(
        torch.autograd.grad(found, inputs, arriving),
        torch.autograd.grad(wanted, inputs, arriving),
        strict=True,
    ):
        torch.testing.assert_close(quick, slow, rtol=1e-12, atol=1e-12)


def test_streamlined_response_norms_keep_a_models_answer_and_gradient() -> None:
    entry = catalogue.entry("convnextv2_atto")
    model = catalogue.build("convnextv2_atto", 3, 4, seed=1).double().eval()
    for name, value in model.named_parameters():
        if ".grn." in name:
            torch.nn.init.uniform_(value, -1, 1, generator=torch.Generator().manual_seed(2))
    twin = base.copy_to_explain(model)
    entry.quicken(twin, entry.graph(model), rounding=True)
    images = randn(2, 3, 32, 32, seed=5).requires_grad_()
    for found, wanted in zip(_answer(twin, images), _answer(model, images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def _answer(model: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(images)
    return logits, torch.autograd.grad(logits.square().sum(), images)[0]
