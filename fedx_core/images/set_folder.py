"""A set of examples as a folder: three arrays for each part and a manifest.

    <part>.images.npy    uint8 or uint16 (n, bands, height, width)
    <part>.labels.npy    int64 (n,), uint8 (n, classes) or uint8 (n, height, width)
    <part>.groups.npy    int16 (n,)
    manifest.json        description, sizes, settings and the SHA-256 of every array

Equal content gives equal bytes. Arrays are opened memory-mapped, so a set may exceed the memory.
"""

import dataclasses
import errno
import hashlib
import io
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.base import strict_json, swaps, unfinished
from fedx_core.base.errors import DataError, StoreError
from fedx_core.base.frozen_json import parse
from fedx_core.images import label_values, set_manifest
from fedx_core.images.examples import Description, Examples, Image, ImageStream
from fedx_core.images.set_manifest import FORMAT, MANIFEST


@dataclass(frozen=True)
class Prepared:
    """A set as read from disk.

    Args:
        description: of the data.
        parts: by name, such as ``train``; images are memory-mapped.
        manifest: the whole manifest, as plain values.
        digest: as :func:`digest` names the set.
    """

    description: Description
    parts: Mapping[str, Examples]
    manifest: Mapping[str, Any]
    digest: str


# Writing


def write(
    folder: Path,
    description: Description,
    parts: Mapping[str, Examples | ImageStream],
    settings: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
) -> None:
    """Write a set: all of it, or nothing where something fails.

    Args:
        folder: to make; a set that is there already is replaced.
        description: of the data; its scale decides the pixels' dtype.
        parts: by name.
        settings: plain values to keep in the manifest: what this set was made from and how; or
            what gives them once all images are written.

    Raises:
        DataError: images or labels don't fit the description.
        StoreError: the disk is full or the folder can't be written.
    """
    _check_space(folder, description, parts)
    with replacing(folder) as beside:
        files: dict[str, str] = {}
        for part, examples in parts.items():
            files |= _write_part(beside, part, description, examples)
        write_manifest(
            beside,
            {
                "description": _plain(description),
                "parts": {part: len(examples) for part, examples in parts.items()},
                "files": files,
                "settings": settings() if callable(settings) else settings,
            },
        )


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes the place of ``folder`` once the block has succeeded.

    Several may do so at once: each fills a folder of its own, and the last one's stays. Whoever
    reads meanwhile sees one of them, whole.

    Raises:
        StoreError: the disk is full, the folder can't be written, or ``folder`` holds something
            else than a set.
    """
    folder = Path(folder)
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise StoreError(
                f"{folder} holds files but no {MANIFEST}, so it is no set of examples and is left "
                "as it is; move it away or choose another folder"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.folder_beside(folder) as beside:
            yield beside
            swaps.put(beside, folder)
    except StoreError:
        raise
    except OSError as error:
        # What came in from outside (a missing image) keeps its own words.
        if isinstance(error, DataError):
            raise
        if error.errno == errno.ENOSPC:
            raise StoreError(
                f"the disk is full while writing {folder}; free some space or set the data set's "
                "limit"
            ) from error
        raise StoreError(
            f"can't write {folder}: {error}; check that the folder above exists and may be "
            "written, or choose another data root"
        ) from error


def write_manifest(folder: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as a folder's manifest; equal values give equal bytes."""
    text = strict_json.dumps(
        {"format": FORMAT, **values}, sort_keys=True, indent=1, ensure_ascii=False
    )
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _write_part(
    folder: Path, part: str, description: Description, examples: Examples | ImageStream
) -> dict[str, str]:
    """Write a part's three arrays; return the SHA-256 of each file."""
    _check_labels(part, description, examples)
    size = len(examples)
    dtype, shape = description.pixel_dtype, (size, *description.image_shape)
    images = _checked(part, size, dtype, description.image_shape, examples.images)
    label_dtype = np.dtype("<i8" if description.label_kind == "single" else "|u1")
    labels = examples.labels
    return {
        name: _write_array(folder / name, dtype, shape, blocks)
        for name, dtype, shape, blocks in (
            (f"{part}.images.npy", dtype, shape, images),
            (f"{part}.labels.npy", label_dtype, labels.shape, [labels]),
            (f"{part}.groups.npy", np.dtype("<i2"), (size,), [examples.groups]),
        )
    }


def _write_array(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[NDArray[np.integer]]
) -> str:
    """Write an array block by block; return the SHA-256 of the file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape},
    )
    hasher = hashlib.sha256(header.getvalue())
    # Plain writes, not a writable memory map: a full disk then is an error and not a SIGBUS.
    with path.open("wb", buffering=1 << 20) as file:
        file.write(header.getvalue())
        for block in blocks:
            payload = np.ascontiguousarray(block, dtype=dtype).reshape(-1).view(np.uint8).data
            file.write(payload)
            hasher.update(payload)
    return hasher.hexdigest()


def _checked(
    part: str, size: int, dtype: np.dtype[Any], shape: tuple[int, ...], images: Iterable[Image]
) -> Iterator[Image]:
    """Pass images on while they have the number, the shape and the dtype that were promised."""
    count = 0
    for image in images:
        if image.shape != shape or image.dtype != dtype:
            raise DataError(
                f"image {count} of {part!r} is {image.dtype} {image.shape}, wanted {dtype} {shape} "
                "(bands, height, width) as the data set's description says"
            )
        count += 1
        yield image
    if count != size:
        raise DataError(
            f"{part!r} has {size} labels but {count} images; wanted one label for each image"
        )


def _check_space(
    folder: Path, description: Description, parts: Mapping[str, Examples | ImageStream]
) -> None:
    image_bytes = math.prod(description.image_shape) * description.pixel_dtype.itemsize
    if description.label_kind == "pixels":
        image_bytes += description.image_size**2
    needed = image_bytes * sum(len(examples) for examples in parts.values())
    place = Path(folder).absolute()
    free = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free
    if needed > free:
        raise StoreError(
            f"{folder} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; free some "
            "space or set the data set's limit"
        )


def _check_labels(part: str, description: Description, examples: Examples | ImageStream) -> None:
    labels, groups = examples.labels, examples.groups
    classes = len(description.class_names)
    fits, wanted = label_values.fit(labels, description.label_kind, classes, description.image_size)
    if not fits:
        raise DataError(
            f"labels of {part!r} don't fit {description.name!r}: wanted {wanted}, got shape "
            f"{labels.shape} with values up to {labels.max(initial=0)}"
        )
    names = max(len(description.group_names), 1)
    if groups.shape != (len(labels),) or not label_values.below(groups, names):
        raise DataError(
            f"groups of {part!r} don't fit {description.name!r}: wanted an index below {names} for "
            f"each of {len(labels)} images, got shape {groups.shape} with values up to "
            f"{groups.max(initial=0)}"
        )


# Reading


def read(folder: Path, *parts: str) -> Prepared:
    """Open a set without reading its pixels.

    Args:
        folder: of the set.
        parts: that are wanted; files of others need not be there. None named takes all.

    Raises:
        DataError: there is no set, or its arrays don't fit its manifest.
        VersionError: another version of FedX wrote it.
    """
    return _opened(Path(folder), parts or None)


def read_part(folder: Path, part: str) -> Examples:
    """Open one part of a set, the others left alone; else as :func:`read`.

    Raises:
        DataError: there is no set or part, or its arrays don't fit its manifest.
        VersionError: another version of FedX wrote it.
    """
    return _opened(Path(folder), (part,)).parts[part]


def _opened(folder: Path, wanted: Sequence[str] | None) -> Prepared:
    return swaps.steadily(folder, lambda: _opened_now(folder, wanted))


def _opened_now(folder: Path, wanted: Sequence[str] | None) -> Prepared:
    manifest, name = set_manifest.read(folder)
    try:
        description = parse(Description, manifest["description"])
        sizes = manifest["parts"]
        parts = {
            part: _open_part(folder, part, sizes[part], description)
            for part in (sizes if wanted is None else wanted)
        }
    except (KeyError, TypeError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the set in {folder} is damaged ({error}); prepare it again with dvc repro --force"
        ) from error
    return Prepared(description, parts, manifest, name)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a manifest as plain values.

    Raises:
        DataError: there is none, it is not JSON with one meaning, or it names what can't be.
        VersionError: another version of FedX wrote it.
    """
    return swaps.steadily(Path(folder), lambda: set_manifest.read(Path(folder)))[0]


def verify(folder: Path) -> None:
    """Hash all arrays again and compare with the manifest.

    Raises:
        DataError: files are missing or differ; names them.
    """
    folder = Path(folder)
    changed = swaps.steadily(folder, lambda: _changed(folder))
    if changed:
        raise DataError(
            f"{', '.join(changed)} in {folder} differ from what was written; prepare the set again "
            "with dvc repro --force"
        )


def _changed(folder: Path) -> list[str]:
    changed = []
    for name, wanted in set_manifest.read(folder)[0].get("files", {}).items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            found = "missing"
        if found != wanted:
            changed.append(name)
    return changed


def digest(folder: Path) -> str:
    """Name a set by the SHA-256 of its manifest, which holds that of every array."""
    return swaps.steadily(Path(folder), lambda: set_manifest.read(Path(folder)))[1]


def _plain(description: Description) -> dict[str, Any]:
    """Give plain values; sets without a value range keep the bytes that they always had."""
    values = dataclasses.asdict(description)
    if not description.value_range:
        del values["value_range"]
    return values


def _open_part(folder: Path, part: str, size: int, description: Description) -> Examples:
    mapped = ("images", "labels") if description.label_kind == "pixels" else ("images",)
    images, labels, groups = (
        _array(folder / f"{part}.{kind}.npy", mapped=kind in mapped)
        for kind in ("images", "labels", "groups")
    )
    found, wanted = (
        (images.dtype, images.shape),
        (
            description.pixel_dtype,
            (size, *description.image_shape),
        ),
    )
    if found != wanted or len(labels) != size:
        raise DataError(
            f"{part}.images.npy in {folder} is {found[0]} {found[1]} with {len(labels)} labels, "
            f"wanted {wanted[0]} {wanted[1]}; prepare the set again with dvc repro --force"
        )
    examples = Examples(images, labels, groups)
    _check_labels(part, description, examples)
    return examples


def _array(path: Path, *, mapped: bool) -> NDArray[Any]:
    """Do what ``numpy.load`` does, which reads each array's header as Python source.

    Raises:
        ValueError, TypeError: it is no such file, or values are missing.
    """
    with path.open("rb") as file:
        start = file.read(10)
        start += file.read(int.from_bytes(start[8:], "little"))
        shape, dtype = _header(start)
        if not mapped or 0 in shape:  # which can't be mapped
            return np.ndarray(shape, dtype, bytearray(file.read()))
    return np.memmap(path, dtype, "r", len(start), shape)


@lru_cache(maxsize=4096)
def _header(data: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read what ``numpy.save`` says of an array; many arrays have the same, and it is Python."""
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of another version of numpy's format than 1.0")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if by_columns or dtype.hasobject:
        raise ValueError(f"an array of {dtype}, wanted numbers in rows")
    return shape, dtype
