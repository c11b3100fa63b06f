"""Stage ``partition``: each client gets its shard, ``data/<name>/shards/<client>``.

    python -m flows.data.partition NAME [--params params.yaml] [--data-root data]

For simulation only: in a federation of real sites, each site prepares its own shard.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedx_core.base import config
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.seeding import derive
from fedx_core.images import examples, set_folder, strata
from fedx_core.images.examples import ImageStream
from fedx_core.partition import base
from fedx_core.partition.base import Known
from flows.base import progress
from flows.data.prepare import run

PARTS = ("train", "test")


def partition(experiment: ExperimentConfig, name: str, root: Path) -> Path:
    """Split the prepared training and test images among clients.

    Args:
        experiment: the settings; ``datasets.<name>.partition`` and ``seed`` are used.
        name: a key of ``datasets``.
        root: the folder of all data sets.

    Returns:
        The folder that was written, ``<root>/<name>/shards``: a set with the parts train and test
        for each client, and a manifest that lists the clients in order.

    Raises:
        DataError: there is no prepared set, or it can't be split this way.
        StoreError: the result can't be written.
    """
    prepared_folder, folder = root / name / "prepared", root / name / "shards"
    prepared = set_folder.read(prepared_folder)
    plugin = experiment.datasets[name].partition
    rule: base.Partition = plugin.build("partition")
    classes = len(prepared.description.class_names)
    known = [
        Known(strata.borne(prepared.parts[part].labels, classes), prepared.parts[part].groups)
        for part in PARTS
    ]
    shares = dict(
        zip(
            PARTS,
            rule.assign(
                known[0],
                known[1],
                prepared.description.group_names,
                derive(experiment.seed, "partition", name),
            ),
            strict=True,
        )
    )
    for part in PARTS:
        base.check(shares[part], len(prepared.parts[part]), leaves_out=rule.leaves_out)

    settings = {
        "partition": config.as_plain(plugin),
        "seed": experiment.seed,
        "prepared": prepared.digest,
    }
    clients = []
    images = sum(len(share) for part in PARTS for share in shares[part].values())
    with (
        set_folder.replacing(folder) as beside,
        progress.step(f"{name}: partition", images) as counted,
    ):
        for client in shares["train"]:
            streams = {
                part: examples.select(prepared.parts[part], shares[part][client]) for part in PARTS
            }
            set_folder.write(
                beside / client,
                prepared.description,
                {part: counted(stream) for part, stream in streams.items()},
                {**settings, "client": client},
            )
            clients.append(
                {
                    "name": client,
                    "sizes": {part: len(streams[part]) for part in PARTS},
                    "labels": {
                        part: strata.label_counts(streams[part].labels, classes).tolist()
                        for part in PARTS
                    },
                    **_groups(prepared.description.group_names, streams),
                }
            )
        set_folder.write_manifest(
            beside,
            {
                "class_names": prepared.description.class_names,
                "clients": clients,
                "settings": settings,
            },
        )
    return folder


def _groups(
    names: Sequence[str], streams: Mapping[str, ImageStream]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count each part's images by the group they came from; nothing where that is unknown."""
    if not names:
        return {}
    counted: dict[str, dict[str, int]] = {}
    for part, stream in streams.items():
        counts = np.bincount(stream.groups, minlength=len(names)).tolist()
        counted[part] = {n: count for n, count in zip(names, counts, strict=True) if count}
    return {"groups": counted}


if __name__ == "__main__":
    sys.exit(run(partition))
