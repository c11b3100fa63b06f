"""Stage ``reference``: the server's own images, ``data/<name>/reference``.

    python -m flows.reference NAME [--params params.yaml] [--data-root data]

They come from the validation split, which no client trains or is tested on.
"""

import sys
from pathlib import Path

import numpy as np

from fedx_core import config, examples, strata
from fedx_core.config import ExperimentConfig
from fedx_core.seeding import derive
from flows import progress
from flows.prepare import run


def reference(experiment: ExperimentConfig, name: str, root: Path) -> Path:
    """Draw the reference set for relevance; the rest of validation is for tuning.

    Args:
        experiment: the settings; ``datasets.<name>.reference`` and ``seed`` are used.
        name: a key of ``datasets``.
        root: the folder of all data sets.

    Returns:
        The folder that was written, ``<root>/<name>/reference``, with the parts ``reference`` and
        ``tuning``.

    Raises:
        ReferenceSetError: a class has no image in the validation split.
        DataError: there is no prepared set.
        StoreError: the result can't be written.
    """
    prepared_folder, folder = root / name / "prepared", root / name / "reference"
    prepared = examples.read(prepared_folder)
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
    streams = {
        "reference": examples.select(validation, chosen),
        "tuning": examples.select(validation, rest),
    }
    counts = strata.label_counts(streams["reference"].labels, len(class_names))
    with progress.step(f"{name}: reference", len(validation)) as counted:
        examples.write(
            folder,
            prepared.description,
            {part: counted(stream) for part, stream in streams.items()},
            {
                "reference": config.as_plain(settings),
                "seed": experiment.seed,
                "prepared": prepared.digest,
                "images_of_each_class": dict(zip(class_names, counts.tolist(), strict=True)),
            },
        )
    return folder


if __name__ == "__main__":
    sys.exit(run(reference))
