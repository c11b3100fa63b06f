"""Tables and lists of labels, as data sets come with them and as people write them."""

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pillow

from fedx_core.base.errors import DataError, SourceMissingError
from fedx_core.data.base import Source
from fedx_core.data.folder import DataSet

COUNT = 6


def images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names or [f"{n}.png" for n in range(COUNT)]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pillow.fromarray(pixels).save(folder / name)


def opened(folder: Path, text: str | bytes, **settings: Any) -> Source:
    folder.mkdir(exist_ok=True)
    if not any(folder.iterdir()):
        images(folder)
    table = folder / "labels.csv"
    table.write_bytes(text.encode() if isinstance(text, str) else text)
    return DataSet(source=str(folder), **{"labels": "labels.csv", **settings}).open()


def sizes(source: Source) -> dict[str, int]:
    return {name: len(split) for name, split in source.splits.items()}


def labels(source: Source) -> list[Any]:
    """Labels of all images in the splits' order."""
    return [label for split in source.splits.values() for label in split.labels.tolist()]


def rows(line: str, count: int = COUNT, **how: str) -> str:
    return "".join(line.format(n=n, label="ab"[n % 2]) for n in range(count))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_any_usual_delimiter_mark_and_line_ending_is_read(
    tmp_path: Path, delimiter: str, encoding: str, ending: str
) -> None:
    text = "file,label\n" + rows('"{n}.png",  "{label}"\n')
    text = text.replace(",", delimiter).replace("\n", ending)
    source = opened(tmp_path, text.encode(encoding))
    assert source.description.class_names == ("a", "b")


def test_columns_may_have_names_of_their_own(tmp_path: Path) -> None:
    text = "subset;Bild;Klasse;Land\n" + rows("train;{n}.png;{label};Polen\n")
    source = opened(
        tmp_path,
        text,
        file_column="Bild",
        label_column="Klasse",
        split_column="subset",
        group_column="Land",
    )
    assert source.description.class_names == ("a", "b")
    assert source.description.group_names == ("Polen",)
    assert source.notes["split"].startswith("column subset of labels.csv; validation (")


def test_a_column_that_is_set_and_not_there_is_named_with_the_delimiter(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"columns file, a; wanted a column 'Klasse', as label_c"):
        opened(tmp_path, "file,a\n0.png,b\n", label_column="Klasse")
    with pytest.raises(DataError, match=r"line 3: wanted 2 fields, got 1; .* by a semicolon"):
        opened(tmp_path, "file;label\n0.png;b\n1.png,c\n")


def test_val_and_other_spellings_of_splits_are_splits(tmp_path: Path) -> None:
    text = "file,label,split\n0.png,a,train\n1.png,b,Training\n2.png,a,val\n3.png,b,VALID\n"
    source = opened(tmp_path, text + "4.png,a, test\n5.png,b,testing\n")
    assert sizes(source) == {"train": 2, "validation": 2, "test": 2}


def test_a_split_that_a_table_lacks_is_drawn_from_train_and_said(tmp_path: Path) -> None:
    images(tmp_path, *(f"{n}.png" for n in range(40)))
    text = "file,label,split\n" + "".join(
        f"{n}.png,{'ab'[n % 2]},{'test' if n < 8 else 'train'}\n" for n in range(40)
    )
    source = opened(tmp_path, text)
    assert sizes(source) == {"train": 24, "validation": 8, "test": 8}
    assert np.bincount(source.splits["validation"].labels).tolist() == [4, 4]
    assert "validation (8 images) drawn from train" in source.notes["split"]


@pytest.mark.parametrize(
    "name", ["sub/{n}", "{n}", "{n}.png", "sub\\{n}.png", "../mine/sub/{n}.png"]
)
def test_names_may_lack_their_ending_or_their_folder(tmp_path: Path, name: str) -> None:
    images(tmp_path / "mine", *(f"sub/{n}.png" for n in range(COUNT)))
    source = opened(tmp_path / "mine", "file,label\n" + rows(name + ",{label}\n"))
    assert sorted(labels(source)) == [0, 0, 0, 1, 1, 1]


def test_a_name_that_two_images_have_is_refused_with_its_line(tmp_path: Path) -> None:
    images(tmp_path, "x/0.png", "y/0.png", "y/1.png")
    with pytest.raises(DataError, match=r"line 3: 0 may be x/0.png, y/0.png; write the path"):
        opened(tmp_path, "file,label\n1,a\n0,b\n")


@pytest.mark.parametrize(
    "again", ["./0.png", "sub//../0.png", "../mine/0.png", "0", "{place}/0.png"]
)
def test_a_file_that_is_named_twice_is_refused_however_it_is_written(
    tmp_path: Path, again: str
) -> None:
    again = again.format(place=tmp_path / "mine")
    with pytest.raises(DataError, match=r"line 3: names 0.png twice, once as .*; the first is"):
        opened(tmp_path / "mine", f"file,label\n0.png,a\n{again},b\n1.png,b\n")


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_file_that_is_named_again_by_a_link_is_refused(tmp_path: Path, link: str) -> None:
    images(tmp_path)
    getattr(tmp_path / "again.png", link)(tmp_path / "0.png")
    with pytest.raises(DataError, match=r"names 0.png twice, once as again.png"):
        opened(tmp_path, "file,label\n0.png,a\nagain.png,b\n1.png,b\n")


def test_a_name_that_leaves_the_source_is_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    images(tmp_path, "mine/0.png", "theirs/1.png")
    for name in ("../theirs/1.png", str(tmp_path / "theirs" / "1.png")):
        text = f"file,label\n0.png,a\n{name},b\n"
        with pytest.raises(DataError, match=rf"line 3: {name} lies outside .*set outside: true"):
            opened(tmp_path / "mine", text)
        assert sum(sizes(opened(tmp_path / "mine", text, outside=True)).values()) == 2


def test_absolute_paths_into_the_source_are_read_and_shown_as_they_are(tmp_path: Path) -> None:
    text = "file,label\n" + rows(f"{tmp_path}/{{n}}.png,{{label}}\n")
    assert sum(sizes(opened(tmp_path, text)).values()) == COUNT
    with pytest.raises(
        SourceMissingError, match=rf"not in {tmp_path}, {tmp_path}/absent.png first"
    ):
        opened(tmp_path, text + f"{tmp_path}/absent.png,a\n")
    with pytest.raises(DataError, match=f"^{tmp_path}/labels.csv has 0 rows"):
        opened(tmp_path, "file,label\n", labels=str(tmp_path / "labels.csv"))


@pytest.mark.parametrize("column", ["label", "group"])
@pytest.mark.parametrize("value", ["", "  ", "\u00a0", "NaN", "nan", "NA", "n/a", "null", "None"])
def test_a_name_that_is_missing_is_refused_with_its_line(
    tmp_path: Path, column: str, value: str
) -> None:
    row = {"label": "a", "group": "Spain", column: value}
    text = f"file,label,group\n0.png,b,Italy\n\n1.png,{row['label']},{row['group']}\n"
    with pytest.raises(DataError, match=rf"labels.csv, line 4: {column} is "):
        opened(tmp_path, text)


def test_twins_by_white_space_or_composition_are_one_name_and_said(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "Äcker")
    text = (
        f"file,label\n0.png,Äcker\n1.png,{apart}\n2.png, Äcker \n3.png,old  wood\n4.png,old wood\n"
    )
    source = opened(tmp_path, text)
    assert source.description.class_names == ("old wood", "Äcker")
    assert "line 3" in source.notes["joined"]
    assert "as Äcker" in source.notes["joined"]


def test_names_of_files_match_however_they_are_composed(tmp_path: Path) -> None:
    images(tmp_path, unicodedata.normalize("NFD", "Äcker.png"), "b.png")
    source = opened(tmp_path, f"file,label\n{unicodedata.normalize('NFC', 'Äcker.png')},a\nb,b\n")
    assert sum(sizes(source).values()) == 2


def test_uc_merceds_list_of_labels_goes_in_as_it_is(tmp_path: Path) -> None:
    # Chaudhuri et al. 2018: LandUse_Multilabeled.txt, parted by tabs, names without ending, beside
    # UC Merced's own folders.
    classes = ["airplane", "bare-soil", "buildings"]
    names = [f"{kind}{n:02d}" for kind in ("agricultural", "airplane") for n in range(5)]
    images(tmp_path, *(f"Images/{name[:-2]}/{name}.tif" for name in names))
    lines = ["IMAGE\\LABEL\t" + "\t".join(classes)]
    lines += [f"{name}\t{int('plane' in name)}\t1\t0" for name in names]
    (tmp_path / "LandUse_Multilabeled.txt").write_text("\r\n".join(lines) + "\r\n")
    source = DataSet(source=str(tmp_path), labels="LandUse_Multilabeled.txt").open()
    assert source.description.class_names == tuple(classes)
    assert source.description.label_kind == "multi"
    assert sorted(labels(source)) == [[0, 1, 0]] * 5 + [[1, 1, 0]] * 5


def test_lists_of_names_one_a_split_go_in_as_they_are(tmp_path: Path) -> None:
    names = [f"{kind}{n:02d}.tif" for kind in ("beach", "forest") for n in range(6)]
    images(tmp_path, *(f"{name[:-6]}/{name}" for name in names))
    for place, split in enumerate(("train", "val", "test")):
        (tmp_path / f"uc_merced-{split}.txt").write_text("\n".join(names[place::3]) + "\n")
    source = DataSet(source=str(tmp_path), labels="uc_merced-*.txt").open()
    assert sizes(source) == {"train": 4, "validation": 4, "test": 4}
    assert source.description.class_names == ("beach", "forest")
    assert source.notes["split"].startswith("lists uc_merced-test.txt")
    with pytest.raises(SourceMissingError, match=r"no lists nothing-.*for the star"):
        DataSet(source=str(tmp_path), labels="nothing-*.txt").open()


@pytest.mark.parametrize("line", ["{label} {n}.png\n", "{n}.png {label}\n", "{n}.png,{label}\n"])
def test_lists_without_a_head_are_read_by_what_is_in_them(tmp_path: Path, line: str) -> None:
    source = opened(tmp_path, rows(line))
    assert source.description.class_names == ("a", "b")
    assert sum(sizes(source).values()) == COUNT


def test_a_list_of_names_that_hold_blanks_takes_folders_for_classes(tmp_path: Path) -> None:
    names = [f"{kind}/my image {n}.png" for kind in ("sea", "town") for n in range(5)]
    images(tmp_path, *names)
    source = opened(tmp_path, "\n".join(names))
    assert source.description.class_names == ("sea", "town")


def test_numbers_for_labels_are_ordered_as_numbers(tmp_path: Path) -> None:
    source = opened(tmp_path, "".join(f"{n} {2 * n + 1}\n" for n in range(COUNT)))
    assert source.description.class_names == ("1", "3", "5", "7", "9", "11")


def test_labels_in_one_field_are_parted_by_a_separator(tmp_path: Path) -> None:
    text = "image_name,tags\n0,haze primary\n1,primary\n2,haze\n3,\n4,road primary\n5,haze\n"
    source = opened(tmp_path, text, label_column="tags", label_separator=" ")
    assert source.description.class_names == ("haze", "primary", "road")
    assert [0, 0, 0] in labels(source)
    assert [0, 1, 1] in labels(source)


def test_images_and_columns_that_are_not_used_are_counted(tmp_path: Path) -> None:
    source = opened(tmp_path, "file,label,note\n0.png,a,x\n1.png,b,y\n")
    assert source.notes["not listed"] == "images 4"
    assert source.notes["not used"] == "columns note"
