"""Scenes drawn in code, for trying things out without a download.

They imitate Sentinel-2 patches: land covers have spectra and textures, images differ in light,
season and noise, and neighbouring covers reach in, so that a small network learns the classes but
not perfectly. Nothing measured on them says anything about real images.

Every image is drawn from its own generator, keyed by seed, split and position: it does not depend
on which others are drawn, and is the same bytes on every machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fedx_core.base import limits
from fedx_core.base.errors import ConfigError
from fedx_core.base.seeding import derive, numpy_generator
from fedx_core.data import _scenes, base
from fedx_core.data._exact import normals, on_grid
from fedx_core.data._metadata import (
    BANDS,
    CLASS_NAMES,
    COUNTRIES_IN_SUMMER,
    find_metadata,
    read_metadata,
)
from fedx_core.data.base import SPLITS, Source, Split
from fedx_core.images.examples import Description, Image
from fedx_core.images.label_values import LabelKind

AT_ONCE = 64
"""Images drawn together; changes speed, not pixels."""


@dataclass(frozen=True, kw_only=True)
class DataSet(base.DataSet):
    """Synthetic scenes with one label or several, or with a class for each pixel.

    Args:
        label_kind: ``single`` draws RGB scenes of ten classes named as EuroSAT's; ``multi`` draws
            ten-band scenes of BigEarthNet's 19 classes, from countries that differ in their mix;
            ``pixels`` draws the same, and says which class each pixel was drawn as.
        image_size: side in pixels.
        train: images of the training split.
        validation: images of the validation split.
        test: images of the test split.
        metadata: only for ``multi``: BigEarthNet's ``metadata.parquet``, or ``auto`` to look for
            it. Labels, countries and splits then are those of its patches of June to August, and
            the three sizes are not used; set ``limit``, since they are 102,397.
    """

    label_kind: LabelKind = "single"
    image_size: int = 64
    train: int = 2400
    validation: int = 600
    test: int = 800
    metadata: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        limits.one_of(get_args(LabelKind), label_kind=self.label_kind)
        for name in ("image_size", *SPLITS):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.metadata and self.label_kind != "multi":
            raise ConfigError("metadata describes several labels per image; set label_kind: multi")

    def open(self) -> Source:
        """Draw labels; pixels follow when they are asked for."""
        if self.label_kind == "single":
            return self._single()
        return self._spectral()

    def _single(self) -> Source:
        splits = {}
        for name in SPLITS:
            size: int = getattr(self, name)
            balanced = np.arange(size) % len(_scenes.COVERS)
            labels = numpy_generator(derive(self.seed, "labels", name)).permutation(balanced)
            splits[name] = self._split(name, labels, base.no_groups(size))
        description = Description(
            name="synthetic",
            bands=("B04", "B03", "B02"),
            class_names=tuple(cover.name for cover in _scenes.COVERS),
            label_kind="single",
            image_size=self.image_size,
            scale=255.0,
            licence="CC0-1.0",
            source="drawn in code",
        )
        return Source(description, splits, {"split": "drawn"})

    def _spectral(self) -> Source:
        if self.metadata:
            table = read_metadata(find_metadata(self.metadata))
            names, note = table.group_names, "that of BigEarthNet v2's metadata, June to August"
            splits = {
                name: self._split(name, table.labels[rows], table.groups[rows])
                for name, rows in table.rows.items()
            }
        else:
            names, note = tuple(COUNTRIES_IN_SUMMER), "drawn"
            splits = {name: self._split(name, *self._countries(name)) for name in SPLITS}
        description = Description(
            name="synthetic",
            bands=BANDS,
            class_names=CLASS_NAMES,
            label_kind=self.label_kind,
            image_size=self.image_size,
            scale=10_000.0,
            group_names=names,
            licence="CC0-1.0",
            source=f"drawn in code{', labels of real patches' if self.metadata else ''}",
        )
        return Source(description, splits, {"split": note})

    def _countries(self, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Draw labels and countries: countries differ in size and in what grows there."""
        size: int = getattr(self, split)
        weights = np.array(list(COUNTRIES_IN_SUMMER.values()), dtype=np.float64)
        classes = len(CLASS_NAMES)
        draws = normals([numpy_generator(derive(self.seed, "taste"))], (len(weights), classes))[0]
        taste = on_grid(np.exp(draws.astype(np.float64)))
        generator = numpy_generator(derive(self.seed, "labels", split))
        # Each class leads equally many images, so none is missing from a split.
        leading = generator.permutation(np.arange(size) % classes)
        labels = np.zeros((size, classes), dtype=np.uint8)
        groups = np.zeros(size, dtype=np.int16)
        for row, lead in enumerate(leading):
            odds = weights * taste[:, lead]
            country = generator.choice(len(weights), p=odds / odds.sum())
            also = generator.choice(
                classes,
                size=generator.integers(0, 5),
                replace=False,
                p=taste[country] / taste[country].sum(),
            )
            groups[row] = country
            labels[row, [lead, *also]] = 1
        return labels, groups

    def _split(self, name: str, labels: NDArray[np.integer], groups: NDArray[np.int16]) -> Split:
        known = self._maps(name, labels) if self.label_kind == "pixels" else labels
        return Split(known, groups, partial(self._read, name, labels, groups))

    def _maps(self, name: str, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Draw the covers alone, of the generators with which :meth:`_read` begins anew."""
        maps = np.empty((len(labels), self.image_size, self.image_size), np.uint8)
        for block, generators in self._blocks(name, np.arange(len(labels))):
            maps[block] = _scenes.cover_maps(labels[block], generators, self.image_size)
        return maps

    def _blocks(
        self, name: str, positions: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], list[np.random.Generator]]]:
        key = derive(self.seed, "pixels", name)
        for start in range(0, len(positions), AT_ONCE):
            block = positions[start : start + AT_ONCE]
            # Philox counts: any key gives an independent stream at once, without hashing.
            yield (
                block,
                [np.random.Generator(np.random.Philox(key=[key, position])) for position in block],
            )

    def _read(
        self,
        name: str,
        labels: NDArray[np.integer],
        groups: NDArray[np.int16],
        positions: NDArray[np.int64],
    ) -> Iterator[Image]:
        for block, generators in self._blocks(name, positions):
            if self.label_kind == "single":
                yield from _scenes.rgb_scenes(labels[block], generators, self.image_size)
            else:
                yield from _scenes.spectral_scenes(
                    labels[block], groups[block], generators, self.image_size
                )
