"""What the runs' encoders are worth downstream, where ``fedx probe`` has looked."""

from collections.abc import Sequence

from flows.report.gather import Run
from flows.report.parts import Column, Section, Table, slug
from flows.runs import probe
from flows.runs.probe import Probe

PERCENT = ".1f"


def sections(runs: Sequence[Run]) -> list[Section]:
    """Write the section about probes; none where no run has one."""
    found = [made for run in runs for made in probe.read(run.record.folder)]
    if not found:
        return []
    text = (
        "The encoder of each run, frozen or fine-tuned on few labels, beside a random encoder of "
        "the same architecture. Only what lies above that was learned."
    )
    return [Section("probes", "Downstream", text, tables=[table(made) for made in found])]


def table(made: Probe) -> Table:
    """Put a probe into a table, in percent."""
    return Table(
        name=slug("probe", made.run, made.dataset),
        title=f"{made.metric} in percent on {made.images['test']:,d} test images of "
        f"{made.dataset}, {made.model} of run {made.run} after round {made.round_index}",
        columns=[
            Column("measure"),
            Column("labels"),
            Column("images", ",d"),
            Column(made.run, PERCENT),
            Column("+-", PERCENT),
            Column("random encoder", PERCENT),
            Column("+- of random", PERCENT),
            Column("gain", "+.1f"),
        ],
        rows=[
            [
                line.title,
                f"{100 * line.share:g} %",
                line.labelled,
                *(
                    None if value is None else 100 * value
                    for value in (
                        line.run, line.spread, line.random, line.random_spread, line.gain
                    )
                ),
            ]
            for line in probe.lines(made)
        ],
        note=f"+- is the standard deviation over {made.settings['draws']} draws of the labels.",
    )  # fmt: skip
