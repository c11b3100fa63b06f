"""What a data set holds, in words: after ``fedx data``, and in ``fedx doctor --dataset``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_CLIENTS = 20
KINDS = {
    "single": "one label each",
    "multi": "any number of labels",
    "pixels": "one for each pixel",
}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Write a summary (:mod:`flows.data.summary`) as lines of text.

    Args:
        found: the summary.
    """
    size, images = found["image_size"], found["images"]
    kind = KINDS[found["label_kind"]]
    yield (
        f"{found['dataset']}: {sum(images.values()):,} images of {size} x {size} pixels and "
        f"{len(found['band_names'])} bands, {len(found['classes'])} classes, {kind}"
    )
    yield ""
    rows = [{"class": "all images", **images}, *found["classes"]]
    if "unlabelled" in found and any(found["unlabelled"].values()):
        rows.append({"class": "without a label", **found["unlabelled"]})
    yield from _table(rows)
    if found.get("bands"):
        yield ""
        yield from _table(found["bands"])
    if clients := found.get("clients"):
        yield ""
        yield from _table(clients[:MOST_CLIENTS])
        if len(clients) > MOST_CLIENTS:
            yield f"and {len(clients) - MOST_CLIENTS} clients more"
    if server := found.get("server"):
        yield ""
        yield f"at the server: {', '.join(f'{part} {count:,}' for part, count in server.items())}"
    if found["notes"]:
        yield ""
        yield from found["notes"]
    if found["wrong"]:
        yield ""
        yield from (f"! {sentence}" for sentence in found["wrong"])


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Write rows with the same keys as a table; numbers stand right."""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
    numbers = [isinstance(rows[0][name], int | float) for name in names]
    for row in cells:
        padded = (
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, numbers, strict=True)
        )
        yield "  ".join(padded).rstrip()


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
