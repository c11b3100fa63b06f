"""Who else of this machine could change or read the folder of a site or a coordinator."""

import os
from collections.abc import Iterator
from pathlib import Path

from flows.doctor.checks import Check


def modes(what: str, folder: Path) -> Check:
    """Look whether anybody but its owner may write in a folder, or everybody may read it.

    A group may read it, which lets its people look on; secret keys are looked at when they are
    loaded.

    Args:
        what: it is about.
        folder: of a site or a coordinator; it need not be there.
    """
    open_ones = [path for path in _inside(folder) if path.lstat().st_mode & 0o022]
    if open_ones:
        named = " ".join(map(str, open_ones[:5]))
        more = f" and {len(open_ones) - 5} more" if len(open_ones) > 5 else ""
        fix = f"chmod -R go-w {folder}" if more else f"chmod go-w {named}"
        return Check(what, False, f"others may write {named}{more}", fix)
    if folder.exists() and (mode := folder.stat().st_mode) & 0o007:
        return Check(
            what, False, f"everybody may read {folder} (mode {mode & 0o777:o})",
            f"chmod 700 {folder}",
        )  # fmt: skip
    return Check(what, True, f"{folder} is written by its owner alone")


def _inside(folder: Path) -> Iterator[Path]:
    """Return a folder and all that lies in it, but for links, which have no modes of their own."""
    if folder.exists():
        yield folder
    for root, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            if not (path := Path(root) / name).is_symlink():
                yield path
