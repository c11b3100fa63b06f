"""What a data set holds and what is wrong with it, in plain values, prepared or not.

dataset     its key in the settings
images      by part
classes     one mapping a class: its name, and its images by part
unlabelled  images without any label, by part; where images may have several
clients     one mapping a client: its name, and its images by part
groups      their names
server      sizes of the reference and of the tuning set
bands       one mapping a band: its name, the least and the highest pixel, and their type
notes       sentences on where the splits come from, what was ignored, joined or drawn
wrong       sentences on what a run should not be trusted with, and what to do
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.data.base import SPLITS, Source
from fedx_core.images import set_folder, set_manifest, strata
from fedx_core.images.examples import Description

Summary = dict[str, Any]


def of_source(name: str, source: Source) -> Summary:
    """Sum up a data set whose images have not been read yet: no bands' ranges, no clients."""
    labels = {part: source.splits[part].labels for part in SPLITS}
    return _summary(name, source.description, labels, source.notes)


def of_prepared(name: str, folder: Path) -> Summary:
    """Sum up a data set that was prepared, shared and given a reference set, as far as it was.

    Args:
        name: its key in the settings.
        folder: of the data set, with ``prepared`` in it.

    Raises:
        DataError: there is no prepared set, or it is damaged.
    """
    prepared = set_folder.read(folder / "prepared")
    settings = prepared.manifest["settings"]
    labels = {part: prepared.parts[part].labels for part in _ordered(prepared.parts)}
    found = _summary(name, prepared.description, labels, settings.get("notes", {}))
    pixels = settings.get("pixels", {})
    dtype = str(prepared.description.pixel_dtype)
    found["bands"] = [
        {"band": band, "least": least, "most": most, "dtype": dtype}
        for band, (least, most) in pixels.get("bands", {}).items()
    ]
    found["wrong"] += _bands(prepared.description, found["bands"])
    found["wrong"] += _alike(pixels.get("alike", {}))
    found["notes"] += [
        f"alike: {twins['images']} images of {part} have the pixels of another one there"
        for part in prepared.parts
        if (twins := pixels.get("alike", {}).get(f"{part}, {part}"))
    ]
    digest = set_folder.digest(folder / "prepared")
    for part, sizes in (("shards", "clients"), ("reference", "server")):
        if not (folder / part / set_manifest.MANIFEST).is_file():
            found["wrong"].append(f"there is no {part}; prepare the set again: fedx data {name}")
            continue
        manifest = set_folder.read_manifest(folder / part)
        if manifest["settings"].get("prepared") != digest:
            found["wrong"].append(
                f"{part} are of other images than prepared; prepare the set again: fedx data {name}"
            )
        found[sizes] = (
            [_client(client["name"], client["sizes"]) for client in manifest["clients"]]
            if part == "shards"
            else manifest["parts"]
        )
    found["wrong"] += _clients(found.get("clients", []))
    return found


def _summary(
    name: str,
    description: Description,
    labels: Mapping[str, NDArray[np.integer]],
    notes: Mapping[str, Any],
) -> Summary:
    counts = {
        part: strata.label_counts(found, len(description.class_names)).tolist()
        for part, found in labels.items()
    }
    several = description.label_kind == "multi"
    found: Summary = {
        "dataset": name,
        "name": description.name,
        "label_kind": description.label_kind,
        "image_size": description.image_size,
        "images": {part: len(found) for part, found in labels.items()},
        "classes": [
            {"class": label, **{part: counts[part][place] for part in labels}}
            for place, label in enumerate(description.class_names)
        ],
        "groups": list(description.group_names),
        "band_names": list(description.bands),
        "notes": _told(notes),
    }
    if several:
        found["unlabelled"] = {part: int((~v.any(axis=1)).sum()) for part, v in labels.items()}
    drawn = sum(found["images"].values())
    if (every := notes.get("images")) and drawn < every:
        found["notes"].append(f"limit: {drawn} of {every} images drawn")
    found["wrong"] = _classes(found)
    return found


def _told(notes: Mapping[str, Any]) -> list[str]:
    """Write notes as sentences, where the splits come from first.

    How many images there were is told only where a limit has left some.
    """
    keys = sorted(notes.keys() - {"images"}, key=lambda key: (key != "split", key))
    return [f"{key}: {notes[key]}" for key in keys]


def _ordered(parts: Iterable[str]) -> list[str]:
    """Put parts into the order of splits; a manifest sorts by letter."""
    return sorted(parts, key=lambda part: SPLITS.index(part) if part in SPLITS else len(SPLITS))


def _classes(found: Mapping[str, Any]) -> list[str]:
    wrong = []
    for kind in ("classes", "groups"):
        names = [row["class"] if kind == "classes" else row for row in found[kind]]
        small: dict[str, str] = {}
        for name in names:
            if (like := small.setdefault(name.casefold(), name)) != name:
                wrong.append(
                    f"the {kind} {like} and {name} differ in capital letters alone; if they are "
                    "one, write them alike"
                )
    for part in found["images"]:
        absent = [row["class"] for row in found["classes"] if not row[part]]
        if len(absent) == len(found["classes"]):
            wrong.append(
                f"no image of {part} bears a label, so no score over labels can be computed of it"
            )
        elif absent:
            why = {
                "train": "no client can learn them",
                "validation": "the reference set lacks them (reference.absent: skip allows that)",
                "test": "they have no score and no say in averages over classes",
            }.get(part, "")
            wrong.append(f"no image of {part} bears {_some(absent)}: {why}")
    return wrong


def _bands(description: Description, bands: list[dict[str, Any]]) -> list[str]:
    wrong = [
        f"{row['band']} is {row['least']} in all images, so it says nothing; leave it out"
        for row in bands
        if row["least"] == row["most"]
    ]
    most = max((row["most"] for row in bands), default=0)
    if 0 < most < description.scale / 20:
        wrong.append(
            f"the highest pixel is {most} where {description.scale:g} stands for 1; set scale to "
            "what the pixels are in"
        )
    return wrong


def _alike(pairs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    wrong = []
    for parts, found in pairs.items():
        first, second = parts.split(", ")
        if first != second:
            wrong.append(
                f"{found['images']} images of {second} have the pixels of an image of {first} "
                f"({' and '.join(found['example'])} first), so scores of {second} flatter; take "
                "them out of one of the two"
            )
        if found["contrary"]:
            wrong.append(
                f"{found['contrary']} images of {second} have the pixels of an image of {first} "
                f"and other labels ({' and '.join(found['contrary_example'])} first); keep the one "
                "that is right"
            )
    return wrong


def _client(name: str, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {"client": name, **{part: sizes[part] for part in _ordered(sizes)}}


def _clients(clients: list[dict[str, Any]]) -> list[str]:
    lacking = [row["client"] for row in clients if not row.get("test")]
    return [f"{_some(lacking)} have no image to test on and get no score"] if lacking else []


def _some(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
