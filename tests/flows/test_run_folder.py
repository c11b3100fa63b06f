from pathlib import Path

import pytest

from fedx_core.base.errors import StoreError
from flows.runs.run_folder import write


def test_a_file_in_the_way_of_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(StoreError, match=r"can't write .*rounds\.csv"):
        write(tmp_path / "results" / "rounds.csv", b"1")
    assert (tmp_path / "results").read_text() == "in the way"
