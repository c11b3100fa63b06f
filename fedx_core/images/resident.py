"""A shard's images where the model computes: on a GPU, moved there once as the integers they are.

A process keeps the shards that it trained on, known by their files, so that in later rounds nothing
moves but indices and labels. Normalising and flipping then happen on the GPU. On the CPU images
stay the memory map that they are.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Images = NDArray[np.integer] | Tensor
"""uint8 or uint16 (n, bands, height, width): an array on the host, or a tensor on the device."""

SHARE = 0.25
"""Of a GPU's free memory that one process may fill with shards; models and maps need the rest."""


@dataclass(frozen=True)
class _File:
    """What tells one shard on one device from another, and from what it was before."""

    device: torch.device
    path: Path
    size: int
    modified_ns: int


class Residents:
    """Shards on the devices of this process; who was used longest ago goes first.

    Args:
        free: bytes that a device has left.
    """

    def __init__(self, free: Callable[[torch.device], int]) -> None:
        self._free = free
        self._held: OrderedDict[_File, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def place(self, images: NDArray[np.integer], device: torch.device) -> Images:
        """Return images on a device, or as they are where they would fill too much of it.

        Args:
            images: of one shard. Only those that are mapped from a file are kept for the next time.
            device: where the model is.
        """
        file = _file_of(images, device)
        with self._lock:
            if file is not None and file in self._held:
                self._held.move_to_end(file)
                return self._held[file]
            held = sum(one.nbytes for known, one in self._held.items() if known.device == device)
            allowed = SHARE * (self._free(device) + held)
            if images.nbytes > allowed:
                return images
            for known in [known for known in self._held if known.device == device]:
                if held + images.nbytes <= allowed:
                    break
                held -= self._held.pop(known).nbytes
            placed = torch.from_numpy(np.array(images)).to(device)
            if file is not None:
                self._held[file] = placed
            return placed


def _file_of(images: NDArray[np.integer], device: torch.device) -> _File | None:
    """Tell which file images are all of; None where they are in memory, or a part."""
    if not isinstance(images, np.memmap) or images.filename is None:
        return None
    path = Path(images.filename)
    try:
        status = path.stat()
    except OSError:  # replaced meanwhile; the map still holds what it held
        return None
    whole = images.flags.c_contiguous and images.offset + images.nbytes == status.st_size
    return _File(device, path, status.st_size, status.st_mtime_ns) if whole else None


_residents = Residents(lambda device: int(torch.cuda.mem_get_info(device)[0]))


def place(images: NDArray[np.integer], device: torch.device) -> Images:
    """Return a shard's images on a GPU; on any other device, or where they do not fit, as they are.

    Args:
        images: uint8 or uint16 (n, bands, height, width).
        device: where the model is.
    """
    return _residents.place(images, device) if device.type == "cuda" else images


def take(images: Images, chosen: NDArray[np.integer], device: torch.device) -> Images:
    """Copy some images to a batch of its own.

    Args:
        images: as :func:`place` returned them.
        chosen: int64 (batch,) positions.
        device: where the model is. A batch for a GPU is a tensor on it, whatever ``images`` are.
    """
    if isinstance(images, Tensor):
        index = torch.from_numpy(chosen).to(images.device)
        return _bits(images)[index].view(images.dtype)
    batch: NDArray[np.integer] = images[chosen]
    if device.type != "cuda":
        return batch
    # From pinned memory a copy does not hold the host up.
    return torch.from_numpy(batch).pin_memory().to(device, non_blocking=True)


def mirror_(batch: Images, flipped: NDArray[np.bool_], axis: int) -> None:
    """Mirror some images of a batch in place.

    Args:
        batch: of :func:`take`, or their maps of classes.
        flipped: bool (batch,).
        axis: 2 or 3; of maps without bands, 1 or 2.
    """
    if isinstance(batch, Tensor):
        # Positions and not bools: how many those are, a GPU would have to be asked.
        index = torch.from_numpy(np.flatnonzero(flipped)).to(batch.device)
        bits = _bits(batch)
        bits[index] = bits[index].flip(axis)
    else:
        batch[flipped] = np.flip(batch[flipped], axis)


def _bits(images: Tensor) -> Tensor:
    """View uint16 as int16, since few of torch's operations know uint16 on every device."""
    return images.view(torch.int16) if images.dtype == torch.uint16 else images
