import json
from pathlib import Path

import pytest
import yaml

from fedx_core.base import strict_yaml
from fedx_core.base.errors import ConfigError

ROOT = Path(__file__).parents[2]


def read(text: str) -> object:
    return strict_yaml.loads(text, "params.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-1", 0.5),
        ("1e3", 1000.0),
        ("-1.5E+2", -150.0),
        (".5", 0.5),
        ("012", 12),
        ("0x10", 16),
        ("0o17", 15),
        ("+3", 3),
        ("true", True),
        ("no", "no"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("{2024: 1, no: 2, 1.5: 3}", {"2024": 1, "no": 2, "1.5": 3}),
        ("[1, {a: [b]}]", [1, {"a": ["b"]}]),
        ("{a: &x {b: 1, c: 2}, d: {<<: *x, c: 3}}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("é: ü", {"é": "ü"}),
    ],
)
def test_values_are_those_of_json(text: str, value: object) -> None:
    assert read(text) == value
    assert json.loads(json.dumps(read(text))) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3, column 1: key 'a' stands twice, first on line 1"),
        ("x:\n  a: 1\n  'a': 3\n", r"line 3, column 3: key 'a' stands twice, first on line 2"),
        ("a: .nan", r"line 1, column 4: \.nan is no finite number"),
        ("a:\n- -.inf", r"line 2, column 3: -\.inf is no finite number"),
        ("a: 1e999", r"1e999 is no finite number"),
        ("a: 99999999999999999999", r"a whole number of 20 digits, beyond 64 bits"),
        ("a: " + "9" * 900_000, r"a whole number of 900000 digits"),
        ("[" * 1000, r"more than 32 blocks stand in one another"),
        ("- " * 1000, r"more than 32 blocks"),
        ("? " * 1000, r"more than 32 blocks"),
        ("a: &x [*x]", r"alias \*x stands within itself"),
        ("a: *x", r"line 1, column 4: .*undefined alias"),
        ("? [1, 2]\n: 3", r"a key must be one word"),
        ("a: !!python/object/apply:os.system [ls]", r"line 1, column 4: could not determine"),
        ("a: !!timestamp 2024-01-01", r"could not determine"),
        ("a: [1,", r"line 1, column 7"),
        ("a: \x00", r"special characters"),
        ("a: 1\n---\nb: 2", r"line 2"),
    ],
)
def test_what_has_two_meanings_or_none_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        read(text)
    assert "params.yaml" in str(error.value)
    assert len(str(error.value)) < 400


def test_a_few_aliases_do_not_unfold_to_gigabytes() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match=r"line 6, .*: more than 100,000 values"):
        read("\n".join(lines))
    merged = "\n".join(["a: &a {b: 1}", "c:", "  <<: [" + ", ".join(["*a"] * 60_000) + "]"])
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        read(merged)


def test_a_file_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"big.yaml has more than 1,048,576 bytes"):
        strict_yaml.read(path)
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"big.yaml, line 2: this is not UTF-8"):
        strict_yaml.read(path)


def test_what_we_write_and_ship_reads_as_it_did() -> None:
    shipped = [
        ROOT / "params.yaml",
        ROOT / "dvc.yaml",
        *(ROOT / "flows" / "presets").rglob("*.yaml"),
    ]
    for path in shipped:
        assert strict_yaml.read(path) == json.loads(json.dumps(yaml.safe_load(path.read_text())))
    odd = {
        "no": "no",
        "n": "5e-1",
        "t": "2024-01-01",
        "1": "~",
        "x": ["", "é", "1_0", "012", ".inf"],
    }
    written = strict_yaml.dumps(odd)
    assert read(written) == odd
    assert yaml.safe_load(written) == odd
