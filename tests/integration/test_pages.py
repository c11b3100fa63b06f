"""What people see in a browser: a run from Prefect's form, two runs in MLflow, a report of both.

Photographs go to a temporary folder, or where SCREENSHOTS says (`make screenshots`).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bed import tiny_resnet6
from browsing import Browser, browser
from fedx_core.base import config, plugins
from fedx_core.models import catalogue
from flows.deployments import announce
from flows.runs.run_folder import RunFolder
from flows.settings.form import AS_SET
from infra.stack.settings import Settings

pytestmark = pytest.mark.integration
ROUNDS = 8
AMPLITUDE = "sr-client-cfg.amplitude.com"
"""Prefect's pages ask there for settings of their telemetry, even where it is switched off."""


@pytest.fixture(scope="module")
def chromium(
    stack: tuple[Any, Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    live, settings = stack
    never = [
        str(live.folder), settings.prefect_auth, settings.mlflow_secret, settings.s3_secret,
    ]  # fmt: skip
    with browser(tmp_path_factory.mktemp("pages"), never) as opened:
        # MLflow has the browser itself ask; only there is this said.
        opened.credentials = {
            "username": "fedx", "password": settings.mlflow_secret, "origin": settings.mlflow,
        }  # fmt: skip
        yield opened


@pytest.fixture(scope="module")
def params(stack: tuple[Any, Settings]) -> Path:
    path = Path(stack[0].folder / "pages.yaml")
    settings = tiny_resnet6(
        federation__rounds=ROUNDS,
        method__warmup_rounds=3,
        method__relevance={"name": "lrp"},
        training__epochs=3,
        training__learning_rate=0.003,
        training__batch_norm="recalibrate",
    )
    path.write_text(yaml.safe_dump(config.as_plain(settings)))
    return path


@pytest.fixture(scope="module")
def half(stack: tuple[Any, Settings], params: Path) -> RunFolder:
    """A run from a shell, which prunes half of all units."""
    live, settings = stack
    live.run(
        settings, "flows.cli", "run", "--run", "half", "--params", str(params),
        "--run-at", "threads",
    )  # fmt: skip
    return RunFolder(live.folder / "runs" / "half")


@pytest.fixture(scope="module")
def ninety(stack: tuple[Any, Settings], chromium: Browser, params: Path) -> RunFolder:
    """A run from Prefect's form, which prunes nine units of ten."""
    live, settings = stack
    with chromium.page(viewport={"width": 1280, "height": 1400}) as page:
        log_in(page, settings)
        page.get_by_role("link", name="Deployments").click()
        page.get_by_role("link", name="round-loop").click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Custom run").click()
        fill_in(page, params)
        page.get_by_text("Run Name").scroll_into_view_if_needed()
        page.evaluate("scrollTo(0, 0)")
        chromium.photograph(page, "prefect-form", until=field(page, "run"))
        press_submit(page)
        page.get_by_role("link", name="Runs", exact=True).first.click()
        page.get_by_role("link", name="fedx ninety").first.click()
        ended = re.compile("^(Completed|Failed|Crashed|Cancelled)$")
        page.get_by_text(ended).first.wait_for(timeout=300_000)
        assert page.get_by_text(ended).first.inner_text() == "Completed", live.logs()
    return RunFolder(live.folder / "runs" / "ninety")


def log_in(page: Any, settings: Settings) -> None:
    page.goto(settings.prefect)
    page.get_by_placeholder("admin:pass").fill(settings.prefect_auth)
    assert "/login" in page.url
    page.get_by_role("button", name="Login").click()
    page.get_by_role("link", name="Deployments").wait_for()


def field(page: Any, name: str) -> Any:
    """Find a field of the form: its name, its description and what is filled in."""
    label = page.locator("label").filter(has_text=re.compile(rf"^{name} \(Optional\)$"))
    return label.locator("xpath=ancestor::div[.//fieldset][1]")


def choices(page: Any, name: str) -> list[str]:
    page.get_by_role("button", name=f"Select {name}").click()
    page.get_by_role("option", name=AS_SET).wait_for()
    found: list[str] = page.get_by_role("option").all_inner_texts()
    page.keyboard.press("Escape")
    page.get_by_role("listbox").wait_for(state="detached")
    return found


def choose(page: Any, name: str, value: str) -> None:
    page.get_by_role("button", name=f"Select {name}").click()
    page.get_by_role("option", name=value, exact=True).click()
    # One that is still closing would close the next one as well.
    page.get_by_role("listbox").wait_for(state="detached")


def fill_in(page: Any, params: Path) -> None:
    """Fill in the form as a person would, wrongly first."""
    page.get_by_role("button", name="Select method").wait_for()
    assert choices(page, "method") == [AS_SET, *plugins.names("methods")]
    assert choices(page, "relevance") == [AS_SET, *plugins.names("relevance")]
    assert choices(page, "model") == [AS_SET, *catalogue.names()]
    assert "synthetic" in choices(page, "dataset")
    assert "Criterion by which units are pruned" in field(page, "relevance").inner_text()
    assert "units that a pruning event removes" in field(page, "pruning_rate").inner_text()

    choose(page, "relevance", "lrp")
    choose(page, "run_at", "threads")
    page.get_by_label("run (Optional)").fill("ninety")
    page.get_by_label("params (Optional)").fill(str(params))
    rate = field(page, "pruning_rate")
    rate.get_by_role("tab", name="float").click()
    rate.get_by_role("spinbutton").fill("1.5")
    page.get_by_role("button", name="Submit").click()
    wrong = page.get_by_text("1.5 is not valid")
    wrong.wait_for()
    page.get_by_text("1.5 is greater than or equal to the maximum of 1").wait_for()
    page.mouse.move(0, 0)  # the message stays while the mouse is on it
    rate.get_by_role("spinbutton").fill("0.9")
    wrong.wait_for(state="hidden")
    page.get_by_text("1.5 is greater").wait_for(state="hidden")


def press_submit(page: Any) -> None:
    """Press it until it works, as a person would.

    After a mistake the form takes the first time for a check, and a server on SQLite that is
    writing answers 503, which the form calls an unknown error.
    """
    asked: list[str] = []
    answers: list[int] = []
    page.on("request", lambda r: asked.append(r.url) if "/create_flow_run" in r.url else None)
    page.on("response", lambda r: answers.append(r.status) if r.url in asked else None)
    for _ in range(5):
        with page.expect_response("**/validate"):
            page.get_by_role("button", name="Submit").click()
        page.wait_for_timeout(1000)
        while len(answers) < len(asked):
            page.wait_for_timeout(200)
        if 201 in answers:
            page.wait_for_url(lambda url: "/run?" not in url)
            return
    pytest.fail(f"the form was not accepted: {answers}")


def test_a_run_from_prefects_form_did_what_was_filled_in(ninety: RunFolder) -> None:
    settings = yaml.safe_load(ninety.config.read_text())
    assert settings["method"]["pruning_rate"] == 0.9
    assert settings["method"]["relevance"]["name"] == "lrp"
    assert ninety.notes()["status"] == "FINISHED"


def test_prefects_page_of_a_run_shows_its_steps_rounds_and_artifacts(
    stack: tuple[Any, Settings], chromium: Browser, ninety: RunFolder
) -> None:
    _, settings = stack
    with chromium.page(viewport={"width": 1400, "height": 960}) as page:
        log_in(page, settings)
        page.get_by_role("link", name="Runs", exact=True).first.click()
        page.get_by_role("link", name="fedx ninety").first.click()
        page.get_by_role("combobox", name="log sort order").click()
        page.get_by_role("option", name="Newest to oldest").click()
        page.get_by_text(f"round {ROUNDS}/{ROUNDS}").wait_for()
        # Rounds are not buried under what became of each task.
        assert page.get_by_role("listitem").filter(has_text="Finished in state").count() <= 1
        page.locator("canvas").first.wait_for()
        page.wait_for_timeout(2000)  # the graph moves into place
        chromium.photograph(page, "prefect-run")
        page.get_by_role("tab", name="Task Runs").click()
        page.get_by_role("link", name=f"commit-r{ROUNDS}").wait_for()
        page.get_by_role("tab", name="Artifacts").click()
        tiles = page.locator("main a[href*='/artifacts/key/']")
        tiles.first.wait_for()
        keys = [f"fedx-ninety-{kind}" for kind in ("links", "progress", "rounds")]
        assert sorted(tiles.locator("h3").all_inner_texts()) == keys

        open_artifact(page, settings, keys[2])
        assert page.get_by_role("row").count() == 1 + ROUNDS
        heads = page.get_by_role("columnheader").all_inner_texts()
        assert heads[:5] == ["round", "accuracy %", "sparsity %", "MiB down", "MiB up"]
        page.get_by_text(announce.TABLE_SAYS).wait_for()
        chromium.photograph(page, "prefect-rounds")
        open_artifact(page, settings, keys[1])
        page.get_by_text("Progress: 100%").wait_for()
        open_artifact(page, settings, keys[0])
        (copy,) = ninety.notes()["mlflow"].values()
        charts = page.get_by_role("link", name="charts", exact=True)
        assert charts.get_attribute("href") == copy["charts"]
        page.goto(ninety.notes()["prefect_page"])  # where MLflow's page of the run leads
        page.get_by_text("fedx ninety").first.wait_for()
    assert chromium.refused <= {AMPLITUDE}


def open_artifact(page: Any, settings: Settings, key: str) -> None:
    page.goto(f"{settings.prefect}/v2/artifacts/key/{key}")
    # Where it leads, in place of a click: the page draws it anew, and a click in between is lost.
    leads = page.locator("main a[href*='/artifacts/artifact/']").get_attribute("href")
    page.goto(f"{settings.prefect}{leads}")
    page.get_by_role("tab", name="Raw").wait_for()
    page.get_by_text("Show Raw Data").wait_for()


def test_mlflow_compares_runs_from_a_shell_and_from_the_form(
    chromium: Browser, half: RunFolder, ninety: RunFolder
) -> None:
    (copy,) = ninety.notes()["mlflow"].values()
    assert [copy["charts"]] == [c["charts"] for c in half.notes()["mlflow"].values()]
    chromium.refused.clear()
    with chromium.page(viewport={"width": 1280, "height": 1700}) as page:
        page.goto(copy["charts"])
        # The axis of the last chart: by then all of them are drawn.
        page.get_by_text("paper/cumulative_mib", exact=True).first.wait_for()
        clear_the_view(page)
        for run in ("half", "ninety"):
            assert page.get_by_role("link", name=run, exact=True).count() == 1
            assert page.get_by_text(f"{run} (test/overall_accuracy)").count() >= 2
        cards = page.locator("[data-testid='experiment-view-compare-runs-card']")
        first = cards.first
        page.get_by_text("accuracy against MiB transmitted (right: last round)").wait_for()
        assert "wire/cumulative_mib" in first.inner_text()
        assert first.locator("svg .scatterlayer .trace").count() >= 2
        last = cards.filter(has_text="paper/cumulative_mib").first
        chromium.photograph(page, "mlflow-charts", until=last)
    with chromium.page(viewport={"width": 1280, "height": 1100}) as page:
        page.goto(copy["page"])
        page.get_by_text("test/overall_accuracy").first.wait_for()
        clear_the_view(page)
        said = page.inner_text("main")
        assert "Evaluations" not in said  # which are of language models
        assert "method.pruning_rate\n0.9\n" in said
        assert "synthetic/prepared" in said
        assert "fedx-synthetic-resnet6" in said
        chromium.photograph(page, "mlflow-run")
        page.get_by_role("tab", name="Artifacts").click()
        page.get_by_text("results", exact=True).click()
        page.get_by_text("accuracy.svg", exact=True).click()
        page.get_by_text("results/accuracy.svg").first.wait_for()
        assert page.get_by_text("clients_by_round.json").count() == 1
    assert chromium.refused == set()


def clear_the_view(page: Any) -> None:
    """Close MLflow's offers, and see that it complains about nothing."""
    assistant = page.get_by_text("MLflow Assistant").locator("xpath=ancestor::div[.//button][1]")
    assistant.get_by_role("button").last.click()
    banner = page.get_by_role("button", name="Hide banner")
    if banner.count():
        banner.click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(2000)  # until charts have their new width
    alerts = page.get_by_role("alert").all_inner_texts()
    assert not [words for words in alerts if re.search("error|fail|wrong", words, re.I)]


def test_a_report_is_read_offline_on_a_screen_a_phone_and_paper(
    stack: tuple[Any, Settings], chromium: Browser, half: RunFolder, ninety: RunFolder
) -> None:
    live, settings = stack
    out = live.folder / "report"
    live.run(settings, "flows.cli", "report", half.name, ninety.name, "--out", str(out))
    address = (out / "report.html").as_uri()
    phone = {"width": 360, "height": 800}
    for name, options in (
        ("report", {"viewport": {"width": 1280, "height": 1200}}),
        ("report-phone", {"viewport": phone, "is_mobile": True, "device_scale_factor": 2}),
    ):
        with chromium.page(**options) as page:
            page.goto(address)
            page.wait_for_load_state("networkidle")
            assert chromium.requests == [address]
            wide = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            content, window = page.evaluate(wide)
            assert content <= window == options["viewport"]["width"]
            beyond = "found => found.filter(f => f.scrollWidth > f.clientWidth).length"
            assert page.locator(".drawing").evaluate_all(beyond) == 0
            assert {"half", "ninety"} <= set(page.locator("tbody th").all_inner_texts())
            chromium.photograph(page, name)
    with chromium.page() as page:
        page.goto(address)
        page.pdf(path=out / "report.pdf", format="A4")
        paper = (out / "report.pdf").read_bytes()
    assert paper.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type /Page\b", paper)) <= 30
