"""``fedx data --preview``: a contact sheet of each class, from the prepared training images."""

import re
import unicodedata
from pathlib import Path

import numpy as np

from fedx_core.base.seeding import derive, numpy_generator
from fedx_core.images import set_folder, strata
from flows.runs.run_folder import write

IMAGES = 24


def preview(name: str, root: Path) -> Path:
    """Write a PNG a class with a few of its training images, drawn at random, always the same.

    Args:
        name: of the data set.
        root: folder of all data sets.

    Returns:
        The folder that was written, ``<root>/<name>/preview``; sheets of an earlier preview go.

    Raises:
        DataError: there is no prepared set.
        StoreError: the folder can't be written.
    """
    from flows.figures import contact, pictures, style

    prepared = set_folder.read(root / name / "prepared", "train")
    train, about = prepared.parts["train"], prepared.description
    folder = root / name / "preview"
    for old in folder.glob("*.png"):
        old.unlink()
    labels = strata.borne(train.labels, len(about.class_names))
    for place, label in enumerate(about.class_names):
        bears = labels[:, place] > 0 if labels.ndim == 2 else labels == place
        found = np.flatnonzero(bears)
        if not len(found):
            continue
        generator = numpy_generator(derive(0, "preview", place))
        chosen = np.sort(generator.permutation(found)[:IMAGES])
        images = [pictures.true_colours(train.images[at], about.bands) for at in chosen]
        title = f"{label}: {len(chosen)} of {len(found)} training images"
        write(
            folder / f"{place:03d}-{_plain(label)}.png", style.as_png(contact.sheet(title, images))
        )
    return folder


def _plain(name: str) -> str:
    """Return a name that every file system takes."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60] or "class"
