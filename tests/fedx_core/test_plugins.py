import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedx_core.base import plugins
from fedx_core.base.errors import ConfigError, UnknownNameError
from fedx_core.server_steps import base


@pytest.mark.parametrize("package", list(plugins.CLASS_NAMES))
def test_the_files_of_a_package_are_its_plugins(package: str) -> None:
    folder = Path(plugins.__file__).parents[1] / package
    files = {f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")}
    files -= {"base", "catalogue"}
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
    with pytest.raises(ConfigError, match=r"no parameter 'rate'.*it takes .*pruning_rate"):
        plugins.build("methods", "fedx", {"rate": 0.5})


def test_another_package_adds_a_plugin_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere.py").write_text(
        "from dataclasses import dataclass\n\n"
        "from fedx_core.methods import base\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Method(base.Method):\n"
        "    strength: float = 0.5\n"
    )
    about = tmp_path / "elsewhere-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedx.methods]\nborrowed = elsewhere:Method\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._outside.cache_clear()
    try:
        assert "borrowed" in plugins.names("methods")
        assert plugins.build("methods", "borrowed", {"strength": 0.25}).strength == 0.25
        with pytest.raises(ConfigError, match="no parameter 'force'"):
            plugins.build("methods", "borrowed", {"force": 1.0})
    finally:
        plugins._outside.cache_clear()
        sys.modules.pop("elsewhere", None)


def test_a_plugin_that_a_process_adds_is_known_for_as_long_as_it_says() -> None:
    @dataclass(frozen=True, kw_only=True)
    class First(base.ServerStep):
        """Steps like all."""

    @dataclass(frozen=True, kw_only=True)
    class Second(First):
        """Goes before the first."""

    with plugins.added("server_steps", "tried", First):
        with plugins.added("server_steps", "tried", Second):
            assert plugins.load("server_steps", "tried") is Second
        assert plugins.build("server_steps", "tried", {}) == First()
        assert "tried" in plugins.names("server_steps")
    with pytest.raises(UnknownNameError, match="no server step 'tried'"):
        plugins.load("server_steps", "tried")
