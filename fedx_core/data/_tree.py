"""Images in one folder per class, with or without a folder for each split above or below."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from fedx_core.base.errors import DataError
from fedx_core.data import base
from fedx_core.data._files import IMAGES, Files, Folder, is_the_systems
from fedx_core.data._labelled import Labelled, numbered, some, split_of, tidy

Folders = tuple[str, ...]


def by_folder(files: Files, place: Path) -> Labelled:
    """Take the class of each image from its folder, and its split if there are such folders.

    The class is the last folder's name, those of splits left out. Folders named for splits are
    splits where every image lies in one.

    Raises:
        DataError: there are no such images, or it is not clear which folder is the class.
    """
    names, ignored = listed(files)
    if not names:
        raise DataError(
            f"no images in the folders of {place}; wanted one folder per class with "
            f"{', '.join(IMAGES)} files, or a labels file"
            + (f"; found {_sentence(ignored)}" if ignored else "")
        )
    refuse_twins(files, names)
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    level = _split_level(names, folders, place)
    rest = folders if level is None else [f[:level] + f[level + 1 :] for f in folders]
    _refuse_unclear(names, rest)
    classes = [tidy(f[-1]) for f in rest]
    labels, class_names = numbered(classes)
    notes = {}
    if ignored:
        notes["ignored"] = _sentence(ignored)
    above = sorted({"/".join(f[:-1]) for f in rest})
    if len(above) > 1:
        notes["joined"] = f"classes of one name in the folders {some(above)}"
    if empty := _empty(files, names, level, class_names):
        notes["empty"] = f"no image in {some(empty)}"
    splits: list[str] = []
    said_by = ""
    if level is not None:
        splits = [split_of(f[level]) or "" for f in folders]
        said_by = f"folders {', '.join(sorted({f[level] for f in folders}))}"
    return Labelled(
        names, labels, class_names, base.no_groups(len(names)), (), splits, said_by, notes
    )


def without_classes(files: Files, place: Path) -> Labelled:
    """Take all images, however deep they lie; the first folders may be those of splits.

    Raises:
        DataError: there are no images.
    """
    names, ignored = listed(files, loose=True)
    if not names:
        raise DataError(
            f"no images in {place}; wanted {', '.join(IMAGES)} files"
            + (f"; found {_sentence(ignored)}" if ignored else "")
        )
    refuse_twins(files, names)
    tops = [split_of(PurePosixPath(name).parts[0]) for name in names]
    splits = [top or "" for top in tops] if all(tops) and "train" in tops else []
    return Labelled(
        names,
        np.zeros(len(names), np.int64),
        (base.UNLABELLED,),
        base.no_groups(len(names)),
        splits=splits,
        said_by="folders of splits" if splits else "",
        notes={"ignored": _sentence(ignored)} if ignored else {},
    )


def refuse_twins(files: Files, names: Sequence[str]) -> None:
    """Refuse one file under two names, as links make it.

    Raises:
        DataError: names both.
    """
    seen: dict[object, str] = {}
    for name in names:
        first = seen.setdefault(files.identity(name), name)
        if first is not name:
            raise DataError(f"{first} and {name} are one file (a link); remove one of them")


def refuse_links(files: Files, place: Path, names: Sequence[str]) -> None:
    """Refuse links that lead out of the source: it may come from elsewhere, and read what it likes.

    Raises:
        DataError: names the link, and where it leads.
    """
    if not isinstance(files, Folder):
        return
    root = os.path.realpath(place)
    for name in names:
        link = place / name
        if not os.path.realpath(link).startswith(root + os.sep):
            while link != place and not link.is_symlink():  # the folder that is one
                link = link.parent
            raise DataError(
                f"{link} is a link to {os.path.realpath(link)}, outside {place}; put the images "
                "there, or set outside: true if you trust what it links to"
            )


def listed(files: Files, *, loose: bool = False) -> tuple[list[str], Counter[str]]:
    """List the images in folders, and count what else there is, by what it is.

    Args:
        files: of the source.
        loose: take images that lie in no folder, too.
    """
    names: list[str] = []
    ignored: Counter[str] = Counter()
    for name in files.every():
        path = PurePosixPath(name)
        if is_the_systems(name):
            ignored["hidden or of the system"] += 1
        elif not files.holds(name):
            ignored["linked to nothing"] += 1
        elif path.suffix.lower() not in IMAGES:
            ignored[path.suffix.lower() or "without an ending"] += 1
        elif len(path.parts) == 1 and not loose:
            ignored["in no class folder"] += 1
        else:
            names.append(name)
    return names, ignored


def _sentence(ignored: Counter[str]) -> str:
    return "files " + ", ".join(f"{count} {what}" for what, count in sorted(ignored.items()))


def _split_level(names: Sequence[str], folders: Sequence[Folders], place: Path) -> int | None:
    """Find how deep the folders of the splits lie; None if there are none."""
    for depth in range(min(map(len, folders))):
        found = {folder[depth]: split_of(folder[depth]) for folder in folders}
        splits = {split for split in found.values() if split}
        if all(found.values()):
            if "train" not in splits:
                raise DataError(
                    f"{place} has the split folders {', '.join(sorted(found))} and none to train "
                    "on; add a folder train, or name the split's folder as source"
                )
            bare = next((n for n, f in zip(names, folders, strict=True) if len(f) == 1), None)
            if bare is not None:
                raise DataError(
                    f"{bare} lies in a split's folder but in no class's; wanted one folder per "
                    "class in it, or a labels file"
                )
            return depth
        if "train" in splits and len(splits) > 1:
            other = sorted(folder for folder, split in found.items() if split is None)
            raise DataError(
                f"{place} has folders for splits, and images beside them in {some(other)}; move "
                "those into train, val or test, or out of the source, or write a labels file"
            )
    return None


def _refuse_unclear(names: Sequence[str], folders: Sequence[Folders]) -> None:
    """Refuse images that lie at different depths, where the last folder may be no class."""
    depths = [len(folder) for folder in folders]
    if min(depths) == max(depths):
        return
    high, low = names[depths.index(min(depths))], names[depths.index(max(depths))]
    raise DataError(
        f"{high} and {low} lie at different depths, so it is not clear which folder is the class; "
        "wanted one folder per class, all at one depth, or a labels file"
    )


def _empty(
    files: Files, names: Sequence[str], level: int | None, class_names: Sequence[str]
) -> list[str]:
    """Name the folders beside those of classes that hold no image."""
    depth = len(PurePosixPath(names[0]).parts) - 1
    up = 2 if level == depth - 1 else 1  # <class>/train/<file>
    above = {PurePosixPath(name).parents[up] for name in names}
    beside = {(a / f).as_posix() for a in above for f in files.folders(a.as_posix())}
    return sorted(
        folder
        for folder in beside
        if not is_the_systems(folder) and tidy(PurePosixPath(folder).name) not in class_names
    )
