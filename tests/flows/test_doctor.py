"""What the doctor says of the machine."""

from pathlib import Path

import pytest

from flows.doctor import checks


@pytest.mark.parametrize(
    ("flags", "said"),
    [("fpu avx2 avx512f avx512_bf16", True), ("fpu amx_bf16\n", True), ("fpu avx2 avx512f", False)],
)
def test_a_processor_that_computes_with_16_bits_is_said(
    flags: str, said: bool, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}")
    found = list(checks._sixteen_bits(tmp_path / "cpuinfo"))
    assert ["training.cpu_amp=true" in check.found for check in found] == [True] * said
    assert not list(checks._sixteen_bits(tmp_path / "none"))
