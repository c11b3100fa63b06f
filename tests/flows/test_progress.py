import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import numpy as np
import pytest

from fedx_core.examples import Stream
from flows import progress


class Screen(io.StringIO):
    """A terminal that keeps what is drawn on it."""

    def isatty(self) -> bool:
        return True


def stream(images: int) -> Stream:
    nothing = np.zeros(images, np.int16)
    return Stream([np.zeros((1, 2, 2), np.uint8)] * images, nothing, nothing)


@contextmanager
def screen() -> Iterator[Screen]:
    with redirect_stderr(Screen()) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        yield found


def test_a_step_over_many_streams_has_one_bar_that_counts_all_their_images() -> None:
    with screen() as drawn, progress.step("eurosat: partition", 6) as counted:
        for _ in range(3):
            assert len(list(counted(stream(2)).images)) == 2
    lines = [line for line in drawn.getvalue().split("\n") if "eurosat: partition" in line]
    assert "6/6" in lines[-1]
    assert drawn.getvalue().count("\n") == 1


def test_counting_changes_no_image() -> None:
    images = [np.full((1, 2, 2), n, np.uint8) for n in range(5)]
    labels = np.arange(5, dtype=np.int16)
    with screen(), progress.step("test", 5) as counted:
        seen = counted(Stream(images, labels, labels))
        assert len(seen) == 5
        assert np.array_equal(np.stack(list(seen.images)), np.stack(images))
        assert np.array_equal(seen.labels, labels)


def test_where_there_is_no_terminal_a_step_is_a_line_and_so_is_a_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress.step("eurosat: partition", 6) as counted:
        assert len(list(counted(stream(2)).images)) == 2
    with progress.waiting("starting a server"):
        pass
    assert list(progress.shown([1, 2], 2, "predict")) == [1, 2]
    said = capsys.readouterr()
    assert said.err == "eurosat: partition: 6 images\nstarting a server\n"
    assert not said.out


def test_a_wait_shows_its_time_and_takes_itself_away() -> None:
    with screen() as drawn, progress.waiting("starting a server"):
        pass
    shown = drawn.getvalue()
    assert "starting a server" in shown
    assert "0:00:00" in shown
    assert shown.endswith("\x1b[2K")
