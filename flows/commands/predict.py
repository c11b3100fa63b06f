"""``fedx predict``: a trained model on images or scenes."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fedx_core.base import strict_json
from flows.commands import answers
from flows.commands.options import RunRoot
from flows.settings import completion

if TYPE_CHECKING:
    from fedx_core.predict.images import Picture, Predictor
    from fedx_core.predict.pixel_scenes import PixelMap
    from fedx_core.predict.scenes import SceneMap


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Name of a run, whose final model is taken, or a .safetensors file of FedX.",
            autocompletion=completion.runs,
        ),
    ],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT", help="GeoTIFF, JPEG or PNG files, or folders or zips of them."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a .csv or .json file; with --tile, the folder of the maps; for classes of "
            "pixels, that of the masks."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Show the K most probable classes.", metavar="K")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="P",
            help="Probability from which a label is said, where images have several; 0.5 if not "
            "given.",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=8,
            metavar="SIDE",
            help="Inputs are scenes: cut them into tiles of SIDE pixels, best those of the "
            "training, and map them.",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes a GPU if there is one.")
    ] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads on a CPU; its cores if not given.")
    ] = None,
    run_root: RunRoot = "runs",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per image or scene on stdout.")
    ] = False,
) -> None:
    """Classify images, with the probability of each class, or map whole scenes.

    Images are as those of the training: bands, 8 or 16 bits, side in pixels. A scene becomes two
    GeoTIFFs that lie on it, a pixel a tile: NAME.classes.tif and NAME.probabilities.tif. Tiles with
    a pixel of nodata are left out. Bad files are listed at the end, with exit code 1.

    A model of classes of pixels says the share of each class in an image, and --out is a folder of
    masks with shares.csv. Its maps have the scene's own pixels: the class, and how probable it is.

        fedx predict base images/ --top 3
        fedx predict runs/base/model.safetensors images.zip --out labels.csv
        fedx predict base scene.tif --tile 64 --out maps
    """  # fmt: skip
    if tile is not None and out is None:
        raise typer.BadParameter("say with --out which folder the maps go to")
    from functools import partial

    from fedx_core.predict.pixel_scenes import map_pixels
    from fedx_core.predict.scenes import map_scene
    from flows.runs import predict as predicting

    predictor = predicting.predictor_of(model, Path(run_root), device, workers)
    of_pixels = predictor.card.label_kind == "pixels"
    is_table = out is not None and out.suffix in (".csv", ".json")
    if tile is None and out is not None and is_table == of_pixels:
        raise typer.BadParameter(
            f"--out {out} is to be the folder of the masks, and of their table shares.csv"
            if of_pixels
            else f"--out {out} ends neither in .csv nor in .json"
        )
    if of_pixels:
        predicting.check_pixels(threshold, top)
    least = predicting.check_threshold(predictor.card, threshold)
    if tile is not None and out is not None:
        one = (
            partial(map_pixels, predictor, tile=tile)
            if of_pixels
            else partial(map_scene, predictor, tile=tile, threshold=least)
        )
        _map(one, inputs, out, as_json)
    elif of_pixels:
        _draw(predictor, inputs, out, as_json)
    else:
        _name(predictor, inputs, out, top, least, as_json)


def _name(
    predictor: "Predictor",
    inputs: list[Path],
    out: Path | None,
    top: int | None,
    threshold: float,
    as_json: bool,
) -> None:
    """Say what is in images."""
    from fedx_core.predict.images import pictures, predictions
    from flows.runs import predict as predicting

    # A table has the same columns in all rows.
    kept = None if out is not None and out.suffix == ".csv" else top
    found = pictures(inputs)
    answered = (
        predicting.answer(
            picture.shown, probabilities, predictor.card, threshold=threshold, top=kept
        )
        for picture, probabilities in predictions(predictor, found)
    )
    _say(found, answered, out, top, as_json)


def _draw(predictor: "Predictor", inputs: list[Path], out: Path | None, as_json: bool) -> None:
    """Say how much of images is of which class, and write their masks if there is a folder."""
    from fedx_core.predict import pixel_classes
    from fedx_core.predict.images import pictures
    from flows.runs import predict as predicting

    found = pictures(inputs)
    paths = {} if out is None else pixel_classes.mask_paths(found, out)

    def answered() -> Iterator[dict[str, Any]]:
        for picture, mask in pixel_classes.masks(predictor, found):
            if picture in paths:
                pixel_classes.write_mask(paths[picture], mask)
            shares = pixel_classes.shares(mask, predictor.card)
            yield predicting.pixel_answer(picture.shown, shares, predictor.card)

    _say(found, answered(), None if out is None else out / "shares.csv", None, as_json)


def _say(
    found: "Sequence[Picture]",
    answered: Iterable[dict[str, Any]],
    table: Path | None,
    top: int | None,
    as_json: bool,
) -> None:
    """Say answers about pictures, one by one or in a table."""
    from fedx_core.base.errors import DataError
    from flows.base.progress import shown
    from flows.runs import predict as predicting

    width = max(len(picture.shown) for picture in found)
    all_of_them = []
    if table is not None or not sys.stdout.isatty():
        # Where lines go by, they are the progress.
        answered = shown(answered, len(found), "predict")
    left_out: DataError | None = None
    try:
        for answer in answered:
            if as_json:
                print(strict_json.dumps(answer), flush=True)
            elif table is None:
                print(predicting.line(answer, width, top), flush=True)
            if table is not None:
                all_of_them.append(answer)
    except DataError as error:  # once all others are done
        left_out = error
    if all_of_them and table is not None:
        answers.save(
            table,
            answers.as_csv([predicting.row(answer) for answer in all_of_them])
            if table.suffix == ".csv"
            else strict_json.dumps(all_of_them, indent=1) + "\n",
        )
        if not as_json:
            print(f"{table}: {len(all_of_them)} images")
    if left_out is not None:
        raise left_out


def _map(
    map_one: "Callable[..., SceneMap | PixelMap]",
    inputs: list[Path],
    out: Path,
    as_json: bool,
) -> None:
    from dataclasses import asdict
    from functools import partial

    from fedx_core.base.errors import DataError
    from fedx_core.predict.images import left_out_of
    from flows.base.progress import shown
    from flows.runs import predict as predicting

    predicting.check_scenes(inputs)
    left_out: list[DataError] = []
    for source in inputs:
        try:
            found = map_one(source=source, out=out, watch=partial(shown, what=source.name))
        except DataError as error:
            left_out.append(error)
            continue
        if not found.georeferenced:
            print(f"warning: {source} does not say where it is, nor do its maps", file=sys.stderr)
        if as_json:
            print(
                strict_json.dumps({"scene": str(source), **asdict(found)}, default=str), flush=True
            )
        else:
            print(predicting.scene_line(source, found))
            print(f"{found.classes}\n{found.probabilities}", flush=True)
    if left_out:
        raise left_out_of(left_out, len(inputs), "scenes")
