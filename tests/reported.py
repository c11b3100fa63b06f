"""What a test of reports is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.report.files import Report
from flows.report.gather import Run


@dataclass(frozen=True)
class Written:
    """A report on two pruned runs, ``base`` by magnitude and ``chance`` at random."""

    root: Path
    runs: Sequence[Run]
    report: Report

    @property
    def text(self) -> str:
        return self.report.page.read_text()

    def file(self, name: str) -> Path:
        return self.report.page.parent / name
