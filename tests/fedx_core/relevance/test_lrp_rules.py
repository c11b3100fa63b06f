"""LRP restated slowly: every layer as a dense matrix, every rule as written in its paper."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from fedx_core.models import catalogue
from fedx_core.models.resnet import BasicResNet
from fedx_core.relevance.base import Reference
from fedx_core.relevance.lrp import Criterion

EPSILON = 1e-6
TARGET = 1


def stable(z: Tensor) -> Tensor:
    return z + EPSILON * torch.where(z >= 0, 1.0, -1.0)


def epsilon(weight: Tensor, bias: Tensor, a: Tensor, r: Tensor) -> Tensor:
    """R_i = sum_j a_i w_ji / (z_j + eps sign z_j) R_j, for weight (out, in)."""
    z = weight @ a + bias
    shares = weight * a / stable(z)[:, None]
    return (shares * r[:, None]).sum(0)


def gamma_rule(weight: Tensor, bias: Tensor, a: Tensor, r: Tensor, gamma: float) -> Tensor:
    """The gamma rule for inputs and outputs of both signs (Andéol et al. 2021)."""
    result = torch.zeros_like(a)
    for j in range(len(bias)):
        z = float(weight[j] @ a + bias[j])
        if z == 0:
            continue
        contributions = weight[j] * a
        supports = contributions > 0 if z > 0 else contributions < 0
        shares = contributions * (1 + gamma * supports)
        has_bias = (bias[j] > 0) == (z > 0)
        total = shares.sum() + bias[j] * (1 + gamma * float(has_bias))
        result += shares / stable(total) * r[j]
    return result


def as_matrix(conv: nn.Conv2d, height: int, width: int) -> tuple[Tensor, int, int]:
    """Write a convolution as (out * h' * w', in * h * w), one loop a dimension."""
    (kh, kw), (sh, sw), (ph, pw) = conv.kernel_size, conv.stride, conv.padding
    out_h, out_w = (height + 2 * ph - kh) // sh + 1, (width + 2 * pw - kw) // sw + 1
    matrix = torch.zeros(conv.out_channels, out_h, out_w, conv.in_channels, height, width).double()
    per_group_in = conv.in_channels // conv.groups
    per_group_out = conv.out_channels // conv.groups
    for o, y, x, i, dy, dx in product(
        range(conv.out_channels),
        range(out_h),
        range(out_w),
        range(per_group_in),
        range(kh),
        range(kw),
    ):
        row, column = y * sh + dy - ph, x * sw + dx - pw
        if 0 <= row < height and 0 <= column < width:
            channel = (o // per_group_out) * per_group_in + i
            matrix[o, y, x, channel, row, column] = conv.weight[o, i, dy, dx]
    return matrix.reshape(conv.out_channels * out_h * out_w, -1), out_h, out_w


def merged(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Conv2d, Tensor]:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    twin = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False
    ).double()
    twin.weight.data = conv.weight * scale[:, None, None, None]
    return twin, norm.bias - norm.running_mean * scale


class Linear:
    """A layer in matrix form with the rule of its group; remembers its input."""

    def __init__(self, weight: Tensor, bias: Tensor, gamma: float | None) -> None:
        self.weight, self.bias, self.gamma = weight, bias, gamma

    def forward(self, a: Tensor) -> Tensor:
        self.a = a
        return self.weight @ a + self.bias

    def backward(self, r: Tensor) -> Tensor:
        if self.gamma is None:
            return epsilon(self.weight, self.bias, self.a, r)
        return gamma_rule(self.weight, self.bias, self.a, r, self.gamma)


def conv_layer(
    conv: nn.Conv2d, bias: Tensor, size: int, gamma: float | None = None
) -> tuple[Linear, int]:
    matrix, height, width = as_matrix(conv, size, size)
    return Linear(matrix, bias.repeat_interleave(height * width), gamma), height


def score_of(relevance: Tensor, channels: int) -> Tensor:
    """Maps: sum over space, then the absolute value."""
    return relevance.reshape(channels, -1).sum(1).abs()


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-10)


def randomise(model: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value that no rule can ignore."""
    generator = torch.Generator().manual_seed(5)
    model = model.double().eval()
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        drawn = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(drawn + 0.5)
        else:
            value.copy_((drawn - 0.5) * 1.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("gamma", [0.25, 0.0])
def test_residual_network_follows_epsilon_low_gamma_middle_and_high(gamma: float) -> None:
    from torchvision.models.resnet import BasicBlock

    model = BasicResNet(2, 3)
    model.conv1, model.bn1 = nn.Conv2d(2, 4, 3, stride=1, padding=1, bias=False), nn.BatchNorm2d(4)
    model.layer1 = nn.Sequential(BasicBlock(4, 4))
    down = nn.Sequential(nn.Conv2d(4, 6, 1, 2, bias=False), nn.BatchNorm2d(6))
    model.layer2 = nn.Sequential(BasicBlock(4, 6, 2, down))
    model.fc = nn.Linear(6, 3)
    randomise(model)
    entry = catalogue.entry("resnet6")
    image = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    found = Criterion(gamma=gamma).score(
        model,
        entry.graph(model),
        entry,
        Reference(image, torch.tensor([TARGET])),
        seed=0,
        batch_size=1,
    )

    first, second = model.layer1[0], model.layer2[0]
    stem, size = conv_layer(*merged(model.conv1, model.bn1), 8)
    size //= 2
    conv_a1, _ = conv_layer(*merged(first.conv1, first.bn1), size, gamma)
    conv_a2, _ = conv_layer(*merged(first.conv2, first.bn2), size, gamma)
    conv_b1, small = conv_layer(*merged(second.conv1, second.bn1), size, gamma)
    conv_b2, _ = conv_layer(*merged(second.conv2, second.bn2), small, gamma)
    shortcut, _ = conv_layer(*merged(*down), size, gamma)
    pool = torch.eye(6).double().repeat_interleave(small * small, 1) / small**2
    average = Linear(pool, torch.zeros(6).double(), None)
    classify = Linear(model.fc.weight, model.fc.bias, None)

    stemmed = stem.forward(image.flatten()).relu().reshape(1, 4, 8, 8)
    pooled, winners = nn.functional.max_pool2d(stemmed, 3, 2, 1, return_indices=True)
    x1 = pooled.flatten()
    branch_a = conv_a2.forward(conv_a1.forward(x1).relu())
    x2 = (x1 + branch_a).relu()
    branch_b = conv_b2.forward(conv_b1.forward(x2).relu())
    skip_b = shortcut.forward(x2)
    x3 = (skip_b + branch_b).relu()
    logits = classify.forward(average.forward(x3))
    torch.testing.assert_close(logits, model(image)[0])

    start = torch.zeros(3).double()
    start[TARGET] = 1.0
    r3 = average.backward(classify.backward(start)) / stable(skip_b + branch_b)
    close(found["layer2.0.conv2"], score_of(r3 * branch_b, 6))
    close(found["layer2.0.downsample.0"], score_of(r3 * skip_b, 6))
    r_b1 = conv_b2.backward(r3 * branch_b)
    close(found["layer2.0.conv1"], score_of(r_b1, 6))
    r2 = (conv_b1.backward(r_b1) + shortcut.backward(r3 * skip_b)) / stable(x1 + branch_a)
    close(found["layer1.0.conv2"], score_of(r2 * branch_a, 4))
    r_a1 = conv_a2.backward(r2 * branch_a)
    close(found["layer1.0.conv1"], score_of(r_a1, 4))
    r1 = conv_a1.backward(r_a1) + r2 * x1
    unpooled = torch.zeros(4, 64).double()
    unpooled.scatter_add_(1, winners.reshape(4, -1), r1.reshape(4, -1))
    close(found["conv1"], score_of(unpooled, 4))


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output and the matrix of one token, its deviation held constant."""
    n = len(x)
    deviation = (((x - x.mean()) ** 2).mean() + norm.eps).sqrt()
    centre = torch.eye(n).double() - 1 / n
    matrix = norm.weight[:, None] * centre / deviation
    return matrix @ x + norm.bias, matrix


def layer_norm_backward(norm: nn.LayerNorm, x: Tensor, r: Tensor) -> Tensor:
    _, matrix = layer_norm(norm, x)
    return epsilon(matrix, norm.bias, x, r)


@torch.no_grad()
def test_convnext_follows_epsilon_with_layer_norm_and_grn_linear_around_their_statistics() -> None:
    from timm.models.convnext import ConvNeXt

    model = ConvNeXt(
        in_chans=2,
        num_classes=3,
        depths=(1, 1, 1, 1),
        dims=(3, 4, 4, 5),
        kernel_sizes=3,
        use_grn=True,
        ls_init_value=None,
        conv_mlp=True,
    )
    randomise(model)
    entry = catalogue.entry("convnextv2_atto")
    image = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    graph = entry.graph(model)
    found = Criterion().score(
        model, graph, entry, Reference(image, torch.tensor([TARGET])), seed=0, batch_size=1
    )

    # From the classifier down through the last stage, whose maps are one pixel, and the third.
    features = {}
    hooks = [
        module.register_forward_hook(
            lambda m, i, o, name=name: features.update({name: (i[0][0], o[0])})
        )
        for name, module in model.named_modules()
    ]
    model(image)
    for hook in hooks:
        hook.remove()

    def norm_maps(name: str, r: Tensor) -> Tensor:
        x = features[name][0]
        norm = model.get_submodule(name)
        r = r.reshape(x.shape)
        result = torch.zeros_like(x)
        for y, column in product(range(x.shape[1]), range(x.shape[2])):
            result[:, y, column] = layer_norm_backward(norm, x[:, y, column], r[:, y, column])
        return result

    def conv_maps(name: str, r: Tensor) -> Tensor:
        x = features[name][0]
        layer, _ = conv_layer(model.get_submodule(name), model.get_submodule(name).bias, x.shape[1])
        layer.forward(x.flatten())
        return layer.backward(r.flatten()).reshape(x.shape)

    def block(name: str, r: Tensor) -> Tensor:
        """Return the relevance of a block's input; check its layers' scores on the way."""
        x, y = features[name]
        branch = features[f"{name}.mlp.fc2"][1]
        r = r.reshape(y.shape) / stable(x + branch)
        close(found[f"{name}.mlp.fc2"], score_of(r * branch, len(branch)))
        normed, grn = features[f"{name}.mlp.grn"][1], model.get_submodule(f"{name}.mlp.grn")
        scaled = normed - grn.bias.view(-1, 1, 1)  # what GRN's bias gave, it keeps
        hidden = conv_maps(f"{name}.mlp.fc2", r * branch) * scaled / stable(normed)
        close(found[f"{name}.mlp.fc1"], score_of(hidden, len(hidden)))
        r_dw = norm_maps(f"{name}.norm", conv_maps(f"{name}.mlp.fc1", hidden))
        close(found[f"{name}.conv_dw"], score_of(r_dw, len(r_dw)))
        return conv_maps(f"{name}.conv_dw", r_dw) + r * x

    start = torch.zeros(3).double()
    start[TARGET] = 1.0
    head = model.head
    r = epsilon(head.fc.weight, head.fc.bias, features["head.fc"][0], start)
    r = norm_maps("head.norm", r)
    pixel = features["head.global_pool"][0]  # one pixel, so its average has one summand
    r = r.reshape(pixel.shape) * pixel / stable(pixel)
    r = block("stages.3.blocks.0", r)
    close(found["stages.3.downsample.1"], score_of(r, 5))
    r = norm_maps("stages.3.downsample.0", conv_maps("stages.3.downsample.1", r))
    r = block("stages.2.blocks.0", r)
    close(found["stages.2.downsample.1"], score_of(r, 4))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["attnlrp", "cp"])
def test_transformer_follows_epsilon_with_the_rules_of_attention(attention: str) -> None:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=4, patch_size=2, in_chans=2, num_classes=3, embed_dim=6, depth=1, num_heads=2
    )
    randomise(model)
    entry = catalogue.entry("vit_base_patch16_224")
    image = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    reference = Reference(image, torch.tensor([TARGET]))
    criterion = Criterion(attention=attention)
    graph = entry.graph(model)
    found = criterion.score(model, graph, entry, reference, seed=0, batch_size=1)
    graph = entry.graph(model, heads=True)
    found_heads = criterion.score(model, graph, entry, reference, seed=0, batch_size=1)

    block = model.blocks[0]
    attend, mlp = block.attn, block.mlp
    tokens, heads, width = 5, 2, 3
    embedded = model.patch_embed(image)[0]
    embedded = torch.cat([model.cls_token[0], embedded])
    position = model.pos_embed[0]
    x0 = embedded + position
    n1 = torch.stack([layer_norm(block.norm1, x)[0] for x in x0])
    qkv = n1 @ attend.qkv.weight.T + attend.qkv.bias
    q, k, v = (qkv[:, i * 6 : (i + 1) * 6].reshape(tokens, heads, width) for i in range(3))
    scores = torch.zeros(heads, tokens, tokens).double()
    for h, i, j in product(range(heads), range(tokens), range(tokens)):
        scores[h, i, j] = (q[i, h] * k[j, h]).sum() / width**0.5
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    mixed = torch.zeros(tokens, heads, width).double()
    for h, i, j in product(range(heads), range(tokens), range(tokens)):
        mixed[i, h] += weights[h, i, j] * v[j, h]
    out = mixed.reshape(tokens, 6) @ attend.proj.weight.T + attend.proj.bias
    x1 = x0 + out
    n2 = torch.stack([layer_norm(block.norm2, x)[0] for x in x1])
    hidden = n2 @ mlp.fc1.weight.T + mlp.fc1.bias
    active = nn.functional.gelu(hidden)
    out2 = active @ mlp.fc2.weight.T + mlp.fc2.bias
    x2 = x1 + out2
    final, _ = layer_norm(model.norm, x2[0])
    logits = model.head.weight @ final + model.head.bias
    torch.testing.assert_close(logits, model(image)[0])

    def per_token(linear: nn.Linear, a: Tensor, r: Tensor) -> Tensor:
        return torch.stack(
            [epsilon(linear.weight, linear.bias, x, y) for x, y in zip(a, r, strict=True)]
        )

    def norm_tokens(norm: nn.LayerNorm, a: Tensor, r: Tensor) -> Tensor:
        return torch.stack([layer_norm_backward(norm, x, y) for x, y in zip(a, r, strict=True)])

    start = torch.zeros(3).double()
    start[TARGET] = 1.0
    r2 = torch.zeros(tokens, 6).double()
    r2[0] = layer_norm_backward(
        model.norm, x2[0], epsilon(model.head.weight, model.head.bias, final, start)
    )
    r_out2 = r2 * out2 / stable(x2)
    close(found["blocks.0.mlp.fc2"], r_out2.abs().sum(0))
    r_hidden = per_token(mlp.fc2, active, r_out2)
    close(found["blocks.0.mlp.fc1"], r_hidden.abs().sum(0))
    r1 = r2 * x1 / stable(x2) + norm_tokens(block.norm2, x1, per_token(mlp.fc1, n2, r_hidden))
    r_out = r1 * out / stable(x1)
    close(found["blocks.0.attn.proj"], r_out.abs().sum(0))
    r_mixed = per_token(attend.proj, mixed.reshape(tokens, 6), r_out).reshape(tokens, heads, width)
    close(found_heads["blocks.0.attn.qkv"], r_mixed.sum(-1).abs().sum(0))

    to_weights = 0.5 if attention == "attnlrp" else 0.0
    r_weights = torch.zeros(heads, tokens, tokens).double()
    r_v = torch.zeros_like(v)
    for h, i, j, c in product(range(heads), range(tokens), range(tokens), range(width)):
        share = weights[h, i, j] * v[j, h, c] / stable(mixed[i, h, c]) * r_mixed[i, h, c]
        r_weights[h, i, j] += to_weights * share
        r_v[j, h, c] += (1 - to_weights) * share
    r_scores = scores * (r_weights - weights * r_weights.sum(-1, keepdim=True))
    r_q, r_k = torch.zeros_like(q), torch.zeros_like(k)
    for h, i, j, c in product(range(heads), range(tokens), range(tokens), range(width)):
        share = q[i, h, c] * k[j, h, c] / width**0.5 / stable(scores[h, i, j]) * r_scores[h, i, j]
        r_q[i, h, c] += share / 2
        r_k[j, h, c] += share / 2
    r_qkv = torch.cat([part.reshape(tokens, 6) for part in (r_q, r_k, r_v)], dim=1)
    close(found["blocks.0.attn.qkv"], r_qkv.abs().sum(0))
    if attention == "cp":
        assert (found["blocks.0.attn.qkv"][:12] == 0).all()
    r0 = r1 * x0 / stable(x1) + norm_tokens(block.norm1, x0, per_token(attend.qkv, n1, r_qkv))
    r_embedded = (r0 * embedded / stable(x0))[1:]
    # The patch embedding is a convolution, hence a map: sum over patches before the absolute value.
    close(found["patch_embed.proj"], r_embedded.sum(0).abs())
