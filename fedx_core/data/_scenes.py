"""How synthetic scenes are drawn: land covers as spectra, parcels, rows, lines and noise.

All functions draw a block of images at once; each image has its own generator. The same draws are
the same bits on every machine, see :mod:`fedx_core.data._exact`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedx_core.data._exact import Floats, Generators, interpolated, normals, sine


@dataclass(frozen=True)
class Cover:
    """A land cover in an RGB scene of 64 x 64 pixels; colours as reflectance stretched to [0, 1].

    Args:
        name: of the class.
        colour: red, green, blue.
        texture: contrast of its patchiness.
        parcel: side of its parcels in pixels.
        parcels: contrast between them.
        rows: contrast of crop rows.
        line: red, green, blue of what runs through it.
        width: of that line in pixels; 0 for none.
        bend: how far the line swings, in pixels.
    """

    name: str
    colour: tuple[float, float, float]
    texture: float
    parcel: float = 24
    parcels: float = 0
    rows: float = 0
    line: tuple[float, float, float] = (0, 0, 0)
    width: float = 0
    bend: float = 0


COVERS = (
    Cover("AnnualCrop", (0.44, 0.40, 0.36), 0.03, parcel=22, parcels=0.08),
    Cover("Forest", (0.19, 0.26, 0.24), 0.05),
    Cover("HerbaceousVegetation", (0.34, 0.37, 0.32), 0.09),
    Cover("Highway", (0.38, 0.39, 0.36), 0.05, 20, 0.06, 0, (0.55, 0.54, 0.53), 4, 3),
    Cover("Industrial", (0.46, 0.45, 0.46), 0.04, parcel=11, parcels=0.16),
    Cover("Pasture", (0.32, 0.40, 0.31), 0.03, parcel=36, parcels=0.05),
    Cover("PermanentCrop", (0.42, 0.40, 0.35), 0.04, 26, 0.06, rows=0.04),
    Cover("Residential", (0.43, 0.41, 0.40), 0.04, parcel=5, parcels=0.13),
    Cover("River", (0.35, 0.38, 0.33), 0.05, 24, 0.05, 0, (0.25, 0.32, 0.34), 10, 9),
    Cover("SeaLake", (0.20, 0.27, 0.31), 0.02),
)

# B02, B03, B04, B05, B06, B07, B08, B8A, B11, B12; typical surface reflectance times 10,000.
MATERIALS = {
    "leaves": (250, 500, 300, 900, 2800, 3500, 3700, 3800, 1800, 850),
    "needles": (200, 350, 220, 550, 1500, 1800, 1950, 2050, 950, 450),
    "soil": (800, 1100, 1500, 1800, 2100, 2300, 2450, 2600, 3100, 2500),
    "grass": (350, 750, 500, 1300, 3000, 3600, 3800, 3900, 2300, 1300),
    "roofs": (1100, 1300, 1450, 1600, 1900, 2050, 2200, 2250, 2300, 2000),
    "concrete": (1600, 1800, 1950, 2050, 2200, 2300, 2400, 2450, 2500, 2300),
    "lake": (350, 400, 280, 250, 180, 170, 150, 140, 90, 70),
    "sea": (400, 330, 180, 140, 90, 90, 80, 70, 50, 40),
    "sand": (1900, 2400, 2800, 2950, 3050, 3100, 3200, 3250, 3600, 3200),
    "reeds": (350, 550, 500, 850, 1600, 1850, 1950, 2050, 1400, 850),
}

# One a class of BigEarthNet, in CORINE order: share of each material, and contrast of the texture.
MIXTURES: tuple[tuple[dict[str, float], float], ...] = (
    ({"roofs": 0.65, "grass": 0.35}, 0.35),
    ({"concrete": 0.8, "roofs": 0.2}, 0.45),
    ({"soil": 0.7, "grass": 0.3}, 0.12),
    ({"soil": 0.5, "leaves": 0.5}, 0.25),
    ({"grass": 1.0}, 0.06),
    ({"soil": 0.35, "grass": 0.45, "roofs": 0.2}, 0.3),
    ({"soil": 0.3, "grass": 0.3, "leaves": 0.4}, 0.2),
    ({"soil": 0.35, "leaves": 0.25, "sand": 0.4}, 0.15),
    ({"leaves": 1.0}, 0.12),
    ({"needles": 1.0}, 0.1),
    ({"leaves": 0.5, "needles": 0.5}, 0.18),
    ({"grass": 0.5, "sand": 0.25, "soil": 0.25}, 0.12),
    ({"reeds": 0.4, "needles": 0.3, "soil": 0.3}, 0.2),
    ({"leaves": 0.35, "grass": 0.4, "needles": 0.25}, 0.28),
    ({"sand": 1.0}, 0.06),
    ({"reeds": 0.9, "lake": 0.1}, 0.12),
    ({"reeds": 0.5, "sea": 0.5}, 0.25),
    ({"lake": 1.0}, 0.05),
    ({"sea": 1.0}, 0.04),
)


def rgb_scenes(labels: NDArray[np.integer], generators: Generators, side: int) -> NDArray[np.uint8]:
    """Draw one scene for each label, an index of ``COVERS``; uint8 (n, 3, side, side)."""
    covers = [COVERS[label] for label in labels]
    dice = np.stack([g.random(12, dtype=np.float32) for g in generators])
    unit = side / 64  # sizes are given for 64 pixels
    along, across = _rotated(side, dice[:, 0])

    parcel = unit * _each([c.parcel for c in covers]) * (0.75 + 0.5 * _each(dice[:, 1]))
    column = np.floor(along / parcel + 16 * _each(dice[:, 2])).astype(np.int64)
    row = np.floor(across / parcel + 16 * _each(dice[:, 3])).astype(np.int64)
    tones = normals(generators, [256])
    tone = np.take_along_axis(tones, ((37 * column + 101 * row) % 256).reshape(len(tones), -1), 1)

    shade = _each([c.parcels for c in covers]) * tone.reshape(along.shape)
    wave = sine(along / (6 * unit) + _each(dice[:, 4]))
    shade += _each([c.rows for c in covers]) * wave
    texture = _smooth(generators, 1, 9, side)[:, 0] + _smooth(generators, 1, 33, side)[:, 0]
    shade += _each([c.texture for c in covers]) * texture

    colour = np.array([c.colour for c in covers], dtype=np.float32)
    neighbours = np.array([COVERS[int(d * len(COVERS))].colour for d in dice[:, 5]], np.float32)
    # Up to about a third of a scene is its neighbour's.
    border = _each(0.6 + 1.6 * dice[:, 6])
    scene = _blend(colour, neighbours, _smooth(generators, 1, 4, side)[:, 0] > border)
    scene += shade[:, None]

    swing = _each([c.bend for c in covers]) * unit
    bends = sine(along / (40 * unit) + _each(dice[:, 7]))
    path = across + swing * bends
    distance = np.abs(path + 16 * unit * (_each(dice[:, 8]) - 0.5))
    inside = distance < _each([c.width for c in covers]) * unit * (0.35 + 0.3 * _each(dice[:, 9]))
    lines = np.array([c.line for c in covers], dtype=np.float32)
    scene = np.where(inside[:, None], lines[:, :, None, None] + 0.2 * shade[:, None], scene)

    light = 0.75 + 0.5 * dice[:, 10]
    haze = normals(generators, [3]) * 0.025
    scene = scene * light[:, None, None, None] + haze[:, :, None, None]
    scene += 0.03 * _noise(generators, 3, side)
    return np.asarray((255 * scene).clip(0, 255).round(), dtype=np.uint8)


def spectral_scenes(
    labels: NDArray[np.integer], groups: NDArray[np.integer], generators: Generators, side: int
) -> NDArray[np.uint16]:
    """Draw scenes made of patches of the covers that their labels name.

    Args:
        labels: 0/1 (n, 19) in CORINE order.
        groups: int (n,) country, which tints the light a little.
        generators: one per image.
        side: in pixels.

    Returns:
        uint16 (n, 10, side, side), reflectance times 10,000.
    """
    spectra, contrasts = _spectra()
    cover = cover_maps(labels, generators, side)

    scene = spectra[cover].transpose(0, 3, 1, 2)
    texture = 0.6 * _noise(generators, 1, side) + _smooth(generators, 1, (side + 5) // 3, side)
    scene = scene * (1 + contrasts[cover][:, None] * texture).clip(0.2, 3)
    dice = np.stack([g.random(2, dtype=np.float32) for g in generators])
    season = 1 + 0.25 * (dice[:, :1] - 0.5) * np.linspace(-1, 1, scene.shape[1], dtype=np.float32)
    tint = 1 + 0.05 * sine((groups[:, None] + np.arange(scene.shape[1])) / (2 * np.pi))
    light = 0.7 + 0.6 * dice[:, 1:]
    scene = scene * (season * tint * light).astype(np.float32)[:, :, None, None]
    scene += 60 * _noise(generators, scene.shape[1], side)
    return np.asarray(scene.clip(0, 10_000).round(), dtype=np.uint16)


def cover_maps(labels: NDArray[np.integer], generators: Generators, side: int) -> NDArray[np.int64]:
    """Draw which cover lies where: the first that :func:`spectral_scenes` draws of a generator.

    Args:
        labels: as there.
        generators: one per image.
        side: in pixels.

    Returns:
        int64 (n, side, side), index of the class.
    """
    most = max(int(labels.sum(axis=1).max(initial=1)), 1)
    # Present classes first, padded with the first one.
    present = np.argsort(-labels.astype(np.int64), axis=1, kind="stable")[:, :most]
    real = np.take_along_axis(labels, present, axis=1).astype(bool)
    # A field for every class, so that what an image draws depends on nothing but itself.
    knots = _knots(generators, labels.shape[1], 5)
    fields = interpolated(np.take_along_axis(knots, present[:, :, None, None], axis=1), side)
    fields = np.where((real | ~real.any(axis=1, keepdims=True))[:, :, None, None], fields, -np.inf)
    cover = np.take_along_axis(present, fields.argmax(axis=1).reshape(len(labels), -1), axis=1)
    return np.asarray(cover.reshape(len(labels), side, side))


def _spectra() -> tuple[Floats, Floats]:
    materials = {name: np.array(values, np.float32) for name, values in MATERIALS.items()}
    spectra = [
        np.sum([share * materials[name] for name, share in mixture.items()], axis=0)
        for mixture, _ in MIXTURES
    ]
    return np.stack(spectra), np.array([contrast for _, contrast in MIXTURES], np.float32)


def _each(values: Sequence[float] | Floats) -> Floats:
    """One value per image, shaped to multiply (n, height, width)."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _rotated(side: int, turns: Floats) -> tuple[Floats, Floats]:
    """Pixel coordinates along and across a direction in turns, from the centre; (n, side, side)."""
    place = np.arange(side, dtype=np.float32) - (side - 1) / 2
    right, down = _each(sine(turns + 0.25)), _each(sine(turns))
    along = right * place[None, None, :] + down * place[None, :, None]
    across = right * place[None, :, None] - down * place[None, None, :]
    return along, across


def _smooth(generators: Generators, count: int, knots: int, side: int) -> Floats:
    """Noise that varies over ``side / knots`` pixels, unit variance; (n, count, side, side)."""
    return interpolated(_knots(generators, count, knots), side)


def _knots(generators: Generators, count: int, knots: int) -> Floats:
    return normals(generators, (count, knots, knots))


def _noise(generators: Generators, bands: int, side: int) -> Floats:
    return normals(generators, (bands, side, side))


def _blend(colours: Floats, others: Floats, inside: NDArray[np.bool_]) -> Floats:
    """Fill scenes with a colour each, and with another inside; (n, bands, height, width)."""
    return np.where(inside[:, None], others[:, :, None, None], colours[:, :, None, None]).astype(
        np.float32
    )
