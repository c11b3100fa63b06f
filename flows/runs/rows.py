"""Reports of rounds as rows of a table.

The two ledgers stand in columns of their own and are never added: ``wire_*`` is what crossed the
network by ``len(payload)``, ``paper_bytes`` follows the convention of the paper's Table I.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from fedx_core.wire.messages import RoundReport

MIB = 2**20
Row = dict[str, float | int | str | None]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times fewer bytes than fp32 FedAvg's in the same rounds, retries apart.

    None where nothing was sent, or where an earlier version wrote a round down.

    Args:
        down: of models and masks.
        up: of updates.
        total: of both together.
    """

    down: float | None
    up: float | None
    total: float | None


def ratios(reports: Iterable[RoundReport]) -> Iterator[Ratio]:
    """Compare what was sent up to each round with what FedAvg would have sent, see :class:`Ratio`.

    FedAvg's would have gone to and come from the same clients.
    """
    known = True
    dense = down = up = 0
    for report in reports:
        now_down, now_up = report.downlink_bytes + report.mask_bytes, report.uplink_bytes
        known = known and bool(report.dense_bytes or not now_down + now_up)
        dense, down, up = dense + report.dense_bytes, down + now_down, up + now_up
        if known and dense:
            yield Ratio(
                down=dense / down if down else None,
                up=dense / up if up else None,
                total=2 * dense / (down + up) if down + up else None,
            )
        else:
            yield Ratio(down=None, up=None, total=None)


def ratio(reports: Sequence[RoundReport]) -> Ratio:
    """Return the last of :func:`ratios`.

    Args:
        reports: at least one.
    """
    *_, last = ratios(reports)
    return last


def rows(reports: Sequence[RoundReport]) -> list[Row]:
    """Turn reports into a table, one row per round, with running totals."""
    table: list[Row] = []
    wire = paper = 0
    for report, fewer in zip(reports, ratios(reports), strict=True):
        wire += report.wire_bytes
        paper += report.paper_bytes
        table.append(
            {
                "round": report.round_index,
                **{f"test_{name}": value for name, value in report.metrics.items()},
                **{f"validation_{name}": value for name, value in report.validation.items()},
                **{
                    f"before_pruning_{name}": value
                    for name, value in report.metrics_before_pruning.items()
                },
                **{f"method_{name}": value for name, value in report.method_metrics.items()},
                "pruned": int(report.pruned),
                "sparsity": report.sparsity,
                "train_loss": report.train_loss,
                "clients": len(report.cohort) - len(report.failures),
                "failures": len(report.failures),
                "wire_downlink_bytes": report.downlink_bytes,
                "wire_uplink_bytes": report.uplink_bytes,
                "wire_mask_bytes": report.mask_bytes,
                "wire_retry_bytes": report.retry_bytes,
                "evaluation_bytes": report.evaluation_bytes,
                "wire_cumulative_mib": wire / MIB,
                **{f"wire_ratio_{way}": n for way, n in asdict(fewer).items()},
                "paper_bytes": report.paper_bytes,
                "paper_cumulative_mib": paper / MIB,
                "seconds": sum(report.seconds.values()),
            }
        )
    return table
