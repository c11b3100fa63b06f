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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedx_core.base.errors import ConfigError, DataError, SourceMissingError, UnknownNameError
from fedx_core.base.nearest import hint
from fedx_core.base.seeding import derive
from fedx_core.data import _units, base
from fedx_core.data._images import Raster
from fedx_core.data._torchgeo_examples import (
    Examples,
    Labels,
    Parts,
    image_folder,
    labels_of,
    names_of_bands,
    one_line,
    pixels,
    raster,
    read,
    stored_kind,
)
from fedx_core.data.base import Source, Split, decoded
from fedx_core.images import strata
from fedx_core.images.examples import Description

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
        class_names, labels = labels_of(parts)
        if self.splits == "random" or set(parts) == {"train"}:
            kept, note = self._drawn(parts, labels), "drawn 60/20/20, class by class"
        else:
            kept, note = self._own(parts, labels)
        description = self._description(parts["train"], class_names, labels["train"])
        splits = {
            name: Split(
                marks,
                base.no_groups(len(marks)),
                partial(read, places, description, bool(self.image_size)),
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
            raise ConfigError(
                f"{self.data_set} needs another package: {error}; install it"
            ) from error
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise SourceMissingError(
                f"torchgeo does not find {self.data_set} in {self.root}: {one_line(error)}; "
                + (
                    "set download: true, or put the files there in torchgeo's layout"
                    if "download" in known
                    else "put the files there in torchgeo's layout"
                )
            ) from error
        except (TypeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"torchgeo's {self.data_set} can't be made with {dict(self.options)}: "
                f"{one_line(error)}; correct options"
            ) from error
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"torchgeo can't read {self.data_set} in {self.root}: {one_line(error)}; fetch it "
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
        looked = list(decoded(lambda row: pixels(part, row), rows))
        bands, height, width = looked[0].shape
        if not self.image_size and height != width:
            raise DataError(
                f"{self.data_set} has an image of {width} x {height} pixels; wanted square images: "
                "set image_size to resize them"
            )
        names = self.band_names or names_of_bands(part, bands)
        if len(names) != bands:
            raise DataError(
                f"{self.data_set} has {bands} bands, but band_names names {len(names)}; name each"
            )
        scale, value_range = self._unit(
            [raster(self.data_set, image, stored_kind(part, looked)) for image in looked]
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
        and bool(classed or issubclass(kind, image_folder()))
    )


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
