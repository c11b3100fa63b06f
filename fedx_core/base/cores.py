"""How many cores this process may use, and what they compute with."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_CPU = Path("/proc/cpuinfo")
_SIXTEEN_BITS = {"avx512_bf16", "amx_bf16"}
"""Flags of processors that compute in bfloat16 themselves, as Linux names them."""


def allowed() -> int:
    """Count the cores that affinity and the control groups' quotas leave to this process.

    Machines have more: a batch system gives a job some cores of a node, a container has a quota.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([own, *map(math.ceil, quotas(_OWN, _CGROUPS))]))


def sixteen_bits(cpu: Path = _CPU) -> bool | None:
    """Tell whether this machine's processor computes in bfloat16 itself; None where nothing says.

    Args:
        cpu: what the kernel says of it.
    """
    try:
        words = cpu.read_text().split()
    except OSError:
        return None  # no Linux
    return not _SIXTEEN_BITS.isdisjoint(words) if "sse2" in words else None


def quotas(own: Path, root: Path) -> Iterator[float]:
    """Yield the quota of each control group that this process is in, in cores.

    Args:
        own: the file in which the kernel names them, ``/proc/self/cgroup``.
        root: where they are mounted, ``/sys/fs/cgroup``.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return  # no Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        group = top / path.strip("/")
        # In a container the path may be the host's, of which only the top is to be seen.
        for folder in (group, *(up for up in group.parents if up.is_relative_to(top))):
            quota = _version_1(folder) if controllers else _version_2(folder)
            if quota:
                yield quota


def _version_2(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return 0.0 if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return 0.0


def _version_1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return max(quota, 0) / int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return 0.0
