"""Which of a file's bands are those that are wanted, by their names.

``B2``, ``b02``, ``SR_B2``, ``Band 2`` and ``B2, central wavelength 490 nm`` are one name; ``B8A``
is another than ``B08``. Colours are those of Sentinel-2: ``blue`` is B02, ``nir`` B08. Where that
leaves several, as with ``B04 before`` and ``B04 after`` of two dates, all that a name says counts.
Bands that are only counted, such as ``Band 1``, ``Band 2`` in this order, have no names.
"""

import re
from collections.abc import Sequence

from fedx_core.base.errors import DataError

_COLOURS = {
    **dict.fromkeys(("coastal", "coastalaerosol", "aerosol", "ultrablue"), "B01"),
    **dict.fromkeys(("blue", "b"), "B02"),
    **dict.fromkeys(("green", "g"), "B03"),
    **dict.fromkeys(("red", "r"), "B04"),
    **dict.fromkeys(("rededge1", "vegetationrededge1", "re1"), "B05"),
    **dict.fromkeys(("rededge2", "vegetationrededge2", "re2"), "B06"),
    **dict.fromkeys(("rededge3", "vegetationrededge3", "re3"), "B07"),
    **dict.fromkeys(("nir", "nearinfrared", "n", "nir1", "widenir"), "B08"),
    **dict.fromkeys(("rededge4", "narrownir", "nirnarrow", "nir2", "nir08"), "B8A"),
    **dict.fromkeys(("watervapour", "watervapor"), "B09"),
    "cirrus": "B10",
    **dict.fromkeys(("swir1", "swir16"), "B11"),
    **dict.fromkeys(("swir2", "swir22"), "B12"),
}
_NUMBERED = re.compile(r"(?:^|[^a-z0-9])(?:b|band)[ _-]?0*(\d{1,2})(a?)(?![a-z0-9])", re.IGNORECASE)
_COUNTED = re.compile(r"(?:band|layer|channel)?[ _-]*0*(\d+)", re.IGNORECASE)


def canonical(name: str) -> str:
    """Bring a band's name to the form in which names are compared."""
    plain = _plain(name)
    if plain in _COLOURS:
        return _COLOURS[plain]
    if found := _NUMBERED.search(name):
        number, letter = int(found[1]), found[2].upper()
        return f"B{number}{letter}" if letter else f"B{number:02d}"
    return plain


def named(names: Sequence[str]) -> bool:
    """Whether names say more than their place: all are there, and they do not only count."""
    counted = [_COUNTED.fullmatch(name.strip()) for name in names]
    counts = [int(found[1]) if found else None for found in counted]
    only_counted = counts in (list(range(len(names))), list(range(1, len(names) + 1)))
    return all(map(str.strip, names)) and not only_counted


def order(name: str, found: Sequence[str], wanted: Sequence[str], who: str) -> list[int] | None:
    """Find the wanted bands among those of a file.

    Args:
        name: of the file, for errors.
        found: names of its bands, empty where it has none.
        wanted: names.
        who: wants them, such as ``the model reads``.

    Returns:
        Place in the file of each wanted band; None where one side does not name its bands, so that
        only their number and order are known.

    Raises:
        DataError: a wanted band is not there, or is there twice.
    """
    if not named(found) or not named(wanted):
        return None
    places = [_places(found, band, wanted) for band in wanted]
    for band, same in zip(wanted, places, strict=True):
        if len(same) > 1:
            raise DataError(
                f"{name} has {len(same)} bands {band}; name each band once, and bands of two dates "
                "such as 'B04 before' and 'B04 after'"
            )
    if missing := [band for band, same in zip(wanted, places, strict=True) if not same]:
        raise DataError(
            f"{name} has the bands {', '.join(found)} where {who} {', '.join(wanted)}: "
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; stack those "
            "bands, or correct the names in the file (its bands' descriptions)"
        )
    return [place for (place,) in places]


def _places(found: Sequence[str], band: str, wanted: Sequence[str]) -> list[int]:
    """Say where a file has one of the wanted bands; by the whole name where a part is not enough.

    A band of one date is thus never taken for that of another one, also where a file has only one.
    """
    there, asked = canonical(band), [canonical(other) for other in wanted]
    same = [place for place, other in enumerate(found) if canonical(other) == there]
    says_more = _plain(band) != there.lower()
    if asked.count(there) > 1 or (len(same) > 1 and says_more):
        return [place for place in same if _plain(found[place]) == _plain(band)]
    return same


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
