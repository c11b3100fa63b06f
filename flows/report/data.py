"""What the clients hold: labels, sizes and countries."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.report.gather import Run
from flows.report.parts import Column, Drawing, Section, Table, slug


def sections(runs: Sequence[Run]) -> list[Section]:
    """Write the section about data; runs that share their clients share a figure."""
    drawings: list[Drawing] = []
    tables: list[Table] = []
    missing = []
    alike: list[tuple[Mapping[str, Any], list[str]]] = []
    for run in runs:
        if run.clients is None:
            missing.append(
                f"{run.name} has no results/clients.json: its clients keep to themselves what "
                "they hold, or an older version made the run."
            )
            continue
        names = next((names for found, names in alike if found == run.clients), None)
        if names is None:
            alike.append((run.clients, [run.name]))
        else:
            names.append(run.name)
    for found, names in alike:
        drawings += _drawings(found, names)
        tables.append(_table(found, names))
    return [Section("data", "Data", drawings=drawings, tables=tables, missing=missing)]


def _drawings(found: Mapping[str, Any], names: Sequence[str]) -> list[Drawing]:
    from flows.figures import atlas
    from flows.figures.clients import labels_by_client

    clients, classes = found["clients"], found["class_names"]
    sizes = {client["name"]: client["sizes"]["train"] for client in clients}
    runs = f"{found['dataset']} as divided in {', '.join(names)}"
    drawings = [
        Drawing(
            slug("labels", names[0]),
            labels_by_client(
                classes, {client["name"]: client["labels"]["train"] for client in clients}, sizes
            ),
            f"Matrix of {len(clients)} clients and {len(classes)} classes of {runs}, with the "
            f"share of training examples. Clients have {min(sizes.values()):,} to "
            f"{max(sizes.values()):,} examples.",
            f"{runs}. Brighter is more of the client's training examples, numbers are per cent; "
            "equal rows are alike, bright single cells are clients with few kinds of labels.",
        )
    ]
    countries = _countries(clients)
    if atlas.known(countries):
        counts = ", ".join(f"{name} {count:,}" for name, count in countries.items())
        drawings.append(
            Drawing(
                slug("countries", names[0]),
                atlas.country_map(countries),
                f"Map of training examples by country: {counts}.",
                f"{runs}. Areas are numbers of training examples; circles stand at about the "
                "middle of their country, moved where they would overlap.",
            )
        )
    return drawings


def _countries(clients: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for client in clients:
        for name, count in client.get("groups", {}).get("train", {}).items():
            total[name] = total.get(name, 0) + count
    return {name: count for name, count in sorted(total.items()) if count}


def _table(found: Mapping[str, Any], names: Sequence[str]) -> Table:
    classes = found["class_names"]
    return Table(
        name=slug("clients", names[0]),
        title=f"Clients of {found['dataset']} as divided in {', '.join(names)}: examples by label",
        columns=[
            Column("client"), Column("training", ",d"), Column("test", ",d"),
            *(Column(name, ",d") for name in classes),
        ],
        rows=[
            [
                client["name"],
                client["sizes"]["train"],
                client["sizes"]["test"],
                *client["labels"]["train"],
            ]
            for client in found["clients"]
        ],
    )  # fmt: skip
