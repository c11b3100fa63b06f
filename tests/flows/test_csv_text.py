import csv
import io

import pytest

from flows.base.csv_text import csv_text
from flows.commands import answers
from flows.report.parts import Column, Table


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_name_that_a_spreadsheet_would_compute_is_text(name: str) -> None:
    for text in (csv_text([["class"], [name]]), answers.as_csv([{"class": name}])):
        (row,) = csv.DictReader(io.StringIO(text, newline=""))
        assert row["class"] == f"'{name}".replace("\r", "\n")
    assert csv_text([[name, 1]]) == csv_text([[f"'{name}", 1]])


def test_numbers_and_other_names_stay_as_they_are() -> None:
    cells = [-1.5, -2, "-1e-5", "-", "Forest", None, True, "a=b"]
    assert csv_text([cells]) == "-1.5,-2,-1e-5,-,Forest,,True,a=b\n"


def test_tables_of_a_report_hold_no_formulas() -> None:
    table = Table("t", "t", (Column("=a"), Column("n")), (("@b", 1), ("c", -2.5)))
    assert table.as_csv() == "'=a,n\n'@b,1\nc,-2.5\n"
