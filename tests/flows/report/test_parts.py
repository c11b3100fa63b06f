import csv
import io

from flows.report.parts import Column, Table, slug

TABLE = Table(
    name="example",
    title="Share of 50% & more_or_less",
    columns=[Column("a_b"), Column("share", ".1%"), Column("MiB", ",.2f")],
    rows=[["x&y", 0.5, 1234.5678], ["-", None, 2]],
)


def test_people_see_rounded_numbers_and_machines_all_digits() -> None:
    assert TABLE.shown() == [["x&y", "50.0%", "1,234.57"], ["-", "-", "2.00"]]
    rows = list(csv.reader(io.StringIO(TABLE.as_csv())))
    assert rows == [["a_b", "share", "MiB"], ["x&y", "0.5", "1234.5678"], ["-", "", "2"]]


def test_latex_is_a_booktabs_table_in_which_special_signs_are_escaped() -> None:
    lines = [line.strip() for line in TABLE.as_latex().splitlines()]
    assert r"\caption{Share of 50\% \& more\_or\_less}" in lines
    assert r"\begin{tabular}{lrr}" in lines
    rules = [line for line in lines if line in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert r"x\&y & 50.0\% & 1,234.57 \\" in lines
    signs = Table("signs", "", [Column("it")], [[r"\~^{}#$"]]).as_latex()
    assert r"\textbackslash{}\textasciitilde{}\textasciicircum{}\{\}\#\$ \\" in signs


def test_names_of_files_have_few_kinds_of_signs() -> None:
    assert slug("scores", "Run_1 / q0.5", 10) == "scores-Run_1-q0.5-10"
    assert slug("../..") == ""
