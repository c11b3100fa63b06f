"""Heat maps: where in an image the model sees its label, before and after pruning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedx_core.base import plugins
from fedx_core.base.errors import FedXError, RunError
from fedx_core.base.state import StateDict
from fedx_core.clients.plan import Plan
from fedx_core.images import set_folder
from fedx_core.images.examples import Description, Examples
from fedx_core.predict import model_file
from fedx_core.predict.heat_maps import HeatMaps, heat_maps, pruned
from flows.report.gather import Run
from flows.report.parts import Column, Drawing, Section, Table, slug

if TYPE_CHECKING:
    from flows.figures.pictures import Picture

TEXT = (
    "Layer-wise relevance propagation (LRP) follows the score of an image's label back to its "
    "pixels. Images are from the server's reference set, spread over its classes. Where an image "
    "has several labels, the one that the last model is surest of is explained."
)
READING = (
    "Red pixels speak for the label, blue ones against it; one row has one scale. p is the model's "
    "probability of the label. Relevance should add up to the label's logit: what is missing went "
    "into biases."
)


def section(runs: Sequence[Run], count: int) -> Section:
    """Write the section with heat maps.

    Args:
        runs: whose final models are explained, and those before and after pruning events.
        count: images per run; 0 leaves the section out.
    """
    drawings, rows, missing = [], [], []
    if not count:
        missing.append("Left out, as --heat-maps 0 asks.")
    for run in runs if count else ():
        try:
            plan, models = _models(run)
            images, description = _images(run, count)
            found = heat_maps(plan, list(models.values()), images.images, images.labels)
        except FedXError as error:
            missing.append(f"{run.name} has no heat maps: {error}")
            continue
        drawings.append(_drawing(run, list(models), images, description, found))
        for model, maps in zip(models, found, strict=True):
            for image, (index, label) in enumerate(zip(maps.classes, maps.logits, strict=True)):
                rows.append(
                    [
                        run.name,
                        model.replace("\n", " "),
                        image + 1,
                        description.class_names[index],
                        float(maps.probabilities[image]),
                        float(label),
                        float(maps.sums[image]),
                    ]
                )
    table = Table(
        name="heat-maps",
        title="Sums of heat maps against the logits that they explain",
        columns=[
            Column("run"), Column("model"), Column("image", "d"), Column("label"),
            Column("probability", ".3f"), Column("logit", ".3f"), Column("sum", ".3f"),
        ],
        rows=rows,
    )  # fmt: skip
    return Section("heat-maps", "Heat maps", TEXT, drawings, [table] if rows else (), missing)


def _models(run: Run) -> tuple[Plan, dict[str, StateDict]]:
    """Return the models to explain by what they are called, in order of time, the last one last.

    Raises:
        FedXError: there is no model, or its file does not say how to build it.
    """
    settings = run.record.settings
    if plugins.load("methods", settings.method.name).personal:
        raise RunError(f"{settings.method.name} has no model that clients share")
    if not run.record.folder.model.exists():
        raise RunError(
            f"there is no {run.record.folder.model} yet; it comes with the last round "
            f"(`fedx resume {run.name}`)"
        )
    final, card = model_file.read(run.record.folder.model)
    plan = Plan(
        model=card.model,
        bands=len(card.bands),
        classes=len(card.class_names),
        label_kind=card.label_kind,
        pixels=card.pixels,
        training=settings.training,
        method=settings.method,
        codec=settings.codec.down,
    )
    models: dict[str, StateDict] = {}
    for event in run.events:
        after = f"(round {event.round_index})"
        models[f"before pruning\n{after}"] = event.before
        models[f"right after\n{after}"] = pruned(plan, event.before, event.mask)
    models[f"final\n(round {card.round_index})"] = final.state_dict()
    return plan, models


def _images(run: Run, count: int) -> tuple[Examples, Description]:
    """Return some images of the run's reference set.

    Raises:
        DataError: the data is not there, or is another data set by now.
    """
    prepared = set_folder.read(run.data / "reference")
    every = prepared.parts["reference"]
    chosen = _spread(every, count)
    picked = Examples(np.asarray(every.images[chosen]), every.labels[chosen], every.groups[chosen])
    return picked, prepared.description


def _spread(every: Examples, count: int) -> NDArray[np.int64]:
    """Choose positions evenly: over the classes, or where images have several over their order."""
    single = every.labels.ndim == 1
    order = np.argsort(every.labels, kind="stable") if single else np.arange(len(every))
    places = np.unique(np.linspace(0, len(order) - 1, count).round().astype(np.int64))
    return np.asarray(order[places])


def _drawing(
    run: Run,
    models: Sequence[str],
    images: Examples,
    description: Description,
    found: Sequence[HeatMaps],
) -> Drawing:
    from flows.figures import pictures

    stale = run.events and run.record.settings.training.batch_norm != "aggregate"
    rows: list[Picture] = []
    for index, image in enumerate(images.images):
        maps = [
            pictures.Map(one.maps[index], _caption(one, index))
            for one in found
        ]  # fmt: skip
        label = description.class_names[found[-1].classes[index]]
        rows.append(pictures.Picture(pictures.true_colours(image, description.bands), label, maps))
    labels = ", ".join(row.caption for row in rows)
    return Drawing(
        slug("heat-maps", run.name),
        pictures.heat_maps(models, rows),
        f"{len(rows)} reference images ({labels}), each beside the heat maps of {run.name}: "
        f"{'; '.join(model.replace(chr(10), ' ') for model in models)}.",
        f"{run.name}. {READING}{NOT_MEASURED if stale else ''}",
    )


NOT_MEASURED = (
    " Right after pruning, BatchNorm's statistics are those from before it; the run measured them "
    "anew."
)


def _caption(maps: HeatMaps, index: int) -> str:
    return (
        f"p = {maps.probabilities[index]:.2f}\n"
        f"sum {maps.sums[index]:.2f} of logit {maps.logits[index]:.2f}"
    )
