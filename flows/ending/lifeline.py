"""What a run has started ends with it, even where it is killed without a word.

Beside a run waits a small process of its own. Where the run has gone without ending what it had
started (``kill -9``, no memory left), it ends all processes that carry the run's token in the
environment they were started with: Prefect's server, processes of a pool, runs of a sweep.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

VARIABLE = "FEDX_LIFELINE"
LOOK_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""What processes get to end by themselves before they are killed."""


@contextmanager
def held() -> Iterator[None]:
    """Have everything that is started in this block end with this process."""
    token = uuid.uuid4().hex
    before = os.environ.get(VARIABLE)
    # Ctrl-C in a terminal reaches whole groups of processes; this one must outlive them.
    watcher = subprocess.Popen(
        [sys.executable, "-m", "flows.ending.lifeline", str(os.getpid()), token],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.environ[VARIABLE] = token
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def watch(parent: int, token: str) -> None:
    """Wait until a process is gone, then end what carries its token.

    Args:
        parent: of this process.
        token: that the parent has put into the environment of what it starts.
    """
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    end(token)


def end(token: str) -> None:
    """End all processes of this user that were started with a token in their environment."""
    import psutil

    left = [each for each in psutil.process_iter() if _carries(each, token)]
    for each in left:
        with suppress(psutil.Error):
            each.terminate()
    for each in psutil.wait_procs(left, timeout=GRACE_SECONDS)[1]:
        with suppress(psutil.Error):
            each.kill()


def _carries(process: "psutil.Process", token: str) -> bool:
    import psutil

    try:
        return bool(process.environ().get(VARIABLE) == token)
    except (psutil.Error, OSError):  # somebody else's, or gone
        return False


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2])
