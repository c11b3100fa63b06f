"""Any classification data set of torchgeo, by the name of its class.

Source: Stewart et al., "TorchGeo: Deep Learning With Geospatial Data", ACM TSAS 2024,
https://doi.org/10.1145/3707459. Each data set keeps its own licence and citation.

Which classes these are is found in the installed torchgeo: every one whose examples are an image
and a label. Its own splits are kept. Where it has no validation part, a quarter of the training
part is drawn for it; where it has no test part, its validation part is the test part, since that is
what others report; where it has none at all, the splits are drawn 60/20/20, class by class.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedx_core import strata
from fedx_core.data import _units, base
from fedx_core.data._images import Header, Raster
from fedx_core.data.base import Source, Split, decoded
from fedx_core.errors import ConfigError, DataError, SourceMissingError, UnknownNameError
from fedx_core.examples import Description, Image
from fedx_core.nearest import hint
from fedx_core.seeding import derive

Examples = Any
"""A torchgeo data set: ``len`` and, by position, a dict of tensors."""

# What torchgeo's documentation says of each data set (docs/api/datasets/benchmark.csv); its classes
# do not say it. Names begin so.
LICENCES = {
    "ADVANCE": "CC-BY-4.0",
    "BigEarthNet": "CDLA-Permissive-1.0",
    "CopernicusBench": "CC-BY-4.0",
    "EuroSAT": "MIT",
    "FireRisk": "CC-BY-NC-4.0",
    "PatternNet": "CC-BY-4.0",
    "QuakeSet": "OpenRAIL",
    "RESISC45": "CC-BY-NC-4.0",
    "So2Sat": "CC-BY-4.0",
    "TreeSatAI": "CC-BY-4.0",
    "UCMerced": "public domain",
}
UNKNOWN_LICENCE = "not known to torchgeo; ask the authors"

_OURS = ("root", "split", "transforms", "download", "checksum")
_OTHER_TASKS = {"mask", "masks", "boxes", "bbox", "bbox_xyxy"}
_PARTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_LOOKED_AT = 64
"""Images that tell the pixels' range, spread over the training part."""


@dataclass(frozen=True, kw_only=True)
class DataSet(base.DataSet):
    """A classification data set of torchgeo, read from a folder in torchgeo's layout.

    Args:
        data_set: the name of its class, such as ``EuroSATSpatial``, ``RESISC45`` or ``So2Sat``.
        root: the folder that torchgeo calls ``root``.
        splits: ``own`` keeps the data set's; ``random`` draws 60/20/20 from all of them, class by
            class.
        download: let torchgeo fetch what is not there. Nothing is fetched otherwise.
        checksum: let torchgeo compare MD5 sums of what was fetched.
        image_size: side in pixels to bring all images to; 0 wants all square and of one size.
        scale: pixel value that maps to 1.0; 0 takes 255 for 8 bits and 10,000 for 16.
        value_range: least and largest value of fractions, such as [-50, 20] for radar in dB; empty
            takes one that holds what is seen. See ``folder``.
        band_names: in the images' order; empty takes the names that torchgeo has for them.
        options: what else the class takes, such as ``{bands: [B04, B03, B02]}``.
    """

    data_set: str
    root: str
    splits: Literal["own", "random"] = "own"
    download: bool = False
    checksum: bool = False
    image_size: int = 0
    scale: float = 0.0
    value_range: tuple[float, ...] = ()
    band_names: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 0:
            raise ConfigError(f"image_size must be 0 (as it is) or more, got {self.image_size}")
        if self.scale < 0:
            raise ConfigError(f"scale must be 0 (by the pixels' range) or more, got {self.scale}")
        _units.check_range(self.value_range, self.scale)
        if taken := set(self.options) & set(_OURS):
            raise ConfigError(
                f"options names {', '.join(sorted(taken))}; options holds what the class of "
                "torchgeo takes besides: set root, download and checksum beside it instead"
            )

    def open(self) -> Source:
        """Find the parts, read the labels, and look at some images.

        Raises:
            UnknownNameError: torchgeo has no such classification data set.
            ConfigError: its class takes no such options, or needs a package.
            SourceMissingError: the files are not in ``root``.
            DataError: they can't be used.
        """
        parts = _parts(self._make, _splits(_class(self.data_set)))
        class_names, labels = _labels(parts)
        if self.splits == "random" or set(parts) == {"train"}:
            kept, note = self._drawn(parts, labels), "drawn 60/20/20, class by class"
        else:
            kept, note = self._own(parts, labels)
        description = self._description(parts["train"], class_names, labels["train"])
        splits = {
            name: Split(
                marks,
                base.no_groups(len(marks)),
                partial(_read, places, description, bool(self.image_size)),
            )
            for name, (places, marks) in kept.items()
        }
        count = sum(len(marks) for marks in labels.values())
        return Source(description, splits, {"split": note, "images": count, **_version()})

    def _make(self, **arguments: Any) -> Examples:
        """Make torchgeo's data set, and turn what it raises into errors that say what to do."""
        from torchgeo.datasets import DatasetNotFoundError
        from torchgeo.datasets.errors import DependencyNotFoundError

        kind = _class(self.data_set)
        known = _parameters(kind)
        unknown = set(self.options) - set(known)
        if unknown:
            raise ConfigError(
                f"torchgeo's {self.data_set} has no option {', '.join(sorted(unknown))}; it takes "
                f"{', '.join(name for name in known if name not in _OURS) or 'none'}"
            )
        if self.download and "download" not in known:
            raise ConfigError(
                f"torchgeo can't download {self.data_set}; fetch it by hand into {self.root} and "
                "set download: false"
            )
        for name in ("download", "checksum"):
            if name in known:
                arguments[name] = getattr(self, name)
        try:
            return kind(root=self.root, **arguments, **self.options)
        except DependencyNotFoundError as error:
            raise ConfigError(f"{self.data_set} needs another package: {error}") from error
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise SourceMissingError(
                f"torchgeo does not find {self.data_set} in {self.root}: {_one_line(error)}; "
                + (
                    "set download: true, or put the files there in torchgeo's layout"
                    if "download" in known
                    else "put the files there in torchgeo's layout"
                )
            ) from error
        except (TypeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"torchgeo's {self.data_set} can't be made with {dict(self.options)}: "
                f"{_one_line(error)}; correct options"
            ) from error
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"torchgeo can't read {self.data_set} in {self.root}: {_one_line(error)}; fetch it "
                "again"
            ) from error

    def _drawn(self, parts: "Parts", labels: "Labels") -> "Kept":
        """Draw the splits from all parts together."""
        places = [(part, row) for part, name in parts.items() for row in range(len(name))]
        every = np.concatenate([labels[part] for part in parts])
        drawn = base.random_splits(every, self.seed)
        return {
            split: ([(parts[places[row][0]], places[row][1]) for row in rows], every[rows])
            for split, rows in drawn.items()
        }

    def _own(self, parts: "Parts", labels: "Labels") -> tuple["Kept", str]:
        """Keep the data set's own splits, and draw from the training part what they lack."""
        notes = ["torchgeo's"]
        source = dict(parts)
        if "test" not in source:
            source["test"] = source.pop("validation")
            notes.append("its validation part is the test part")
        marks = {
            name: labels["validation" if source[name] is parts.get("validation") else name]
            for name in source
        }
        rows = {name: np.arange(len(part)) for name, part in source.items()}
        if "validation" not in source:
            most, rest = strata.split(
                strata.strata(marks["train"]), (0.75, 0.25), derive(self.seed, "split")
            )
            source["validation"], marks["validation"] = source["train"], marks["train"]
            rows["train"], rows["validation"] = most, rest
            notes.append("a quarter of the training part is drawn for validation")
        kept = {
            name: ([(source[name], int(row)) for row in rows[name]], marks[name][rows[name]])
            for name in ("train", "validation", "test")
        }
        return kept, "; ".join(notes)

    def _description(
        self, part: Examples, class_names: tuple[str, ...], labels: NDArray[np.integer]
    ) -> Description:
        rows = np.unique(np.linspace(0, len(part) - 1, _LOOKED_AT).astype(int)).tolist()
        looked = list(decoded(lambda row: _pixels(part, row), rows))
        bands, height, width = looked[0].shape
        if not self.image_size and height != width:
            raise DataError(
                f"{self.data_set} has an image of {width} x {height} pixels; wanted square images: "
                "set image_size to resize them"
            )
        names = self.band_names or _band_names(part, bands)
        if len(names) != bands:
            raise DataError(
                f"{self.data_set} has {bands} bands, but band_names names {len(names)}; name each"
            )
        scale, value_range = self._unit(
            [_raster(self.data_set, image, _stored(part, looked)) for image in looked]
        )
        return Description(
            name=self.data_set,
            bands=tuple(names),
            class_names=class_names,
            label_kind="single" if labels.ndim == 1 else "multi",
            image_size=self.image_size or height,
            scale=scale,
            value_range=value_range,
            licence=_licence(self.data_set),
            citation=_citation(_class(self.data_set)),
            source=f"torchgeo: {self.data_set}",
        )

    def _unit(self, looked: Sequence[Raster]) -> tuple[float, tuple[float, ...]]:
        fractions = looked[0].header.dtype == "float32"
        if (self.scale and fractions) or (self.value_range and not fractions):
            setting = "scale" if self.scale else "value_range"
            kind = "fractions or signed" if fractions else "whole numbers"
            raise DataError(f"{self.data_set} has pixels that are {kind}; leave {setting} out")
        found = (self.scale, ()) if self.scale else _units.unit_of(self.data_set, looked)
        scale, value_range = (_units.SCALE, self.value_range) if self.value_range else found
        if value_range:
            _units.check_steps(self.data_set, looked, value_range)
        return scale, value_range


Parts = Mapping[str, Examples]
Labels = Mapping[str, NDArray[np.integer]]
Kept = Mapping[str, tuple[Sequence[tuple[Examples, int]], NDArray[np.integer]]]


def names() -> list[str]:
    """List the classification data sets of the installed torchgeo, in alphabetical order."""
    from torchgeo import datasets
    from torchgeo.datasets import NonGeoClassificationDataset, NonGeoDataset

    return sorted(
        name
        for name, kind in ((name, getattr(datasets, name)) for name in datasets.__all__)
        if inspect.isclass(kind)
        and issubclass(kind, NonGeoDataset)
        and kind not in (NonGeoDataset, NonGeoClassificationDataset)
        and not inspect.isabstract(kind)
        and _classifies(kind)
    )


def _classifies(kind: type[Any]) -> bool:
    """Whether examples are an image and a class, by what the code that reads them mentions."""
    words: set[str] = set()
    seen: set[str] = set()
    waiting = ["__getitem__"]
    while waiting:
        name = waiting.pop()
        method = inspect.unwrap(getattr(kind, name, None) or (lambda: None))
        if name in seen or not inspect.isfunction(method):
            continue
        seen.add(name)
        for constant in method.__code__.co_consts:
            words |= {x for x in _flat(constant) if isinstance(x, str)}
        waiting += method.__code__.co_names
    made = inspect.unwrap(kind.__init__).__code__.co_names
    classed = {"classes", "class_sets", "class_to_idx"} & {*made, *dir(kind)}
    pictured = any(word == "image" or word.startswith("image_") for word in words)
    return (
        "label" in words
        and pictured
        and not words & _OTHER_TASKS
        and bool(classed or issubclass(kind, _image_folder()))
    )


def _image_folder() -> type[Any]:
    from torchvision.datasets import ImageFolder

    kind: type[Any] = ImageFolder
    return kind


def _flat(constant: object) -> tuple[object, ...]:
    return constant if isinstance(constant, tuple) else (constant,)


def _class(name: str) -> type[Any]:
    from torchgeo import datasets

    found = names()
    if name not in found:
        raise UnknownNameError(
            f"torchgeo {_version()['torchgeo']} has no classification data set {name!r}; "
            f"{hint(name, found)}choose one of {', '.join(found)}"
        )
    kind: type[Any] = getattr(datasets, name)
    return kind


def _parameters(kind: type[Any]) -> list[str]:
    return [name for name in inspect.signature(kind).parameters if name != "self"]


def _version() -> dict[str, str]:
    import torchgeo

    return {"torchgeo": str(torchgeo.__version__)}


def _splits(kind: type[Any]) -> list[str]:
    """Find the names of a class's splits, in the sentence that its documentation has for them."""
    if "split" not in _parameters(kind):
        return []
    sentence = re.search(r"^ *split: (.*(?:\n {16,}.*)*)", kind.__init__.__doc__ or "", re.M)
    return re.findall(r"\b(?:train|val|validation|test)\b", sentence[1]) if sentence else [*_PARTS]


def _parts(make: Callable[..., Examples], splits: Sequence[str]) -> Parts:
    """Open the parts that there are; of a data set without splits, all examples are ``train``."""
    if not splits:
        return {"train": _ordered(make())}
    parts = {}
    for split in splits:
        try:
            examples = _ordered(make(split=split))
        except AssertionError:  # this is how torchgeo refuses what it does not have
            continue
        if len(examples):  # MillionAID's test part has no labels, and so no example
            parts[_PARTS[split]] = examples
    if "train" not in parts:
        raise DataError(
            "torchgeo finds no training images, or refuses the options; correct options, or put "
            "the files there in torchgeo's layout"
        )
    return parts


def _ordered(examples: Examples) -> Examples:
    """Put files that were found by a pattern in order; the file system's order is its own."""
    files = getattr(examples, "files", None)
    if isinstance(files, list):
        examples.files = sorted(files, key=str)
    return examples


def _labels(parts: Parts) -> tuple[tuple[str, ...], Labels]:
    """Read all labels; give the names of the classes, and int64 (n,) or uint8 (n, classes)."""
    found = {part: _class_names(examples) for part, examples in parts.items()}
    # MillionAID numbers the classes that a part has; the others have the same in each.
    every = next(iter(found.values()))
    if any(each != every for each in found.values()):
        every = tuple(sorted({name for each in found.values() for name in each}))
    raw = {part: _raw_labels(examples) for part, examples in parts.items()}
    flat = [marks for each in raw.values() for marks in each]
    sizes = {len(marks) for marks in flat}
    if sizes == {1}:
        return every, {
            part: np.array([every.index(found[part][m[0]]) for m in marks], dtype=np.int64)
            for part, marks in raw.items()
        }
    hot = sizes == {len(every)} and all(set(marks.tolist()) <= {0, 1} for marks in flat)
    return every, {
        part: np.stack([_several(m, found[part], every, hot) for m in marks])
        for part, marks in raw.items()
    }


def _several(
    marks: NDArray[np.int64], names: tuple[str, ...], every: tuple[str, ...], hot: bool
) -> NDArray[np.uint8]:
    row = np.zeros(len(every), dtype=np.uint8)
    for position in np.flatnonzero(marks) if hot else marks:
        row[every.index(names[position])] = 1
    return row


def _raw_labels(examples: Examples) -> list[NDArray[np.int64]]:
    """Give each example's label as a vector; images are read only where nothing else has them."""
    targets = getattr(examples, "targets", None)
    if isinstance(examples, _image_folder()) and targets is not None:
        return [np.array([target], dtype=np.int64) for target in targets]

    def read(row: int) -> NDArray[np.int64]:
        label = _example(examples, row)["label"]
        return np.atleast_1d(np.asarray(label, dtype=np.int64))

    return list(decoded(read, range(len(examples))))


def _class_names(examples: Examples) -> tuple[str, ...]:
    sets = getattr(examples, "class_sets", None)
    if sets is not None:
        return tuple(sets[examples.num_classes])
    return tuple(str(name) for name in examples.classes)


def _band_names(examples: Examples, count: int) -> tuple[str, ...]:
    """Take torchgeo's names where it has one for each band; else colours, or numbers."""
    for attribute in ("bands", "all_bands", "all_band_names"):
        names = getattr(examples, attribute, None)
        if isinstance(names, Sequence) and not isinstance(names, str) and len(names) == count:
            return tuple(str(name) for name in names)
    if count == 3:
        return ("red", "green", "blue")  # torchgeo's pictures are read as RGB
    return tuple(f"band-{i + 1}" for i in range(count))


def _example(examples: Examples, row: int) -> Mapping[str, Any]:
    try:
        example: Mapping[str, Any] = examples[row]
    except Exception as error:  # whatever the reader of a format raises on damaged files
        raise DataError(
            f"torchgeo can't read example {row} of {type(examples).__name__}: {_one_line(error)}; "
            "fetch the data again"
        ) from error
    return example


def _pixels(examples: Examples, row: int) -> NDArray[np.float32]:
    """Read one image as torchgeo gives it: float32 (bands, height, width)."""
    example = _example(examples, row)
    keys = ["image"] if "image" in example else [k for k in example if k.startswith("image_")]
    if len(keys) != 1:
        raise ConfigError(
            f"{type(examples).__name__} gives the images {', '.join(keys) or 'none'}; wanted one: "
            "choose one sensor in options"
        )
    image = np.asarray(example[keys[0]], dtype=np.float32)
    if image.ndim != 3:
        raise ConfigError(
            f"{type(examples).__name__} gives images of {image.ndim} dimensions; wanted (bands, "
            "height, width): choose another mode in options"
        )
    return image


def _stored(part: Examples, looked: Sequence[NDArray[np.float32]]) -> str:
    """Say of which kind the pixels are that torchgeo gives as float32."""
    least = min(float(image.min()) for image in looked)
    most = max(float(image.max()) for image in looked)
    # torchgeo brings some pictures of UC Merced to one size, and pixels between whole numbers.
    whole = isinstance(part, _image_folder()) or all(
        bool((image == np.round(image)).all()) for image in looked
    )
    if not whole or least < 0:
        return "float32"
    return "uint8" if most <= 255 else "uint16"


def _raster(shown: str, image: NDArray[np.float32], stored: str) -> Raster:
    bands, height, width = image.shape
    missing = ~np.isfinite(image)
    header = Header(
        dtype=stored, bands=bands, height=height, width=width,
        names=("",) * bands, scales=(1.0,) * bands, offsets=(0.0,) * bands,
    )  # fmt: skip
    if stored == "float32":
        return Raster(header, image, missing if missing.any() else None)
    limits = np.iinfo(stored)
    if missing.any() or image.min() < limits.min or image.max() > limits.max:
        raise DataError(
            f"{shown} has pixels from {image.min():g} to {image.max():g}, which {stored} does not "
            "hold; set scale: 10000"
        )
    return Raster(header, image.round().astype(stored), None)


def _read(
    places: Sequence[tuple[Examples, int]],
    description: Description,
    resize: bool,
    positions: NDArray[np.int64],
) -> Iterator[Image]:
    bands, side, _ = description.image_shape
    stored = _units.stored_as(description.scale, description.value_range)
    target = _units.Target(
        bands=description.bands,
        scale=description.scale,
        value_range=description.value_range,
        stored=stored,
        who="the data set has",
    )

    def read(place: tuple[Examples, int]) -> Image:
        examples, row = place
        image = _pixels(examples, row)
        shown = f"example {row} of {description.name}"
        if len(image) != bands:
            raise DataError(f"{shown} has {len(image)} bands, the first has {bands}; remove it")
        if image.shape[1:] != (side, side):
            if not resize:
                raise DataError(
                    f"{shown} has {image.shape[2]} x {image.shape[1]} pixels, the first {side} x "
                    f"{side}; set image_size to resize all"
                )
            image = base.resized(image, side)
        return _units.converted(shown, _raster(shown, image, stored), target)

    return decoded(read, [places[position] for position in positions])


def _licence(name: str) -> str:
    return next(
        (licence for start, licence in LICENCES.items() if name.startswith(start)), UNKNOWN_LICENCE
    )


def _citation(kind: type[Any]) -> str:
    """Take the links below "cite the following papers" in the class's description."""
    for each in kind.__mro__:
        _, asked, rest = (each.__doc__ or "").partition("cite the following")
        rest = re.split(r"\n *\.\. ", rest)[0]  # up to the next remark
        links = re.findall(r"https?://[^\s>`]+", rest)
        if asked and links:
            return ", ".join(link.rstrip(".") for link in links)
    return ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
