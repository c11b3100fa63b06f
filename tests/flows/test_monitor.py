import json
from pathlib import Path

import pytest

from flows.runs import monitor
from flows.runs.run_folder import RunFolder


def test_samples_are_lines_that_a_later_session_adds_to(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    for _ in range(2):
        with monitor.sampling(folder, pytest.fail, period=60):
            pass
    found = monitor.samples(folder.system)
    assert [sample.index for sample in found] == list(range(len(found)))
    assert len(found) >= 2
    values = found[-1].values
    assert 0 <= values["cpu_utilization_percentage"] <= 100
    assert 0 < values["system_memory_usage_percentage"] <= 100
    assert 0 < values["process_memory_megabytes"] < values["system_memory_usage_megabytes"] * 10
    assert found[0].time <= found[-1].time
    assert monitor.samples(folder.system, len(found) - 1) == found[-1:]


def test_a_line_that_a_crash_cut_short_is_left_out_and_shifts_no_other(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a")
    folder.system.parent.mkdir(parents=True)
    folder.system.write_text(json.dumps({"time": 1.0, "cpu": 2.0}) + '\n{"time": 1')
    with monitor.sampling(folder, pytest.fail, period=60):
        pass
    found = monitor.samples(folder.system)
    assert found[0] == monitor.Sample(0, 1.0, {"cpu": 2.0})
    assert [sample.index for sample in found[:2]] == [0, 2]
    assert monitor.samples(tmp_path / "nothing") == []


def test_a_folder_that_cannot_be_written_ends_sampling_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file where the folder should be")
    warnings: list[str] = []
    done = []
    with monitor.sampling(RunFolder(tmp_path / "a"), warnings.append):
        done.append(True)
    assert done == [True]
    (line,) = warnings
    assert "no more system metrics" in line


def test_what_nvidia_smi_prints_is_read_and_what_it_cannot_tell_left_out() -> None:
    text = "0, 87, 20480, 81920\n1, [N/A], 100, 1000\nNo devices were found\n"
    assert monitor.read_nvidia(text) == {
        "gpu_0_utilization_percentage": 87.0,
        "gpu_0_memory_usage_megabytes": 20480.0,
        "gpu_0_memory_usage_percentage": 25.0,
        "gpu_1_memory_usage_megabytes": 100.0,
        "gpu_1_memory_usage_percentage": 10.0,
    }
