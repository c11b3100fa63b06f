"""``fedx predict``: a trained model on images or scenes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedx_core import strict_json
from flows import completion
from flows.commands import answers
from flows.commands.options import RunRoot

if TYPE_CHECKING:
    from fedx_core.predict import Predictor


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
        typer.Option(help="Write a .csv or .json file; with --tile, the folder of the maps."),
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
        bool, typer.Option("--json", help="One JSON object an image or scene on stdout.")
    ] = False,
) -> None:
    """Say what is in images, with the probability of each class, or map whole scenes.

    Images are as those of the training: bands, 8 or 16 bits, side in pixels. A scene becomes two
    GeoTIFFs that lie on it, a pixel a tile: NAME.classes.tif and NAME.probabilities.tif. Tiles with
    a pixel of nodata are left out. Bad files are listed at the end, with exit code 1.

        fedx predict base images/ --top 3
        fedx predict runs/base/model.safetensors images.zip --out labels.csv
        fedx predict base scene.tif --tile 64 --out maps
    """  # fmt: skip
    if tile is None and out is not None and out.suffix not in (".csv", ".json"):
        raise typer.BadParameter(f"--out {out} ends neither in .csv nor in .json")
    if tile is not None and out is None:
        raise typer.BadParameter("say with --out which folder the maps go to")
    from flows import predict as predicting

    predictor = predicting.predictor_of(model, Path(run_root), device, workers)
    least = predicting.check_threshold(predictor.card, threshold)
    if tile is not None and out is not None:
        _map(predictor, inputs, out, tile, least, as_json)
    else:
        _say(predictor, inputs, out, top, least, as_json)


def _say(
    predictor: "Predictor",
    inputs: list[Path],
    out: Path | None,
    top: int | None,
    threshold: float,
    as_json: bool,
) -> None:
    from fedx_core.errors import DataError
    from fedx_core.predict import pictures, predictions
    from flows import predict as predicting
    from flows.progress import shown

    found = pictures(inputs)
    width = max(len(picture.shown) for picture in found)
    all_of_them = []
    asked = predictions(predictor, found)
    if out is not None or not sys.stdout.isatty():
        # Where lines go by, they are the progress.
        asked = shown(asked, len(found), "predict")
    left_out: DataError | None = None
    try:
        for picture, probabilities in asked:
            # A table has the same columns in all rows.
            kept = None if out is not None and out.suffix == ".csv" else top
            answer = predicting.answer(
                picture.shown, probabilities, predictor.card, threshold=threshold, top=kept
            )
            if as_json:
                print(strict_json.dumps(answer), flush=True)
            elif out is None:
                print(predicting.line(answer, width, top), flush=True)
            if out is not None:
                all_of_them.append(answer)
    except DataError as error:  # once all others are done
        left_out = error
    if all_of_them and out is not None:
        answers.save(
            out,
            answers.as_csv([predicting.row(answer) for answer in all_of_them])
            if out.suffix == ".csv"
            else strict_json.dumps(all_of_them, indent=1) + "\n",
        )
        if not as_json:
            print(f"{out}: {len(all_of_them)} images")
    if left_out is not None:
        raise left_out


def _map(
    predictor: "Predictor",
    inputs: list[Path],
    out: Path,
    tile: int,
    threshold: float,
    as_json: bool,
) -> None:
    from dataclasses import asdict
    from functools import partial

    from fedx_core.errors import DataError
    from fedx_core.predict import left_out_of
    from fedx_core.scenes import map_scene
    from flows import predict as predicting
    from flows.progress import shown

    predicting.check_scenes(inputs)
    left_out: list[DataError] = []
    for source in inputs:
        try:
            found = map_scene(
                predictor, source, out, tile=tile, threshold=threshold,
                watch=partial(shown, what=source.name),
            )  # fmt: skip
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
