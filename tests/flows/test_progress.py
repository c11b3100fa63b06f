"""A bar that counts images changes nothing else of a stream."""

import sys

import numpy as np
import pytest

from fedx_core.images.examples import ImageStream
from flows.base import progress


def test_counting_keeps_the_names_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    images = [np.zeros((1, 2, 2), np.uint8)] * 2
    stream = ImageStream(images, np.zeros(2, np.int64), np.zeros(2, np.int16), ["a.png", "b.png"])
    with progress.step("reading", 2) as counted:
        same = counted(stream)
        assert list(same.names) == ["a.png", "b.png"]
        assert len(list(same.images)) == 2
