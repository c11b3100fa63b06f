"""The documents do what they say: each is carried out from top to bottom in a copy of the code.

How blocks are chosen, by what follows the three backticks:

    python       run, all of a page's in one interpreter and in order
    bash         run, each line by line, stopping at the first that fails
    yaml, json   parsed
    text         output and diagrams; nothing to run
    others       refused, so that none is left out by accident

A comment on the line above a block changes what is done with it:

    <!-- file: PATH -->                  the block is that file; written into the copy, not run
    <!-- before LINE-START in PATH -->   inserted there, above the first line that begins so
    <!-- not run: REASON -->             not run; its commands are looked up (:mod:`mentioned`)

Commands and paths in the running text are looked up, too. Pages with a test of their own are
carried out there.

Commands and programs are forked from a process that has imported torch already (:mod:`warm`); those
of the pages that people begin with are started as people start them.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import warm
from fedx_core.base import config, plugins
from fedx_core.learning.evaluation import METRICS
from fedx_core.models.catalogue import names as models
from fedx_core.wire.messages import RoundReport, Traffic
from flows.running import results
from flows.runs.rows import rows
from mentioned import check_command, commands

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / folder / "README.md" for folder in (".", "infra", "benchmarks")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# This page's images are drawn by its test.
ELSEWHERE = {"add_a_data_set.md": "tests/test_add_a_data_set.py"}
STARTED = ("README.md",)
COPIED = ("fedx_core", "flows", "params.yaml", "dvc.yaml", "pyproject.toml")
MINUTES = 4

BLOCK = re.compile(
    r"(?:^<!--[ ](?P<mark>[^\n]*?)[ ]-->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
MARK = re.compile(
    r"file: (?P<file>\S+)|before (?P<line>.+) in (?P<into>\S+)|not run: (?P<reason>\S.*)"
)
LINK = re.compile(r"\]\((?!https?:|#)(?P<path>[^)#]+)(?:#[^)]*)?\)")
SPAN = re.compile(r"(?<!`)`(?P<text>[^`\n]+)`(?!`)")
OURS = ("fedx_core/", "flows/", "docs/", "tests/", "benchmarks/", "infra/", ".ci/")


@dataclass(frozen=True)
class Block:
    """A fenced block with the comment above it.

    Args:
        language: after the backticks.
        text: inside.
        mark: the comment's words by kind (``file``, ``line`` and ``into``, ``reason``).
        line: of the page where it begins.
    """

    language: str
    text: str
    mark: dict[str, str]
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in BLOCK.finditer(text):
        mark: dict[str, str] = {}
        if match["mark"]:
            parts = MARK.fullmatch(match["mark"])
            assert parts, f"{page.name}: what does <!-- {match['mark']} --> mean?"
            mark = {name: value for name, value in parts.groupdict().items() if value}
        line = text.count("\n", 0, match.start("text"))
        found.append(Block(match["language"], match["text"], mark, line))
    fences = len(re.findall(r"^\s*```", text, re.M))
    assert fences == 2 * len(found), f"{page.name}: a block is indented or not closed"
    return found


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


@pytest.fixture
def copy(tmp_path: Path, page: Path, request: pytest.FixtureRequest) -> Path:
    """Copy what a page may use or change, with ``fedx`` and ``python`` on the path."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            # With what is compiled, but for what another test is just writing.
            unfinished = shutil.ignore_patterns("*.pyc.*")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=unfinished)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    started = title(page) in STARTED
    python = f'"{sys.executable}"' if started else request.getfixturevalue("warm_python")
    warm.commands(tmp_path / ".bin", python)
    return tmp_path


def environment(copy: Path) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("FEDX_", "PREFECT_"))}
    path = os.pathsep.join([str(copy / ".bin"), str(Path(sys.executable).parent), kept["PATH"]])
    return {**kept, "PATH": path, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in ELSEWHERE], ids=title)
def test_a_page_can_be_carried_out_from_top_to_bottom(page: Path, copy: Path) -> None:
    python, program = str(copy / ".bin" / "python"), []
    for block in blocks(page):
        place = f"{page.name}, line {block.line}"
        if "file" in block.mark:
            target = copy / block.mark["file"]
            assert not target.exists(), f"{place}: {block.mark['file']} is there already"
            target.write_text(block.text)
        elif "into" in block.mark:
            insert(copy / block.mark["into"], block.mark["line"], block.text)
        elif "reason" in block.mark:
            assert block.language == "bash", f"{place}: only commands may be left out"
            for command in commands(block.text):
                check_command(command, place)
        elif block.language == "python":
            program.append(block.text)
            run([python, "-W", "error", "-c", "\n".join(program)], copy, place)
        elif block.language == "bash":
            run(["bash", "-euo", "pipefail", "-c", block.text], copy, place)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)
        else:
            assert block.language == "text", f"{place}: say which language this is"


def insert(path: Path, start: str, text: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    index = next(i for i, line in enumerate(lines) if line.lstrip().startswith(start))
    path.write_text("".join([*lines[:index], text, *lines[index:]]))


def run(command: Sequence[str], copy: Path, place: str) -> None:
    done = subprocess.run(
        command,
        cwd=copy,
        env=environment(copy),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60 * MINUTES,
        check=False,
    )
    assert done.returncode == 0, f"{place}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_every_command_and_file_that_a_page_mentions_exists(page: Path) -> None:
    made = {block.mark["file"] for block in blocks(page) if "file" in block.mark}
    text = prose(page)
    for match in LINK.finditer(text):
        target = page.parent / match["path"]
        assert target.exists(), f"{page.name} links to {match['path']}"
    for match in SPAN.finditer(text):
        span = match["text"]
        if span.startswith(("fedx ", "make ", "python benchmarks/")):
            check_command(shlex.split(span), page.name)
        elif span.startswith(OURS) and re.fullmatch(r"[\w./-]+", span):
            assert span in made or (ROOT / span).exists(), f"{page.name} names {span}"


def test_pages_that_are_carried_out_elsewhere_are() -> None:
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text()


def test_the_readme_names_every_choice_and_no_others() -> None:
    packages = {
        "method": "methods", "source": "data", "local": "local_rules", "exchange": "exchanges",
        "server": "server_steps", "pruner": "pruners", "support": "supports",
        "objective": "objectives",
    }  # fmt: skip
    rows = re.findall(
        r"^\| `(\w+)` \| (`\w+`(?:, `\w+`)*) \|$", (ROOT / "README.md").read_text(), re.M
    )
    kinds = set(plugins.CLASS_NAMES) - {"asks"}  # what methods ask is no setting
    assert len(rows) == len(kinds)
    for kind, choices in rows:
        there = models() if kind == "model" else plugins.names(packages.get(kind, kind))
        assert re.findall(r"\w+", choices) == there, f"README's choices of {kind}"


def test_the_example_environment_names_all_our_variables_and_no_others() -> None:
    ours = re.compile(r"\bFEDX_[A-Z0-9_]+[A-Z0-9]\b")
    sources = [p for name in ("fedx_core", "flows", "infra") for p in (ROOT / name).rglob("*.py")]
    read = {name for path in sources for name in ours.findall(path.read_text())}
    read |= set(ours.findall((ROOT / "prefect.yaml").read_text()))
    assert set(ours.findall((ROOT / ".env.example").read_text())) == read


def test_the_reference_of_all_parameters_is_what_the_code_says() -> None:
    generator = runpy.run_path(str(ROOT / "docs" / "make_parameters.py"))
    written = (ROOT / "docs" / "parameters.md").read_text()
    assert written == generator["page"](), "write it anew with `make docs`"


def test_the_glossary_explains_whatever_results_are_called() -> None:
    scores = dict.fromkeys((name for names in METRICS.values() for name in names), 0.5)
    report = RoundReport(
        round_index=1,
        rounds=1,
        cohort=("client-0",),
        failures=(),
        metrics=scores,
        metrics_before_pruning=scores,
        pruned=True,
        traffic={"client-0": Traffic()},
        paper_bytes=0,
        sparsity=0.5,
        units_kept={},
        train_loss=0.0,
        seconds={},
        validation=scores,
    )
    summary = results.summary(config.load(ROOT / "params.yaml"), [report], {"run": "base"})
    called = {*scores, *rows([report])[0], *summary, *summary["wire_bytes"]}
    called |= {field.name for kind in (RoundReport, Traffic) for field in fields(kind)}
    explained = SPAN.findall((ROOT / "docs" / "glossary.md").read_text())
    missing = [name for name in called if not any(fnmatch(name, word) for word in explained)]
    assert not missing, f"docs/glossary.md lacks {', '.join(sorted(missing))}"


def test_a_wrong_option_a_missing_target_and_an_unknown_command_are_found() -> None:
    for line in (
        "fedx run --raunds 3", "fedx rnu", "fedx site enrol", "fedx site enroll --loudly",
        "make dmeo", "python benchmarks/none.py", "python benchmarks/fewer_bytes.py --runs most",
        "fedx run --method fedx --set method.pruning_rat=0.5", "fedx data eurosat --set seed=many",
        "fedx data eurosat --set datasets.eurosat.partition.name=idd",
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            check_command(shlex.split(line), "here")
    for line in ("fedx run --rounds 3 --no-engine", "make demo DATA=eurosat", "fedx --version"):
        check_command(shlex.split(line), "here")


def test_unclosed_blocks_and_unknown_comments_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("```python\n1\n", "<!-- skip -->\n```bash\nls\n```\n", " ```bash\n ls\n ```\n"):
        page.write_text(text)
        with pytest.raises(AssertionError):
            blocks(page)
