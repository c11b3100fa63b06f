"""How what a shell has started is stopped: once after what is under way, twice at once.

Ctrl-C, SIGTERM (``kill``, schedulers) and SIGHUP (a closed terminal) mean the same. Whatever was
started ends, too: Prefect's server, processes of a pool, runs of a sweep. Where no signal can be
heard (``kill -9``), :mod:`flows.ending.lifeline` sees to that.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from flows.base.exits import INTERRUPTED
from flows.ending import lifeline

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 2.0
"""What other processes get to end by themselves before they are killed."""


@contextmanager
def stopping(said: Callable[[], str], stop: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Leave with :data:`flows.base.exits.INTERRUPTED` once somebody asks to stop.

    Args:
        said: returns what is said on stderr then.
        stop: called once the block has been left by the KeyboardInterrupt that stands for it.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            end_children()
            os._exit(INTERRUPTED)
        asked = True
        with suppress(OSError):  # the terminal may be gone
            print(f"\n{said()}", file=sys.stderr, flush=True)
        raise KeyboardInterrupt

    # What nohup ignores stays ignored; a shell's background jobs ignore Ctrl-C, and can be asked.
    heard = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heard}
    try:
        with lifeline.held():
            yield
    except KeyboardInterrupt:
        stop()
        sys.exit(INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_children() -> None:
    """End all processes that this one and its children have started."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, timeout=GRACE_SECONDS)[1]:
        with suppress(psutil.Error):
            child.kill()
