"""Who was sent how much."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from fedx_core.wire.messages import Traffic
from flows.figures import style

MIB = 2**20
DIRECTIONS = {
    "downlink": style.PALETTE[0],
    "uplink": style.PALETTE[5],
    "mask": style.PALETTE[4],
    "retry": style.PALETTE[1],
    "evaluation": style.FAINT,
}


@style.styled
def bytes_by_client(runs: Mapping[str, Mapping[str, Traffic]]) -> Figure:
    """Stack each client's MiB by direction, one panel a run.

    Args:
        runs: traffic over all rounds by client, by the name to show; at least one client each.
    """
    counts = [len(clients) for clients in runs.values()]
    heights = [0.45 + 0.24 * count for count in counts]
    figure = Figure(figsize=(style.WIDTH, sum(heights) + 0.7), layout="constrained")
    panels = figure.subplots(
        len(runs), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, (name, clients) in zip(panels, runs.items(), strict=True):
        places = range(len(clients))
        left = [0.0] * len(clients)
        for direction, colour in DIRECTIONS.items():
            widths = [getattr(traffic, direction) / MIB for traffic in clients.values()]
            axes.barh(places, widths, left=left, color=colour, label=direction)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(places, clients)
        axes.invert_yaxis()
        axes.set_title(name)
        style.grid(axes, "x")
    panels[-1].set_xlabel("MiB over all rounds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(DIRECTIONS))
    return figure
