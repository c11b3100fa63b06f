"""Progress of what takes seconds to hours, on stderr: a bar where somebody watches, else lines."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from fedx_core.images.examples import Image, ImageStream

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")

_silent = ContextVar("_silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Show nothing in this block: programs read what a command says."""
    before = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(before)


def shown(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass items on; draw a bar if there is a terminal.

    Args:
        items: to pass on.
        total: how many there are.
        what: the bar's title.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    with _bar() as bar:
        yield from bar.track(items, total, description=what)


@contextmanager
def step(what: str, images: int) -> Iterator[Callable[[ImageStream], ImageStream]]:
    """Show one step over several streams of images: one bar, or a line as it begins.

    Args:
        what: the bar's title.
        images: of all streams together.

    Yields:
        Gives the same examples, and counts their images as they are read.
    """
    if _silent.get() or not sys.stderr.isatty():
        if not _silent.get():
            print(f"{what}: {images} images", file=sys.stderr, flush=True)
        yield lambda stream: stream
        return
    with _bar() as bar:
        task = bar.add_task(what, total=images)

        def counted(stream: ImageStream) -> ImageStream:
            def each() -> Iterator[Image]:
                for image in stream.images:
                    yield image
                    bar.advance(task)

            return replace(stream, images=each())

        yield counted


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something is waited for, and for how long; a line where nobody watches.

    Args:
        what: is waited for.
    """
    if not sys.stderr.isatty():
        print(what, file=sys.stderr, flush=True)
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as spinner:
        spinner.add_task(what, total=None)
        yield


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
