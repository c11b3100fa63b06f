"""Stage ``reference``: the server's own images, ``data/<name>/reference``.

    python -m flows.data.reference NAME [--params params.yaml] [--data-root data]

They come from the validation split, which no client trains or is tested on.
"""

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ReferenceSetError
from fedx_core.base.seeding import derive, numpy_generator
from fedx_core.images import examples, set_folder, strata
from fedx_core.images.examples import Examples
from flows.base import progress
from flows.data.prepare import run


def reference(experiment: ExperimentConfig, name: str, root: Path) -> Path:
    """Draw the reference set for relevance and public images; the rest is for tuning.

    Args:
        experiment: the settings; ``datasets.<name>.reference`` and ``seed`` are used.
        name: a key of ``datasets``.
        root: the folder of all data sets.

    Returns:
        The folder that was written, ``<root>/<name>/reference``, with the parts ``reference``,
        ``tuning`` and, if asked for, ``public``, whose labels are zeros that mean nothing.

    Raises:
        ReferenceSetError: a class has no image in the validation split, or there are fewer public
            images than are asked for, or one of them is in another part as well.
        DataError: there is no prepared set.
        StoreError: the result can't be written.
    """
    prepared_folder, folder = root / name / "prepared", root / name / "reference"
    prepared = set_folder.read(prepared_folder)
    validation, class_names = prepared.parts["validation"], prepared.description.class_names
    settings = experiment.datasets[name].reference
    chosen = strata.per_class(
        validation.labels,
        class_names,
        settings.per_class,
        derive(experiment.seed, "reference", name),
        skip_absent=settings.absent == "skip",
    )
    rest = np.setdiff1d(np.arange(len(validation)), chosen)
    public = _public(settings.public, rest, derive(experiment.seed, "public", name), name)
    rest = np.setdiff1d(rest, public)
    streams = {
        "reference": examples.select(validation, chosen),
        "tuning": examples.select(validation, rest),
    }
    if len(public):
        _check_apart(prepared.parts, public, name)
        unlabelled = examples.select(validation, public)
        streams["public"] = replace(unlabelled, labels=np.zeros_like(unlabelled.labels))
    counts = strata.label_counts(streams["reference"].labels, len(class_names))
    with progress.step(f"{name}: reference", len(validation)) as counted:
        set_folder.write(
            folder,
            prepared.description,
            {part: counted(stream) for part, stream in streams.items()},
            {
                "reference": {
                    key: value
                    for key, value in config.as_plain(settings).items()
                    if (key, value) != ("public", 0)  # so that sets of before stay as they are
                },
                "seed": experiment.seed,
                "prepared": prepared.digest,
                "images_of_each_class": dict(zip(class_names, counts.tolist(), strict=True)),
            },
        )
    return folder


def _public(count: int, rest: NDArray[np.int64], seed: int, name: str) -> NDArray[np.int64]:
    """Draw public images from what the reference set leaves over."""
    if count > len(rest):
        raise ReferenceSetError(
            f"datasets.{name}.reference.public asks for {count} images, and the validation split "
            f"has {len(rest)} beside the reference set; lower public or per_class, or raise the "
            "source's limit or share of validation images"
        )
    return np.sort(numpy_generator(seed).permutation(rest)[:count])


def _check_apart(parts: Mapping[str, Examples], public: NDArray[np.int64], name: str) -> None:
    """Refuse public images whose pixels another image has as well, wherever it is."""
    images = parts["validation"].images
    mine = {_pixels(images[index]) for index in public}
    taken = set(public.tolist())
    for part, found in parts.items():
        twins = sum(
            _pixels(image) in mine
            for index, image in enumerate(found.images)
            if part != "validation" or index not in taken
        )
        if twins:
            raise ReferenceSetError(
                f"{twins} images of {name}'s {part} split have the pixels of a public image, which "
                "no other part may hold; remove the copies from the source (`fedx doctor --data` "
                f"names them), or set datasets.{name}.reference.public to 0"
            )


def _pixels(image: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


if __name__ == "__main__":
    sys.exit(run(reference))
