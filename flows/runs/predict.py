"""``fedx predict``: which model is meant, and answers for people, tables and programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedx_core.base import cores, tensor_file
from fedx_core.base.errors import ConfigError, PayloadError, RunError
from fedx_core.learning.training import pick_device
from fedx_core.predict import model_file
from fedx_core.predict.images import Predictor
from fedx_core.predict.model_file import Card
from fedx_core.predict.pixel_scenes import PixelMap
from fedx_core.predict.scenes import SceneMap
from flows.runs import run_folder

Answer = dict[str, Any]


def predictor_of(model: str, run_root: Path, device: str, workers: int | None) -> Predictor:
    """Load a model.

    Args:
        model: name of a run, or path of a ``.safetensors`` file.
        run_root: folder of all runs.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: threads; None takes the machine's cores.

    Raises:
        RunError: there is no such run, or it has no final model yet.
        PayloadError: the file can't be used.
    """
    if model.endswith(".safetensors"):
        path = Path(model)
    elif Path(model).is_file():
        raise PayloadError(tensor_file.foreign(Path(model)))
    else:
        folder = run_folder.find(run_root, model)
        path = folder.model
        if not path.exists():
            raise RunError(
                f"run {model!r} has no final model yet; wait for its last round, or go on with "
                f"`fedx resume {model}`"
            )
    loaded, card = model_file.read(path)
    return Predictor(
        model=loaded, card=card, device=pick_device(device), workers=workers or cores.allowed()
    )


def check_pixels(threshold: float | None, top: int | None) -> None:
    """Refuse what makes no sense for a model that says a class for each pixel.

    Raises:
        ConfigError: says which option.
    """
    for option, value in (("--threshold", threshold), ("--top", top)):
        if value is not None:
            raise ConfigError(
                f"{option} is for models of labels of whole images; this one says the most "
                "probable class of each pixel. Leave it out; with --tile a map of the "
                "probabilities is written"
            )


def check_threshold(card: Card, threshold: float | None) -> float:
    """Return the probability from which a label is said.

    Raises:
        ConfigError: one was given, and the model says exactly one label per image.
    """
    if threshold is not None and card.label_kind == "single":
        raise ConfigError(
            "--threshold is for models that say several labels per image; this one says the most "
            "probable of its classes. Leave it out, or see probabilities with --top"
        )
    return 0.5 if threshold is None else threshold


def answer(
    image: str,
    probabilities: NDArray[np.float64],
    card: Card,
    *,
    threshold: float,
    top: int | None,
) -> Answer:
    """Say what is in one image.

    Args:
        image: its name.
        probabilities: of the card's classes, (classes,).
        card: of the model.
        threshold: from which a label is said, where there are several.
        top: keep only so many probabilities, the highest; None keeps all, in the card's order.

    Returns:
        ``image``, ``labels`` (the most probable first) and ``probabilities`` by class.
    """
    falling = [int(n) for n in np.argsort(-probabilities, kind="stable")]
    said = falling[:1] if card.label_kind == "single" else [
        n for n in falling if probabilities[n] >= threshold
    ]  # fmt: skip
    kept = range(len(falling)) if top is None else falling[:top]
    return {
        "image": image,
        "labels": [card.class_names[n] for n in said],
        "probabilities": {card.class_names[n]: float(probabilities[n]) for n in kept},
    }


def pixel_answer(image: str, shares: NDArray[np.float64], card: Card) -> Answer:
    """Say how much of an image is of which class.

    Args:
        image: its name.
        shares: of the card's classes, (classes,).
        card: of the model.

    Returns:
        ``image``, ``labels`` (classes that occur, that of most pixels first) and ``shares`` by
        class.
    """
    falling = [int(n) for n in np.argsort(-shares, kind="stable")]
    return {
        "image": image,
        "labels": [card.class_names[n] for n in falling if shares[n]],
        "shares": dict(zip(card.class_names, shares.tolist(), strict=True)),
    }


def _by_class(found: Answer) -> dict[str, float]:
    by_class: dict[str, float] = found["shares" if "shares" in found else "probabilities"]
    return by_class


def line(found: Answer, width: int, top: int | None) -> str:
    """Put an answer into a line.

    Args:
        found: of :func:`answer` or :func:`pixel_answer`.
        width: of the column of names.
        top: whether the highest probabilities are shown, or only the labels.
    """
    by_class = _by_class(found)
    names = found["labels"] if top is None else list(by_class)
    shown = (f"{name} {100 * by_class[name]:.1f} %" for name in names)
    return f"{found['image']:<{width}}  {', '.join(shown) or '-'}"


def row(found: Answer) -> dict[str, Any]:
    """Put an answer into a row of a table: image, label, and a column per class.

    A class of the name of another column is called ``NAME (class)``.
    """
    answered = {"image": found["image"], "label": ";".join(found["labels"])}
    by_class = _by_class(found)
    taken = {*answered, *by_class}
    for name, probability in by_class.items():
        title = name
        while title in answered or (title != name and title in taken):
            title = f"{title} (class)"
        answered[title] = probability
    return answered


def scene_line(source: Path, found: SceneMap | PixelMap) -> str:
    """Say what came of a scene."""
    count, what = (
        (found.tiles, "tiles") if isinstance(found, SceneMap) else (found.pixels, "pixels")
    )
    shares = sorted(found.counts.items(), key=lambda item: -item[1])
    said = ", ".join(f"{name} {100 * part / count:.1f} %" for name, part in shares)
    left = f", {found.left_out} left out for nodata" if found.left_out else ""
    return f"{source}: {count} {what}{left}; {said or 'nothing said'}"


def check_scenes(sources: Sequence[Path]) -> None:
    """Refuse scenes whose maps would have the same name.

    Raises:
        ConfigError: two have the same name apart from folder and ending.
    """
    stems = [source.stem for source in sources]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ConfigError(
            f"several scenes are called {twice[0]}, and so would be their maps; map them one after "
            "another, each with --out of its own"
        )
