"""A disk that fails: reads, writes and fsyncs that come back with EIO, as the kernel would say it.

A few lines of C stand before the C library of a process (LD_PRELOAD), and fail its calls on files
of a path for as long as a link ``VERB -> PART OF THE PATH`` lies in a folder. That process is this
file, run as a program.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bed import ROOT, Bed, tiny
from coordinators import final_state
from fedx_core.base.errors import FedXError
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int broken(const char *verb, int file) {
    char place[PATH_MAX], wanted[PATH_MAX], path[PATH_MAX];
    const char *folder = getenv("BROKEN");
    if (folder == NULL) return 0;
    snprintf(place, sizeof place, "%s/%s", folder, verb);
    ssize_t size = readlink(place, wanted, sizeof wanted - 1);
    if (size < 0) return 0;
    wanted[size] = 0;
    snprintf(place, sizeof place, "/proc/self/fd/%d", file);
    size = readlink(place, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    if (strstr(path, wanted) == NULL) return 0;
    errno = EIO;
    return 1;
}

ssize_t write(int file, const void *data, size_t size) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    return broken("write", file) ? -1 : real(file, data, size);
}

ssize_t read(int file, void *data, size_t size) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    return broken("read", file) ? -1 : real(file, data, size);
}

int fsync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return broken("fsync", file) ? -1 : real(file);
}
"""
CASES = {
    "no write": ("write", "/store/", "E_STORAGE"),
    "no fsync": ("fsync", "/store/", "E_STORAGE"),
    "no read of updates": ("read", "/uplink/", "E_STORAGE"),
    # Clients are hit first, and each says why.
    "no read": ("read", "/store/", "E_QUORUM"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> dict[str, list[str]]:
    """What a run says in each case: when the disk breaks, on resume, and of what there is then."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here, with which a disk is made to fail")
    folder = tmp_path_factory.mktemp("broken")
    source, library = folder / "broken.c", folder / "broken.so"
    source.write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "BROKEN": str(folder),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
    }
    done = subprocess.run(
        [sys.executable, __file__, str(tiny_data), str(folder)],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("case", CASES)
def test_a_disk_error_ends_a_run_in_words_and_harms_no_committed_round(
    case: str, found: dict[str, list[str]]
) -> None:
    stopped, again, rounds, same = found[case]
    assert stopped.startswith(CASES[case][2])
    assert "E_STORAGE" in stopped
    assert "Input/output error" in stopped
    assert "the last committed round is intact" in stopped
    assert again.startswith("E_STORAGE")
    assert "Input/output error" in again
    assert rounds == "[1]"
    assert same == "True"


@contextmanager
def broken(verb: str, part: str) -> Iterator[None]:
    link = Path(os.environ["BROKEN"]) / verb
    link.symlink_to(part)
    try:
        yield
    finally:
        link.unlink()


def said(setting: Setting, rounds: Iterator[object] | None = None) -> str:
    """Go on with a run, and return how it ends."""
    try:
        list(rounds or federate(tiny(), setting, InProcess(1), resume=True))
    except FedXError as error:
        return f"{error.code}: {error}"
    return "done"


def main(bed: Bed) -> None:
    list(federate(tiny(), bed.setting("whole"), InProcess(1)))
    whole, answers = final_state(bed.setting("whole")), {}
    for number, (case, (verb, part, _)) in enumerate(CASES.items()):
        setting = bed.setting(str(number))
        rounds = federate(tiny(), setting, InProcess(1))
        next(rounds)
        with broken(verb, part):
            stopped = said(setting, rounds)
            again = said(setting)
        there = [report.round_index for report in history(open_store(setting.place.store))]
        done = said(setting) == "done" and final_state(setting) == whole
        answers[case] = [stopped, again, str(there), str(done)]
    print(json.dumps(answers))


if __name__ == "__main__":
    main(Bed(Path(sys.argv[1]), Path(sys.argv[2])))
