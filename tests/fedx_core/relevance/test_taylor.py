import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.models import catalogue
from fedx_core.relevance import base
from fedx_core.relevance.taylor import Criterion

ENTRY = catalogue.entry("resnet6")


def setting() -> tuple[nn.Module, Tensor]:
    model = catalogue.build("resnet6", 3, 4, seed=1).double().eval()
    images = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(2)).double()
    return model, images


def test_activation_times_gradient_is_averaged_over_space_then_made_absolute() -> None:
    model, images = setting()
    targets = torch.tensor([0, 3, 1])
    graph = catalogue.entry("resnet6").graph(model)
    reference = base.Reference(images, targets)
    found = Criterion().score(model, graph, ENTRY, reference, seed=0, batch_size=2)

    # The block's last convolution is measured before the skip path joins it.
    block = model.layer2[0]
    wanted = torch.zeros(128).double()
    for image, target in zip(images, targets, strict=True):
        stem = model.maxpool(model.bn1(model.conv1(image[None])).relu())
        entered = model.layer1(stem)
        branch = block.bn2(block.conv2(block.bn1(block.conv1(entered)).relu()))
        logits = model.fc((branch + block.downsample(entered)).relu().mean((2, 3)))[0]
        loss = torch.log(torch.exp(logits).sum()) - logits[target]
        (gradient,) = torch.autograd.grad(loss, branch)
        for unit in range(128):
            products = branch.detach()[0, unit] * gradient[0, unit]
            wanted[unit] += abs(float(products.sum() / products.numel())) / 3
    torch.testing.assert_close(found["layer2.0.conv2"].double(), wanted, rtol=1e-6, atol=1e-12)


def test_weight_variant_is_the_squared_sum_of_weight_times_gradient() -> None:
    model, images = setting()
    targets = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]])
    graph = catalogue.entry("resnet6").graph(model)
    reference = base.Reference(images, targets)
    found = Criterion(variant="weight").score(model, graph, ENTRY, reference, seed=0, batch_size=2)
    loss = functional.binary_cross_entropy_with_logits(model(images), targets.double())
    loss.backward()
    weight = model.layer2[0].conv1.weight
    assert weight.grad is not None
    wanted = [float((weight.grad[u] * weight.detach()[u]).sum()) ** 2 for u in range(128)]
    torch.testing.assert_close(
        found["layer2.0.conv1"].double(), torch.tensor(wanted).double(), rtol=1e-5, atol=1e-15
    )


def test_weight_variant_adds_up_the_rows_of_a_head() -> None:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=8, patch_size=4, in_chans=3, num_classes=4, embed_dim=8, depth=1, num_heads=2
    ).double()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    graph = catalogue.entry("vit_base_patch16_224").graph(model, heads=True)
    reference = base.Reference(images, torch.tensor([0, 1]))
    found = Criterion(variant="weight").score(model, graph, ENTRY, reference, seed=0, batch_size=2)
    functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    weight = model.blocks[0].attn.qkv.weight
    products = (weight * weight.grad).detach().sum(1).reshape(3, 2, 4)  # q k v, heads, width
    wanted = products.sum((0, 2)).square()
    torch.testing.assert_close(found["blocks.0.attn.qkv"].double(), wanted, rtol=1e-5, atol=1e-15)
