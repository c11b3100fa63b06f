"""What passes while images are prepared: each band's range, and images that are alike."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.images.examples import Image, ImageStream


@dataclass
class Tally:
    """Counts the images of one data set as they pass, part by part, and keeps none.

    An image is alike another if all its pixels are; it is compared with the first of its kind.
    """

    _least: NDArray[np.integer] | None = None
    _most: NDArray[np.integer] | None = None
    _first: dict[bytes, tuple[str, str, bytes]] = field(default_factory=dict)
    _alike: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def over(self, part: str, stream: ImageStream) -> ImageStream:
        """Give the same examples, and look at their images as they are read."""

        def each() -> Iterator[Image]:
            for position, image in enumerate(stream.images):
                name = stream.names[position] if len(stream.names) else f"{part} {position}"
                self._see(part, name, image, _hash(np.asarray(stream.labels[position])))
                yield image

        return replace(stream, images=each())

    def as_plain(self, bands: Sequence[str]) -> dict[str, Any]:
        """Say what passed, as plain values for a manifest.

        Args:
            bands: their names.

        Returns:
            ``bands``: by name the least and the highest pixel. ``alike``: by two parts, such as
            ``train, test``, how many images of the second have the pixels of one of the first
            (``images``), how many of them with other labels (``contrary``), and an example of each.
        """
        if self._least is None or self._most is None:
            return {"bands": {}, "alike": {}}
        ranges = zip(self._least.tolist(), self._most.tolist(), strict=True)
        return {
            "bands": {band: list(pair) for band, pair in zip(bands, ranges, strict=True)},
            "alike": {", ".join(parts): dict(found) for parts, found in self._alike.items()},
        }

    def _see(self, part: str, name: str, image: Image, labels: bytes) -> None:
        least, most = image.min(axis=(1, 2)), image.max(axis=(1, 2))
        self._least = least if self._least is None else np.minimum(self._least, least)
        self._most = most if self._most is None else np.maximum(self._most, most)
        first_part, first, known = self._first.setdefault(_hash(image), (part, name, labels))
        if (first_part, first) == (part, name):
            return
        found = self._alike.setdefault((first_part, part), {"images": 0, "contrary": 0})
        found["images"] += 1
        found.setdefault("example", [first, name])
        if known != labels:
            found["contrary"] += 1
            found.setdefault("contrary_example", [first, name])


def _hash(values: NDArray[np.integer]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=16).digest()
