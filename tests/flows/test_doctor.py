"""What the doctor says of the machine."""

import pytest

from fedx_core.base import cores
from flows.doctor import checks


@pytest.mark.parametrize(("can", "said"), [(True, True), (False, False), (None, False)])
def test_a_processor_that_computes_with_16_bits_is_said(
    can: bool | None, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "sixteen_bits", lambda: can)
    found = list(checks._sixteen_bits())
    assert ["training.cpu_amp=true" in check.found for check in found] == [True] * said
