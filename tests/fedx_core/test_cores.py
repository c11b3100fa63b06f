import os
from pathlib import Path

import pytest

from fedx_core.base import cores


def groups(tmp_path: Path, own: str, files: dict[str, str]) -> list[float]:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(cores.quotas(tmp_path / "own", tmp_path / "cgroup"))


def test_a_quota_of_any_group_above_counts(tmp_path: Path) -> None:
    files = {"slurm/cpu.max": "250000 100000\n", "slurm/job/cpu.max": "max 100000\n"}
    assert groups(tmp_path, "0::/slurm/job\n", files) == [2.5]


def test_a_container_sees_its_own_group_on_top(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/../../kubepods/pod1\n", {"cpu.max": "50000 100000"}) == [0.5]


def test_version_1_of_control_groups_says_it_in_two_files(tmp_path: Path) -> None:
    files = {
        "cpu/docker/1/cpu.cfs_quota_us": "300000",
        "cpu/docker/1/cpu.cfs_period_us": "100000",
        "cpu/docker/cpu.cfs_quota_us": "-1",
        "cpu/docker/cpu.cfs_period_us": "100000",
    }
    own = "5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n"
    assert groups(tmp_path, own, files) == [3.0]


def test_no_control_groups_are_no_quota(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/\n", {}) == []
    assert list(cores.quotas(tmp_path / "none", tmp_path)) == []


def test_a_part_of_a_core_is_one_and_a_quota_above_the_affinity_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for quota, wanted in ((0.5, 1), (1.5, 2), (100.0, 64)):
        monkeypatch.setattr(cores, "quotas", lambda *_, quota=quota: iter([quota]))
        assert cores.allowed() == wanted


@pytest.mark.parametrize(
    ("flags", "can"),
    [
        ("fpu sse2 avx2 avx512f avx512_bf16", True),
        ("fpu sse2 amx_bf16\n", True),
        ("fpu sse2 avx2 avx512f", False),
        ("fp asimd", None),  # another kind of processor, with other words
    ],
)
def test_a_processor_says_whether_it_computes_with_16_bits(
    flags: str, can: bool | None, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}")
    assert cores.sixteen_bits(tmp_path / "cpuinfo") is can
    assert cores.sixteen_bits(tmp_path / "none") is None
