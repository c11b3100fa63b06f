"""What reads pruned units is refitted, layer by layer, to say what it said before.

In each layer whose inputs have lost channels, the weights that are left are chosen anew by least
squares: what the layer makes of the reference images, with all layers before it pruned and
refitted already, is to come as near as it can to what it made of them before the event.

    min over W of  |Y - W X|² + ridge · tr(XXᵀ)/d · |W - W₀|²

X (d, positions) is what the kept channels bring now, Y (kept rows, positions) what the layer gave
then, W₀ the weights that pruning left. The ridge is a share of X's mean square, so that layers
compare; it pulls to W₀ and not to zero, so that directions which few images show stay as they are.
Where the layer has a bias, it takes up the means.

Source: Y. He, X. Zhang, J. Sun, Channel Pruning for Accelerating Very Deep Neural Networks, ICCV
2017, https://arxiv.org/abs/1707.06168, eq. 1 with the channels given, and section 3.2 for several
layers one after another.
Differs from the paper: all output positions are taken, where it draws ten per image; a ridge; the
sum at the end of a residual block is not corrected for what its skip path has lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedx_core.base import limits, state
from fedx_core.base.errors import ConfigError
from fedx_core.desk.desk import Desk
from fedx_core.pruning.structure import Cut
from fedx_core.recovery import base
from fedx_core.wire.messages import ServerState


@dataclass(frozen=True, kw_only=True)
class Recovery(base.Recovery):
    """Refits by least squares.

    Args:
        ridge: how strongly weights are held where they are, as a share of the mean square of what
            the layer reads, above 0.
    """

    ridge: float = 0.01

    def __post_init__(self) -> None:
        limits.positive(ridge=self.ridge)

    def check(self, desk: Desk) -> None:
        """Refuse supports, whose weights can't be chosen all together."""
        if desk.existing:
            raise ConfigError(
                "recovery reconstruct chooses whole rows of weights, and under support "
                f"{desk.plan.support.name if desk.plan.support else ''} most of them do not exist; "
                "set recovery to distil or none, or support to dense"
            )

    def recovered(
        self,
        desk: Desk,
        before: ServerState,
        after: ServerState,
        support: Mapping[str, Tensor],
    ) -> ServerState:
        """Refit all readers of pruned units, the first ones first."""
        if after.mask is None or after.mask.kind != "units":
            return after
        cuts = desk.graph.cuts(after.mask, "slices")
        model, images = desk.model.eval(), desk.reference_set().images
        readers = [
            name
            for name, module in model.named_modules()
            if _is_refitted(module) and (cut := cuts.get(f"{name}.weight")) and _loses(cut)
        ]
        model.load_state_dict(before.model)
        wanted = _outputs(model, readers, images)
        model.load_state_dict(after.model)
        for name in readers:
            module: Any = model.get_submodule(name)
            refit(
                module,
                _input(model, name, images),
                wanted.pop(name),
                cuts[f"{name}.weight"],
                self.ridge,
            )
        return replace(after, model=state.copy(model.state_dict()))


def refit(module: Any, read: Tensor, wanted: Tensor, cut: Cut, ridge: float) -> None:
    """Choose a layer's weights anew, in place, for what it reads now to give what it gave.

    Args:
        module: a convolution without groups, or a linear layer.
        read: its input, (images, channels, height, width) or (..., channels).
        wanted: its output before, of the same positions.
        cut: which of its rows and columns are kept; the others stay as they are.
        ridge: see :class:`Recovery`.
    """
    weight = module.weight.detach()
    columns = torch.ones(weight.shape[1], dtype=torch.bool) if cut.columns is None else cut.columns
    rows = torch.ones(weight.shape[0], dtype=torch.bool) if cut.rows is None else cut.rows
    if not bool(columns.any()) or not bool(rows.any()):
        return
    x, y = _positions(module, read, wanted, columns, rows)
    old = weight[rows][:, columns].double().flatten(1)
    if module.bias is not None:
        x_mean, y_mean = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
        x, y = x - x_mean, y - y_mean
    gram = x @ x.T
    hold = ridge * gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    gram.diagonal().add_(hold)
    new = old + torch.linalg.solve(gram, (y - old @ x) @ x.T, left=False)
    Cut(rows, columns).put_(new.to(weight.dtype), weight)
    if module.bias is not None:
        module.bias.data[rows] = (y_mean - new @ x_mean).flatten().to(module.bias.dtype)


def _is_refitted(module: nn.Module) -> bool:
    """Tell whether a layer reads all its channels in each row; a grouped convolution does not."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear)


def _loses(cut: Cut) -> bool:
    return cut.columns is not None and not bool(cut.columns.all())


def _positions(
    module: Any, read: Tensor, wanted: Tensor, columns: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Lay out input and output as float64 (kept inputs, positions) and (kept rows, positions)."""
    if isinstance(module, nn.Linear):
        return (
            read.reshape(-1, read.shape[-1])[:, columns].double().T,
            wanted.reshape(-1, wanted.shape[-1])[:, rows].double().T,
        )
    patches = functional.unfold(
        read[:, columns],
        module.kernel_size,
        dilation=module.dilation,
        padding=module.padding,
        stride=module.stride,
    )
    x = patches.double().transpose(0, 1).flatten(1)
    return x, wanted[:, rows].double().transpose(0, 1).flatten(1)


@torch.no_grad()
def _outputs(model: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Return what layers give."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found[name] = output.clone()  # what follows may work in place

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def _input(model: nn.Module, name: str, images: Tensor) -> Tensor:
    """Return what a layer reads."""
    found: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda module, args: found.append(args[0].clone())
    )
    try:
        model(images)
    finally:
        hook.remove()
    return found[0]
