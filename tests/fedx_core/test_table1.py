import math

import pytest

from fedx_core.paper import table1


@pytest.fixture(scope="module")
def rows() -> dict[str, table1.Row]:
    return {model: table1.row(model) for model in table1.PRINTED}


def test_sizes_are_the_papers_for_all_six_models(rows: dict[str, table1.Row]) -> None:
    for row in rows.values():
        digits = 1 if row.model == table1.UNEXPLAINED else 2
        assert round(row.size, digits) == row.printed_size


def test_totals_are_the_papers_within_one_mebibyte(rows: dict[str, table1.Row]) -> None:
    for row in rows.values():
        assert abs(row.total - row.printed_total) <= 1


def test_forty_five_of_forty_five_savings_are_equal(rows: dict[str, table1.Row]) -> None:
    explained = [row for row in rows.values() if row.model != table1.UNEXPLAINED]
    assert len(explained) == 5
    for row in explained:
        assert tuple(math.floor(saved) for saved in row.saved) == row.printed_saved
    assert sum(row.equal_cells for row in explained) == 45


def test_the_vit_row_is_within_two_percent(rows: dict[str, table1.Row]) -> None:
    row = rows[table1.UNEXPLAINED]
    for saved, printed in zip(row.saved, row.printed_saved, strict=True):
        assert saved == pytest.approx(printed, rel=0.02)


def test_the_formula_of_the_table_restated_slowly_gives_the_same() -> None:
    # Table I: floor(4 B / 2^20 x 160 x sum over layers of floor(q C) (n + 1)), ResNet6 by hand.
    layers = [(64, 490), (64, 576), (64, 576), (128, 576), (128, 1152), (128, 64)]
    for rate, printed in zip(table1.RATES, table1.PRINTED["resnet6"][2], strict=True):
        scalars = sum(math.floor(rate * c + 1e-9) * (n + 1) for c, n in layers)
        assert math.floor(4 * 160 * scalars / 2**20) == printed
