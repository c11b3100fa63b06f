"""Reading on all cores: order, and nobody else's warnings."""

import os
import threading
import time
import warnings

import numpy as np
import pytest

from fedx_core.base import cores
from fedx_core.data.base import decoded
from fedx_core.images.examples import Image


def slow_at_first(number: int) -> Image:
    time.sleep(0.02 if number < 32 else 0)
    return np.full((1, 1, 1), number, dtype=np.uint8)


def test_images_come_in_order_whoever_is_ready_first() -> None:
    found = [int(image[0, 0, 0]) for image in decoded(slow_at_first, range(100))]
    assert found == list(range(100))


def test_a_reader_that_is_left_half_way_leaves_later_filters_as_they_are() -> None:
    with warnings.catch_warnings():
        images = decoded(slow_at_first, range(32, 400))
        next(images)
        warnings.filterwarnings("ignore", message="of the one who reads")
        images.close()
        warnings.warn("of the one who reads", UserWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("side", "most"),
    [(1, 32 * 8), (1024, 256), (8192, 4)],
    ids=["small: blocks for each core", "1 MiB each: 256 MiB", "64 MiB each: four"],
)
def test_images_that_wait_are_bounded_by_the_cores_allowed_and_in_bytes(
    side: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "allowed", lambda: 3)
    one = np.broadcast_to(np.uint8(0), (1, side, side))  # as large as it says, and of one byte
    waiting, seen, lock = 0, 0, threading.Lock()

    def read(number: int) -> Image:
        nonlocal waiting, seen
        with lock:
            waiting += 1
            seen = max(seen, waiting)
        return one

    for _ in decoded(read, range(2000)):
        with lock:
            waiting -= 1
    assert waiting == 0
    assert 1 <= seen <= most


def test_no_images_are_none() -> None:
    assert list(decoded(slow_at_first, [])) == []
