"""One seed from where it is used, and generators from a seed."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GLOBAL = threading.RLock()
"""Held by whoever has torch's global generator, of which there is one for all threads."""


def derive(root: int, *place: int | str) -> int:
    """Derive the seed of one place in an experiment from the experiment's root seed.

    Args:
        root: the seed in ``params.yaml``.
        place: what the seed is for, such as ``(round_index, client, "train")``. Different places
            get independent seeds, so no draw depends on how many draws came before elsewhere.

    Returns:
        An integer in [0, 2**63).
    """
    text = "\x1f".join([str(root), *(f"{type(part).__name__}:{part}" for part in place)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a torch generator that starts at ``seed``."""
    return torch.Generator(device=device).manual_seed(seed)


def numpy_generator(seed: int) -> np.random.Generator:
    """Return a NumPy generator that starts at ``seed``."""
    return np.random.default_rng(seed)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Let layers draw their initial weights from ``seed``; the global generator is restored.

    Layers of torch know no other generator than the global one. Two threads at once would each draw
    from what the other has left of it, so one waits for the other.
    """
    with _GLOBAL, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
