from pathlib import Path

import pytest

from fedx_core import plugins
from fedx_core.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize("package", list(plugins.CLASS_NAMES))
def test_the_files_of_a_package_are_its_plugins(package: str) -> None:
    folder = Path(plugins.__file__).parent / package
    files = {f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")} - {"base"}
    assert set(plugins.names(package)) == files
    for name in files:
        assert plugins.load(package, name).__module__ == f"fedx_core.{package}.{name}"


@pytest.mark.parametrize("package", list(plugins.CLASS_NAMES))
def test_an_unknown_name_lists_the_siblings_and_says_where_to_add_it(package: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"add fedx_core/{package}/zzz\.py") as error:
        plugins.build(package, "zzz", {})
    for name in plugins.names(package):
        assert name in str(error.value)


def test_names_that_reach_outside_the_package_are_unknown() -> None:
    for name in ("base", "_scenes", "..store", "fedavg.py", ""):
        with pytest.raises(UnknownNameError):
            plugins.load("methods", name)


def test_missing_and_unknown_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="method 'fedx' needs the parameter 'pruning_rate'"):
        plugins.build("methods", "fedx", {})
    with pytest.raises(ConfigError, match=r"no parameter 'rate'.*it takes pruning_rate"):
        plugins.build("methods", "fedx", {"rate": 0.5})
