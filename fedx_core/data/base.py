"""What a data set is: a description, and labels, groups and images of three splits.

A data set is a file ``data/<name>.py`` with a frozen dataclass ``DataSet`` whose fields are its
parameters in ``params.yaml``. Its ``open()`` looks at what there is and returns a :class:`Source`;
no image is decoded before it is asked for.
"""

import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedx_core.base import cores
from fedx_core.base.errors import ConfigError, DataError, SourceMissingError
from fedx_core.base.seeding import derive
from fedx_core.images import strata
from fedx_core.images.examples import Description, Image, ImageStream

SPLITS = ("train", "validation", "test")
UNLABELLED = "unlabelled"
"""The one class of images without labels."""
NO_LABELS = "none"
"""What ``labels`` says for those."""
SHARES = (0.6, 0.2, 0.2)
"""Of the splits, where a data set has none of its own."""

_BLOCK = 32
"""Images that a thread reads in one go, at most."""

_BYTES = 256 << 20
"""Images that were read and wait, at most; four of them where one is larger."""

Item = TypeVar("Item")
Found = TypeVar("Found")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Split:
    """One of a source's splits; images are read by position.

    Args:
        labels: int64 (n,), uint8 (n, classes), or uint8 (n, height, width) of maps of classes.
        groups: int16 (n,) index into the description's ``group_names``.
        read: positions in, images out, in the same order.
        names: of the images' files; empty where they have none.
    """

    labels: NDArray[np.integer]
    groups: NDArray[np.int16]
    read: Callable[[NDArray[np.int64]], Iterator[Image]]
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """A data set that was found and can be read.

    Args:
        description: of the data.
        splits: ``train``, ``validation`` and ``test``.
        notes: plain values for the manifest, such as where the splits come from.
    """

    description: Description
    splits: Mapping[str, Split]
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSet(ABC):
    """Parameters that every data set has.

    Args:
        limit: images in all splits together; 0 takes all. Drawn by class and origin, and each
            split keeps its share.
        seed: of the draws of ``limit`` and of splits. It is not the experiment's seed, so that
            repeats of an experiment are tested on the same images.
        labels: ``none`` takes images without their labels, for objectives that need none; empty
            takes them with labels.
    """

    tables: ClassVar[bool] = False
    """Whether ``labels`` may name a table."""

    limit: int = 0
    seed: int = 0
    labels: str = ""

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ConfigError(f"limit must be 0 (all images) or more, got {self.limit}")
        if self.labels not in ("", NO_LABELS) and not self.tables:
            raise ConfigError(
                f"labels must be none or empty, got {self.labels!r}; a table of labels is for the "
                "source folder"
            )

    def found(self) -> Source:
        """Do what :meth:`open` does, and leave labels out where ``labels`` says so.

        Raises:
            SourceMissingError: the data is not there.
            DataError: it can't be used.
        """
        source = self.open()
        return unlabelled(source) if self.labels == NO_LABELS else source

    @abstractmethod
    def open(self) -> Source:
        """Look for the data and read its labels.

        Raises:
            SourceMissingError: the data is not there.
            DataError: it can't be used.
        """

    def streams(self, source: Source) -> dict[str, ImageStream]:
        """Give each split's examples as they are to be prepared, with ``limit`` applied."""
        sizes = [len(source.splits[name]) for name in SPLITS]
        for name, size in zip(SPLITS, sizes, strict=True):
            if not size:
                raise DataError(
                    f"the {name} split of {source.description.name} has no images; wanted some in "
                    f"each of {', '.join(SPLITS)}"
                )
        kept = strata.apportion(min(self.limit or sum(sizes), sum(sizes)), sizes)
        streams = {}
        for name, count in zip(SPLITS, kept, strict=True):
            split = source.splits[name]
            chosen = strata.thin(
                strata.strata(strata.borne(split.labels, len(source.description.class_names))),
                split.groups,
                int(count),
                derive(self.seed, "limit", name),
            )
            streams[name] = ImageStream(
                split.read(chosen),
                split.labels[chosen],
                split.groups[chosen],
                [split.names[position] for position in chosen] if len(split.names) else (),
            )
        return streams


def unlabelled(source: Source) -> Source:
    """Leave the labels of a data set out: all its images are of one class."""
    return replace(
        source,
        description=replace(source.description, class_names=(UNLABELLED,), label_kind="single"),
        splits={
            name: replace(split, labels=np.zeros(len(split), np.int64))
            for name, split in source.splits.items()
        },
    )


def random_splits(labels: NDArray[np.integer], seed: int) -> dict[str, NDArray[np.int64]]:
    """Part examples 60/20/20 into the three splits, class by class; sorted positions."""
    parts = strata.split(strata.strata(labels), SHARES, derive(seed, "split"))
    return dict(zip(SPLITS, parts, strict=True))


def given_splits(
    splits: Sequence[str], labels: NDArray[np.integer], seed: int
) -> tuple[dict[str, NDArray[np.int64]], str]:
    """Part examples into the splits that were given; one that nobody gave is drawn from train.

    Args:
        splits: of each example, one of ``SPLITS``.
        labels: int64 (n,), or uint8 (n, classes).
        seed: of the draw.

    Returns:
        Sorted positions by split, and a sentence on what was drawn; empty if nothing was.
    """
    every = np.array(splits)
    rows = {name: np.flatnonzero(every == name) for name in SPLITS}
    absent = [name for name in SPLITS[1:] if not len(rows[name])]
    if not absent:
        return rows, ""
    train = rows["train"]
    taking = ("train", *absent)
    weights = [SHARES[SPLITS.index(name)] for name in taking]
    parts = strata.split(strata.strata(labels[train]), weights, derive(seed, "split"))
    for name, part in zip(taking, parts, strict=True):
        rows[name] = train[part]
    drawn = " and ".join(f"{name} ({len(rows[name])} images)" for name in absent)
    return rows, f"{drawn} drawn from train, class by class, since there was none"


def no_groups(count: int) -> NDArray[np.int16]:
    """Give the groups of examples whose origin is unknown."""
    return np.zeros(count, dtype=np.int16)


def decoded(read: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Read images on all cores that this process may use, in order.

    Those that wait to be taken are bounded in number and, by the first one's size, in bytes.
    """
    if not len(items):
        return
    # Rasterio's; patches without a position on the map are as good as any. For good: filters belong
    # to all threads, and putting them back while others read, or after whoever takes the images has
    # set some, would undo theirs.
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")
    # Pillow's; our own limit is lower, and an error.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    first = read(items[0])
    yield first
    # Twice as many blocks as threads wait or are read, one is being taken, one follows.
    most = max(_BYTES // max(getattr(first, "nbytes", 1), 1), 1)
    threads = max(min(cores.allowed(), most // 4), 1)
    block = max(min(_BLOCK, most // (2 * threads + 2)), 1)
    waiting: deque[Future[list[Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(1, len(items), block):
            waiting.append(pool.submit(_all, read, items[start : start + block]))
            # The others are read while these are written.
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def resized(image: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Bring an image to ``side`` x ``side`` pixels, bilinear; shrinking averages.

    Returns:
        float32 (bands, side, side); values may lie between whole numbers.
    """
    import torch

    pixels = torch.from_numpy(image.astype(np.float32))[None]
    pixels = torch.nn.functional.interpolate(
        pixels, size=(side, side), mode="bilinear", antialias=True
    )
    return np.asarray(pixels[0].numpy())


def _all(read: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [read(item) for item in items]


def found(what: str, candidates: Iterable[Path], advice: str) -> Path:
    """Return the first of some paths that exists.

    Raises:
        SourceMissingError: none does; says which were looked at, and the advice.
    """
    looked = list(candidates)
    for path in looked:
        if path.exists():
            return path
    raise SourceMissingError(f"no {what} at {' or '.join(str(path) for path in looked)}; {advice}")


def shared_data() -> Path:
    """Return the folder of data that several projects use: FEDX_SHARED_DATA or ../shared/data."""
    return Path(os.environ.get("FEDX_SHARED_DATA") or "../shared/data")
