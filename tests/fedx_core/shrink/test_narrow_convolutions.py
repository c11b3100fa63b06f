"""Convolutions of few channels stay within their memory, on processors with AVX2 too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKER = Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")
"""glibc's, which ends a process that frees memory with something written behind it."""

STEPS = """
import torch
from torch import nn
from fedx_core.pruning.shrink.layers import Conv2d
from fedx_core.pruning.structure import Cut

torch.set_num_threads(1)
dense = nn.Conv2d(16, 5, 1, stride=2, bias=False)
for channels in range(1, 17):
    kept = Cut(columns=torch.arange(16) < channels)
    layer = Conv2d(dense, kept, nn.Identity(), nn.Identity()).to(memory_format=torch.channels_last)
    for _ in range(3):
        images = torch.randn(2, channels, 16, 16).to(memory_format=torch.channels_last)
        images.requires_grad_()
        layer.weight.grad = None
        out = layer(images)
        signal = torch.randn_like(out)
        out.backward(signal)
        with torch.no_grad():
            seen = images[:, :, ::2, ::2].double()
            wanted = torch.einsum("nohw,nihw->oi", signal.double(), seen)
            assert torch.allclose(layer.weight.grad[:, :, 0, 0].double(), wanted, atol=1e-4)
            weight = layer.weight[:, :, 0, 0].double()
            given = torch.einsum("oi,nihw->nohw", weight, seen)
            assert torch.allclose(out.double(), given, atol=1e-4)
"""


@pytest.mark.skipif(not CHECKER.exists(), reason=f"glibc's {CHECKER.name} is not here")
def test_gradients_of_narrow_convolutions_are_right_and_write_nothing_else() -> None:
    checked = {"ONEDNN_MAX_CPU_ISA": "AVX2", "LD_PRELOAD": str(CHECKER), "MALLOC_CHECK_": "3"}
    ended = subprocess.run(
        [sys.executable, "-c", STEPS],
        env=os.environ | checked,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
