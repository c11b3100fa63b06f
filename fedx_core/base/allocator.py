"""Ask glibc to keep freed memory for the next batch instead of handing it back every time."""

import contextlib
import ctypes
import os
from functools import cache

# Numbers of malloc.h, and the largest threshold that glibc takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_FROM_HEAP = 32 << 20
_KEPT_FREE = 256 << 20


@cache
def keep_freed_memory() -> None:
    """Keep up to 256 MiB of freed memory in this process; does nothing where there is no glibc.

    A training step frees and asks for the same large blocks again and again. By default each comes
    from the kernel anew, to be cleared page by page: a twentieth of the time of a small model's
    round. It changes no result.

    The setting is the whole process's, so it is made where a process begins to train, as the number
    of torch's threads is, and never on import. An environment that says something about malloc
    goes first.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        mallopt(_TRIM_THRESHOLD, _KEPT_FREE)
