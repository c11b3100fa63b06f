"""Runs of every kind end as they always have; see ``tests/final_hashes.py``."""

import importlib
import json
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import fedx_core
import final_hashes
from bed import Bed
from final_hashes import ROWS, SAME, compare, ending, hashes, table

Ending = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def added_floats() -> Iterator[None]:
    """Find floats that the core adds up by ``sum``: Python 3.12 rounds it otherwise than 3.11."""
    found = set[str]()

    def watched(values: Iterable[Any], /, start: Any = 0) -> Any:
        values = list(values)
        if float in map(type, values):
            where = sys._getframe(1)
            found.add(f"{where.f_globals['__name__']}, line {where.f_lineno}")
        return sum(values, start)

    with pytest.MonkeyPatch.context() as patch:
        for module in pkgutil.walk_packages(fedx_core.__path__, "fedx_core."):
            patch.setattr(importlib.import_module(module.name), "sum", watched, raising=False)
        yield
    assert not found, "take math.fsum or statistics.fmean, which all versions of Python round alike"


@pytest.fixture(scope="module")
def end_of(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ending:
    """How a row's run ends; each runs once."""
    bed = Bed(tiny_data, tmp_path_factory.mktemp("rows"))
    return cache(lambda row: ending(ROWS[row](bed, row)))


def test_the_table_has_every_row_and_no_other() -> None:
    assert list(table()["rows"]) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_a_run_sends_the_bytes_and_ends_in_the_hashes_of_the_table(
    row: str, end_of: Ending
) -> None:
    compare(row, end_of(row))
    if final_hashes.elsewhere():
        pytest.skip(final_hashes.elsewhere())


@pytest.mark.parametrize("row", SAME)
def test_a_run_that_was_interrupted_or_carried_otherwise_ends_as_the_plain_one(
    row: str, end_of: Ending
) -> None:
    assert hashes(end_of(row)) == hashes(end_of(SAME[row]))


def test_every_other_row_of_the_table_is_one_of_its_own() -> None:
    own = {json.dumps(row) for name, row in table()["rows"].items() if name not in SAME}
    assert len(own) == len(table()["rows"]) - len(SAME)


def test_another_kind_of_machine_is_told_why_its_bits_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = table()["made_on"] | {"fingerprint": "0" * 64}
    (tmp_path / "table.json").write_text(json.dumps(table() | {"made_on": made}))
    monkeypatch.setattr(final_hashes, "TABLE", tmp_path / "table.json")
    for kept in (final_hashes.table, final_hashes.elsewhere):
        kept.cache_clear()
    try:
        assert "table.json alone: " in final_hashes.elsewhere()
        assert f"and was {'0' * 64} there" in final_hashes.elsewhere()
    finally:
        for kept in (final_hashes.table, final_hashes.elsewhere):
            kept.cache_clear()
