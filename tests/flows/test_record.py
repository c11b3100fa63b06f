from pathlib import Path

import pytest

from bed import Bed, tiny
from fedx_core.errors import RunError
from fedx_core.federation import federate
from fedx_core.runtime import InProcess
from flows import record, results, run_folder
from flows.run_folder import RunFolder


def test_a_record_gives_back_what_the_run_wrote(bed: Bed) -> None:
    settings = tiny(federation__rounds=2)
    reports = tuple(federate(settings, bed.setting("base"), InProcess(1)))
    folder = RunFolder(bed.runs / "base")
    run_folder.save_config(folder, settings)
    results.write_rounds(folder, reports)
    folder.note({"run": "base"})
    [found] = record.find(bed.runs, ["base"])
    assert (found.reports, found.settings, found.notes) == (reports, settings, {"run": "base"})
    assert record.find(Path("elsewhere"), [str(bed.runs / "base")]) == [found]


def test_a_run_without_rounds_or_with_damaged_ones_says_what_to_do(bed: Bed) -> None:
    folder = RunFolder(bed.runs / "empty")
    folder.results.mkdir(parents=True)
    with pytest.raises(RunError, match="holds no finished round; start the run with"):
        record.read(folder)
    (folder.results / "rounds.json").write_text("[{")
    with pytest.raises(RunError, match="fedx resume empty"):
        record.read(folder)
