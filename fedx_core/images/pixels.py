"""From stored integers to what a model sees."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MemoryFormat = Literal["contiguous", "channels_last"]


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How pixels are scaled, normalised and sized.

    Args:
        scale: stored value that maps to 1.0.
        mean: per band, after scaling.
        std: per band, after scaling, all positive.
        input_size: side in pixels that the model wants; None takes images as they are.
        memory_format: of the tensors; ``channels_last`` is faster for most convolutions.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int | None
    memory_format: MemoryFormat

    def to_input(self, images: NDArray[np.integer] | Tensor, device: torch.device) -> Tensor:
        """Normalise a batch.

        Args:
            images: uint8 or uint16 (batch, bands, height, width); a tensor may be on ``device``.
            device: where the result lies.

        Returns:
            float32 (batch, bands, height, width), normalised per band.
        """
        if not isinstance(images, Tensor):
            # Memory-mapped arrays are read-only, and torch wants to own what it wraps.
            owned = images if images.flags.writeable else images.copy()
            images = torch.from_numpy(np.ascontiguousarray(owned))
        batch = images.to(device).to(torch.float32)
        if self.memory_format == "channels_last":
            batch = batch.contiguous(memory_format=torch.channels_last)
        factor = [1.0 / (self.scale * std) for std in self.std]
        offset = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        batch.mul_(_per_band(factor, device)).add_(_per_band(offset, device))
        if self.input_size is not None and batch.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            batch = torch.nn.functional.interpolate(
                batch, size, mode="bilinear", align_corners=False
            )
        return batch


def _per_band(values: list[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, -1, 1, 1)
