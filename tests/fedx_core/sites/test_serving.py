"""What a site keeps of what it has sent."""

import os
import time
from pathlib import Path

import pytest

from asked import job
from fedx_core.sites import serving
from fedx_core.sites.serving import LONGEST_SILENCE


@pytest.mark.parametrize(
    ("run", "round_index", "kept"),
    [
        ("run", 3, ["other/0009", "run/0003", "run/0004"]),
        ("run", 5, ["other/0009"]),
        ("run", 0, ["other/0009", "run/0001", "run/0002", "run/0003", "run/0004"]),
        ("new", 1, ["other/0009", "run/0001", "run/0002", "run/0003", "run/0004"]),
    ],
)
def test_a_site_forgets_earlier_rounds_of_a_run_and_runs_that_nobody_has_asked_of_for_a_month(
    run: str, round_index: int, kept: list[str], tmp_path: Path
) -> None:
    for name in ("run/0001", "run/0002", "run/0003", "run/0004", "other/0009", "long-ago/0001"):
        (tmp_path / name / "job/done").mkdir(parents=True)
        (tmp_path / name / "job/done/report").write_bytes(b"{}")
    for name, age in (("other", LONGEST_SILENCE - 3600), ("long-ago", LONGEST_SILENCE + 3600)):
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    serving._tidy(tmp_path, job(run=run, round_index=round_index))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")) == kept
