"""All JSON that we write is JSON: one writer, which has nothing for NaN and infinity but null."""

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedx_core.base import strict_json
from fedx_core.base.errors import PayloadError
from fedx_core.base.frozen_json import canonical, parse

ROOT = Path(__file__).parent.parent.parent
FILES = [
    path for package in ("fedx_core", "flows", "infra") for path in (ROOT / package).rglob("*.py")
]
COPYING = "json.loads(json.dumps("
"""Settings are copied this way; nothing is written."""


@dataclass(frozen=True)
class Scored:
    score: float
    best: float | None = None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_writes_json(path: Path) -> None:
    text = path.read_text()
    called = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dump", "json.dumps")
    ]
    if path.name == "strict_json.py":
        assert all("allow_nan=False" in call or "ensure_ascii=False" in call for call in called)
    else:
        assert len(called) == text.count(COPYING)


def test_what_is_not_finite_becomes_null_wherever_it_stands() -> None:
    odd = {"a": math.nan, "b": [1.5, math.inf, {"c": (-math.inf, 2)}], "d": "NaN"}
    text = strict_json.dumps(odd, sort_keys=True)
    assert text == '{"a": null, "b": [1.5, null, {"c": [null, 2]}], "d": "NaN"}'
    assert strict_json.loads(text.encode(), 1000) == json.loads(text)
    assert strict_json.dumps({"b": 1, "a": 1.5}, indent=1) == json.dumps(
        {"b": 1, "a": 1.5}, indent=1
    )


def test_our_own_records_keep_a_score_that_is_no_number() -> None:
    data = canonical(Scored(math.nan))
    assert data == b'{"best":null,"score":null}'
    back = parse(Scored, strict_json.loads(data, 100), gaps=True)
    assert math.isnan(back.score)
    assert back.best is None
    assert canonical(back) == data


def test_null_from_outside_is_no_number() -> None:
    with pytest.raises(PayloadError, match="wanted float"):
        parse(Scored, {"score": None})
