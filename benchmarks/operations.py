"""Which operations of torch a run spends its time in."""

from collections.abc import Callable, Sequence

Operation = tuple[str, int, float]
"""(name, calls of one run, CPU milliseconds of one run without what it calls)."""


def operations(run: Callable[[], None], repeats: int = 3) -> list[Operation]:
    """Profile a run after one that does not count, the costliest operation first."""
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(repeats):
            run()
    found = [
        (event.key, event.count // repeats, event.self_cpu_time_total / 1000 / repeats)
        for event in profiled.key_averages()
    ]
    return sorted(found, key=lambda operation: -operation[2])


def table(title: str, found: Sequence[Operation], most: int = 8) -> str:
    """Draw the costliest operations and their shares; all others are one row."""
    total = sum(milliseconds for _, _, milliseconds in found)
    rest = found[most:]
    rows = [
        *found[:most],
        ("others", sum(calls for _, calls, _ in rest), sum(spent for _, _, spent in rest)),
    ]
    lines = [f"| {title} | calls | CPU ms | share, % |", "| --- | --: | --: | --: |"]
    for name, calls, milliseconds in rows:
        share = 100 * milliseconds / total
        lines.append(f"| {name} | {calls} | {milliseconds:.1f} | {share:.0f} |")
    return "\n".join(lines)
