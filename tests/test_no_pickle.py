"""Nothing is unpickled, evaluated or run: no code of ours even names what would do it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path for package in ("fedx_core", "flows", "infra") for path in (ROOT / package).rglob("*.py")
]
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    ("torch", "load"),
    ("yaml", "load"),
    ("yaml", "full_load"),
    ("yaml", "unsafe_load"),
    ("pandas", "read_pickle"),
    ("os", "system"),
}


def found_in(text: str) -> list[str]:
    """Name what must not be there, by line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.partition(".")[0] in MODULES or tuple(name.rsplit(".", 1)) in METHODS:
                found.append(f"{node.lineno}: import {name}")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            owner, _, method = called.rpartition(".")
            if (
                called in CALLS
                or (owner, method) in METHODS
                or keywords.get("shell") == "True"
                or (called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False")
            ):
                found.append(f"{node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_of_ours_unpickles_or_runs_what_it_reads(path: Path) -> None:
    assert found_in(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from cloudpickle import loads",
        "from torch import load",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_rule_above_finds_what_it_looks_for(line: str) -> None:
    assert found_in(line)


def test_what_is_safe_is_allowed() -> None:
    assert found_in("np.load(p, allow_pickle=False)\nyaml.safe_load(t)\nmodel.eval()") == []


def test_no_result_of_prefects_is_kept_since_it_would_be_pickled() -> None:
    decorated = 0
    for path in (ROOT / "flows").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "flow",
                "Task",
                "task",
                "prefect.flow",
            ):
                decorated += 1
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert words.get("persist_result") == "False", f"{path}:{node.lineno}"
    assert decorated >= 5
