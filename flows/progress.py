"""A progress bar for work that takes minutes, where somebody watches."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from fedx_core.examples import Stream

Item = TypeVar("Item")


def shown(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass items on; draw a bar on stderr if that is a terminal.

    Args:
        items: to pass on.
        total: how many there are.
        what: the bar's title.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=what, total=total, console=Console(stderr=True))


def watched(stream: Stream, what: str) -> Stream:
    """Give the same examples, with a bar while their images are read."""
    return Stream(shown(stream.images, len(stream), what), stream.labels, stream.groups)
