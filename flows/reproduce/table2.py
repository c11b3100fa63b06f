"""Table II: operations of an explanation and of a mask, the paper's beside ours."""

import dataclasses
from collections.abc import Sequence

from fedx_core.base import strict_json
from fedx_core.paper import table2
from fedx_core.paper.table2 import Row
from flows.report.parts import Column, Table

COUNT = ".2e"


def rows(models: Sequence[str] = tuple(table2.PRINTED)) -> list[Row]:
    """Count all models, in the paper's order; ViT takes some seconds."""
    return [table2.row(model) for model in models]


def show(found: Sequence[Row], as_json: bool = False) -> str:
    """Write the table with the paper's numbers beside ours.

    Args:
        found: see :func:`rows`.
        as_json: for machines.

    Returns:
        Text to print.
    """
    equal = sum(row.same_mask for row in found)
    if as_json:
        plain = [
            {**dataclasses.asdict(r), "images": r.images, "same_mask": r.same_mask} for r in found
        ]
        return strict_json.dumps({"rows": plain, "equal_masks": equal, "masks": len(found)})
    low, high = (round(pick(row.images for row in found)) for pick in (min, max))
    return "\n".join(
        [
            "FedX, Table II: FLOPs of relevance estimation and of applying the mask",
            "(ours: one image, two FLOPs a multiply-add, mean of both data sets; mask: three",
            "operations a prunable parameter; see fedx_core/paper/table2.py)",
            "",
            table(found).as_text(),
            "",
            f"{equal} of {len(found)} masks are equal to the printed digits. Relevance can't be",
            "checked: the paper gives neither its reference set nor what it counts. Its numbers",
            f"are worth {low:,} to {high:,} of our explanations, by model.",
        ]
    )


def table(found: Sequence[Row]) -> Table:
    """Put rows into a table for files."""
    return Table(
        name="table2",
        title="FLOPs of relevance estimation and of applying the mask",
        columns=[
            Column("model"), Column("BigEarthNet image", COUNT), Column("EuroSAT image", COUNT),
            Column("mean image", COUNT), Column("paper, relevance", COUNT),
            Column("images of ours", ",.0f"), Column("mask", COUNT), Column("paper, mask", COUNT),
            Column("equal"),
        ],
        rows=[
            [r.model, r.relevance["bigearthnet"], r.relevance["eurosat"], r.mean_relevance,
             r.printed_relevance, r.images, r.mask, r.printed_mask, "yes" if r.same_mask else "no"]
            for r in found
        ],
    )  # fmt: skip
