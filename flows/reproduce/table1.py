"""Table I: the paper's savings beside ours."""

import dataclasses

from fedx_core.base import strict_json
from fedx_core.paper import table1
from flows.report.parts import Cell, Column, Table


def show(as_json: bool = False) -> str:
    """Write Table I: for each model the paper's line, ours, and how many savings agree.

    Args:
        as_json: for machines.

    Returns:
        Text to print.
    """
    rows = [table1.row(model) for model in table1.PRINTED]
    explained = [row for row in rows if row.model != table1.UNEXPLAINED]
    equal, cells = sum(r.equal_cells for r in explained), 9 * len(explained)
    if as_json:
        plain = [{**dataclasses.asdict(r), "equal_cells": r.equal_cells} for r in rows]
        return strict_json.dumps({"rows": plain, "equal_cells": equal, "cells": cells})
    head = "".join(f"{round(100 * rate):>7}" for rate in table1.RATES)
    lines = [
        "FedX, Table I: size of one transfer, unpruned total and savings at a pruning rate in %",
        "(MiB; 10 bands, 19 classes, 8 clients, 20 rounds, 10 of them pruned, both directions)",
        "",
        f"{'model':<22}{'':<7}{'size':>8}{'total':>8}{head}",
    ]
    for row in rows:
        printed = "".join(f"{value:>7}" for value in row.printed_saved)
        ours = "".join(f"{int(value):>7}" for value in row.saved)
        lines += [
            f"{row.model:<22}{'paper':<7}{row.printed_size:>8}{row.printed_total:>8}{printed}",
            f"{'':<22}{'ours':<7}{row.size:>8.2f}{row.total:>8.0f}{ours}   "
            f"{row.equal_cells} of 9 equal",
        ]
    lines += [
        "",
        f"{equal} of {cells} savings are equal for the five models other than ViT-B16, whose row",
        "no selection of its parameters explains (see fedx_core/paper/table1.py).",
    ]
    return "\n".join(lines)


def table() -> Table:
    """Put both into a table for files, two lines per model."""
    lines: list[list[Cell]] = []
    for row in (table1.row(model) for model in table1.PRINTED):
        lines += [
            [row.model, "paper", row.printed_size, row.printed_total, *row.printed_saved],
            [row.model, "ours", row.size, row.total, *row.saved],
        ]
    return Table(
        name="table1",
        title="MiB of one transfer, of an unpruned training, and saved at a pruning rate in %",
        columns=[
            Column("model"), Column("whose"), Column("size", ".2f"), Column("total", ",.0f"),
            *(Column(f"{100 * rate:.0f}", ",.0f") for rate in table1.RATES),
        ],
        rows=lines,
    )  # fmt: skip
