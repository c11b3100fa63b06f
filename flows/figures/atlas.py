"""Examples by country on a schematic map of Europe.

Longitudes and latitudes are of about the middle of each country, in whole or half degrees, as read
off an atlas; they place a circle and claim no border.
"""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.patches import Circle

from flows.figures import style

MIDDLES = {
    "Austria": (14.0, 47.5),
    "Belgium": (4.5, 50.5),
    "Finland": (26.0, 63.5),
    "Ireland": (-8.0, 53.0),
    "Kosovo": (21.0, 42.5),
    "Lithuania": (24.0, 55.5),
    "Luxembourg": (6.0, 49.5),
    "Portugal": (-8.0, 39.5),
    "Serbia": (20.5, 44.5),
    "Switzerland": (8.0, 47.0),
}
"""Degrees (longitude, latitude) of BigEarthNet's countries."""

INSIDE = 1.9
"""Radius from which a name fits in; other names stand below their circle."""
LARGEST = 4.2
"""Radius in degrees of latitude of the circle with the most examples."""
_SHRINK = math.cos(math.radians(52))  # a degree of longitude in the middle of the map


def known(names: Mapping[str, int]) -> bool:
    """Say whether all of these names, at least two, are countries with a place on the map."""
    return len(names) > 1 and set(names) <= set(MIDDLES)


@style.styled
def country_map(examples: Mapping[str, int]) -> Figure:
    """Draw a circle for each country, its area the number of examples.

    Circles that would overlap are pushed apart, so neighbours stay neighbours and all are seen
    (Dorling, Area Cartograms, 1996).

    Args:
        examples: by country; keys of :data:`MIDDLES`.
    """
    most = max(*examples.values(), 1)
    radii = {name: LARGEST * math.sqrt(count / most) for name, count in examples.items()}
    rooms = {name: radius + (0.3 if radius >= INSIDE else 1.5) for name, radius in radii.items()}
    places = _apart({name: MIDDLES[name] for name in examples}, rooms)
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.subplots()
    axes.set_aspect("equal")
    for name, (x, y) in places.items():
        radius = radii[name]
        axes.add_patch(Circle((x, y), radius, facecolor=style.PALETTE[0], alpha=0.85, label=name))
        text = f"{name}\n{examples[name]:,}"
        if radius >= INSIDE:
            axes.text(x, y, text, ha="center", va="center", color="white", fontsize=8)
        else:
            axes.text(x, y - radius - 0.15, text, ha="center", va="top", fontsize=7)
    xs, ys = zip(*places.values(), strict=True)
    axes.set_xlim(min(xs) - LARGEST - 1, max(xs) + LARGEST + 1)
    axes.set_ylim(min(ys) - LARGEST - 1, max(ys) + LARGEST + 1)
    east = range(-10, 41, 10)
    axes.set_xticks([_SHRINK * degrees for degrees in east], [_degrees(d, "WE") for d in east])
    axes.set_xlim(axes.get_xlim())
    north = [d for d in range(30, 76, 5) if axes.get_ylim()[0] <= d <= axes.get_ylim()[1]]
    axes.set_yticks(north, [_degrees(d, "SN") for d in north])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    style.grid(axes)
    return figure


def _degrees(value: int, sides: str) -> str:
    return "0°" if value == 0 else f"{abs(value)}° {sides[value > 0]}"


def _apart(
    middles: Mapping[str, tuple[float, float]], radii: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Push overlapping circles apart along the line between them, in fixed order."""
    places = {name: [_SHRINK * east, north] for name, (east, north) in middles.items()}
    names = list(places)
    for _ in range(200):
        moved = False
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                across = [places[other][axis] - places[one][axis] for axis in (0, 1)]
                distance = math.hypot(*across) or 1e-6
                missing = radii[one] + radii[other] - distance
                if missing > 1e-3:
                    moved = True
                    for axis in (0, 1):
                        step = 0.5 * missing * across[axis] / distance
                        places[one][axis] -= step
                        places[other][axis] += step
        if not moved:
            break
    return {name: (x, y) for name, (x, y) in places.items()}
