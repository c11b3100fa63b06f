"""A process of its own each, since the setting is a process's."""

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes
from fedx_core.base.allocator import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
keep_freed_memory()
block = libc.malloc(30 << 20)
ctypes.memset(block, 1, 30 << 20)
full = resident()
libc.free(block)
print(full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone takes the setting")
def test_freed_memory_is_kept_unless_the_environment_says_something_about_malloc() -> None:
    assert given_back({}) < 5 << 20
    assert given_back({"MALLOC_ARENA_MAX": "2"}) > 25 << 20


def given_back(environment: dict[str, str]) -> int:
    """Bytes that go back to the kernel when a block of 30 MiB is freed."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=clean | environment, capture_output=True, check=True
    )
    return int(done.stdout)
