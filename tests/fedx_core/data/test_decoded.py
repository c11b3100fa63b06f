"""Reading on all cores: order, and nobody else's warnings."""

import time
import warnings

import numpy as np

from fedx_core.data.base import decoded
from fedx_core.examples import Image


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
