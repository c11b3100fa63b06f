"""The page as a browser gets it, and the files beside it."""

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedx_core.pruning import overlap
from flows.report import data, explanations, outcome, page, settings
from flows.report.files import write_report
from flows.report.gather import gather
from flows.report.parts import Column, Section, Table
from flows.runs.rows import MIB
from reported import Written

SECTIONS = [
    "headline", "accuracy", "bytes", "units", "relevance", "masks", "heat-maps", "data", "scores",
    "settings", "provenance",
]  # fmt: skip
VOID = {"meta", "br", "image", "use", "path", "img"}


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]


@pytest.fixture(scope="module")
def read(written: Written) -> Reader:
    return Reader(written.text)


def rows(written: Written, table: str) -> list[dict[str, str]]:
    text = written.file(f"tables/{table}.csv").read_text()
    return list(csv.DictReader(io.StringIO(text)))


def test_every_section_is_there_in_order_and_linked(read: Reader) -> None:
    sections = [a["id"] for a in read.all("section") if a.get("class") != "table"]
    assert sections == SECTIONS
    links = {a["href"] for a in read.all("a")}
    assert links >= {f"#{name}" for name in SECTIONS}


def test_the_page_is_whole_and_loads_nothing(written: Written, read: Reader) -> None:
    assert read.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in read.tags}
    loaded = [
        value
        for tag, attributes in read.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action") or (name == "href" and tag != "a")
    ]
    assert all(str(value).startswith(("data:", "#")) for value in loaded)
    assert not re.search(r"@import|url\((?!#)", written.text)
    assert "http" not in re.sub(r"data:[^\"']*", "", written.text)


def test_every_figure_says_in_words_what_it_shows_and_how_to_read_it(read: Reader) -> None:
    images = [a for a in read.all("div") if a.get("role") == "img"]
    assert len(images) == len(read.all("figcaption")) == len(read.all("figure")) == 10
    assert all(len(str(a["aria-label"])) > 30 for a in images)
    assert read.all("html") == [{"lang": "en"}]
    assert "viewport" in {a.get("name") for a in read.all("meta")}
    ids = Counter(a["id"] for _, a in read.tags if a.get("id"))
    assert max(ids.values()) == 1


def test_every_figure_and_table_lies_beside_the_page(written: Written, read: Reader) -> None:
    beside = {str(a["href"]) for a in read.all("a") if not str(a["href"]).startswith("#")}
    assert beside == set(written.report.files)
    for name in written.report.files:
        assert written.file(name).stat().st_size > 20
    assert Counter(Path(name).suffix for name in beside)[".png"] == 10


def test_headline_numbers_are_those_of_the_summaries(written: Written) -> None:
    for row in rows(written, "headline"):
        found = json.loads((written.root / row["run"] / "results" / "summary.json").read_bytes())
        sent = found["wire_bytes"]
        assert float(row["final"]) == found["metrics"]["overall_accuracy"]
        assert float(row["MiB down"]) == sent["downlink"] / MIB
        assert float(row["MiB up"]) == sent["uplink"] / MIB
        assert float(row["MiB mask"]) == sent["mask"] / MIB
        assert float(row["MiB total"]) == sent["total"] / MIB
        assert float(row["MiB paper"]) == found["paper_bytes"] / MIB
        assert float(row["sparsity"]) == found["sparsity"]
        assert int(row["clients lost"]) == 0
    assert [dict(row)["run"] for row in written.report.headline] == ["base", "chance"]


def test_tables_by_class_client_and_layer_are_those_of_the_run(written: Written) -> None:
    base = written.runs[0]
    classes = {
        row["class"]: float(row["base"]) for row in rows(written, "scores-by-class-synthetic")
    }
    assert classes == base.summary["per_class"]
    clients = {
        row["client"]: float(row["base"]) for row in rows(written, "scores-by-client-synthetic")
    }
    assert clients == {
        name: found["overall_accuracy"] for name, found in base.summary["per_client"].items()
    }
    units = [row for row in rows(written, "units-by-layer") if row["run"] == "base"]
    assert {row["layer"]: (int(row["kept"]), int(row["units"])) for row in units} == dict(
        base.reports[-1].units_kept
    )
    sent = sum(int(row["total"]) for row in rows(written, "bytes-by-client"))
    assert sent == sum(run.summary["wire_bytes"]["total"] for run in written.runs)


def test_scores_at_the_event_part_kept_from_pruned(written: Written) -> None:
    found = rows(written, "scores-by-layer")
    assert {(row["run"], row["round"]) for row in found} == {("base", "2"), ("chance", "2")}
    for row in found:
        assert float(row["highest pruned"]) <= float(row["lowest kept"])
        assert int(row["kept"]) == int(row["units"]) / 2


def test_agreement_of_masks_stands_beside_chance(written: Written) -> None:
    [base], [chance] = (run.events for run in written.runs)
    [row] = rows(written, "agreement-of-masks")
    expected = overlap.overall(base.mask, chance.mask)
    assert float(row["Jaccard"]) == expected.jaccard
    assert float(row["by chance"]) == expected.by_chance
    assert len(rows(written, "agreement-by-layer")) == len(base.mask.entries)


def test_heat_maps_are_of_the_models_before_and_after_pruning_and_the_last(
    written: Written,
) -> None:
    found = [row for row in rows(written, "heat-maps") if row["run"] == "base"]
    assert [row["model"] for row in found] == [
        "before pruning (round 2)",
        "right after (round 2)",
        "final (round 3)",
    ]
    assert len({row["logit"] for row in found}) == 3
    assert len({row["label"] for row in found}) == 1


def test_settings_that_differ_come_first_and_the_command_repeats_the_run(written: Written) -> None:
    assert rows(written, "differences") == [
        {"setting": "method.relevance.name", "base": "magnitude", "chance": "random"}
    ]
    origin = {row[""]: row for row in rows(written, "provenance")}
    assert origin["rounds"]["base"] == "3 of 3"
    assert origin["git commit"]["base"]
    assert origin["data prepared digest"]["base"] == origin["data prepared digest"]["chance"]
    command = origin["to repeat it"]["chance"]
    config = written.root / "chance" / "config.yaml"
    assert command.startswith(f"fedx run --params {config} --run chance-again --data-root")


def test_equal_runs_give_equal_bytes(written: Written, tmp_path: Path) -> None:
    again = write_report(
        gather(written.root, ["base", "chance"]), tmp_path, heat_maps=1, accuracy=None
    )
    assert again.files == written.report.files
    for name in (*again.files, "report.html"):
        assert (tmp_path / name).read_bytes() == written.file(name).read_bytes(), name


def test_names_are_escaped_and_only_addresses_become_links() -> None:
    table = Table("t", "<i>&", [Column("<b>")], [["<script>alert(1)</script>"], ["a"]])
    links = Table("l", "", [Column("x"), Column("y")], [["a", "https://example.org/?a=1&b=2"],
                                                        ["b", "javascript:alert(1)"]])  # fmt: skip
    section = Section("key", "<h>", "<text>", tables=[table, links], missing=["<missing>"])
    text = page.render("<title>", [section], {"<run>": "#000"}, "<by>")
    for word in ("script", "b", "i", "h", "text", "missing", "run", "by"):
        assert f"<{word}>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert '<a href="https://example.org/?a=1&amp;b=2">' in text
    assert 'href="javascript' not in text
    assert Reader(text).open == []


def test_what_is_missing_is_said_and_the_rest_is_written(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = written.runs[0]
    record = replace(base.record, notes={**base.record.notes, "data_root": str(tmp_path)})
    poor = replace(base, clients=None, events=(), record=record)
    found = write_report([poor], tmp_path, heat_maps=1, accuracy=None)
    said = "\n".join(found.missing)
    assert "base kept no traces of its pruning events" in said
    assert f"base has no heat maps: no {tmp_path}/synthetic/reference/manifest.json" in said
    assert "base has no results/clients.json" in said
    text = found.page.read_text()
    assert [a["id"] for a in Reader(text).all("section") if a.get("class") != "table"] == SECTIONS


def test_heat_maps_can_be_left_out_and_need_a_model_that_clients_share(
    written: Written,
) -> None:
    base = written.runs[0]
    assert explanations.section([base], 0).missing == ["Left out, as --heat-maps 0 asks."]
    method = replace(base.record.settings.method, name="local_only", params={})
    alone = replace(base.record.settings, method=method)
    run = replace(base, record=replace(base.record, settings=alone))
    [line] = explanations.section([run], 1).missing
    assert "local_only has no model that clients share" in line


def test_runs_that_share_their_clients_share_a_figure_and_countries_have_a_map(
    written: Written,
) -> None:
    base, chance = written.runs
    [section] = data.sections([base, chance])
    assert [drawing.name for drawing in section.drawings] == ["labels-base"]
    assert base.clients is not None
    clients = [
        {**client, "groups": {"train": {country: 5}}}
        for client, country in zip(
            base.clients["clients"], ("Finland", "Portugal", "Serbia"), strict=True
        )
    ]
    abroad = replace(base, clients={**base.clients, "clients": clients})
    [section] = data.sections([abroad, chance])
    names = [drawing.name for drawing in section.drawings]
    assert names == ["labels-base", "countries-base", "labels-chance"]
    assert "Finland 5, Portugal 5, Serbia 5" in section.drawings[1].alt


def test_addresses_lose_their_passwords(written: Written) -> None:
    base = written.runs[0]
    notes = {"run": "base", "mlflow": {"prod": {"page": "https://me:secret@host/x"}}}
    run = replace(base, record=replace(base.record, notes=notes))
    *_, provenance = settings.sections([run])
    cells = {row[0]: row[1] for row in provenance.tables[0].rows}
    assert cells["mlflow prod page"] == "https://host/x"


def test_who_is_ahead_is_said_of_runs_that_send_anything_and_have_one_kind_of_score(
    written: Written,
) -> None:
    base, chance = written.runs
    silent = replace(
        base,
        record=replace(base.record, notes={"run": "silent"}),
        summary={**base.summary, "wire_bytes": {**base.summary["wire_bytes"], "total": 0}},
    )
    said = outcome.sections([silent, base, chance], 0.01)[0].text
    scores = {run.name: run.summary["metrics"]["overall_accuracy"] for run in (base, chance)}
    ahead = max(scores, key=lambda name: scores[name])
    assert said.startswith(f"{ahead} ends at {scores[ahead]:.1%}")
    assert (
        "the highest of 2 that send anything. 1% cost the fewest bytes in base and chance" in said
    )
    many = tuple(replace(report, metrics={"micro_map": 0.5}) for report in chance.reports)
    other = replace(
        chance,
        record=replace(chance.record, reports=many),
        summary={**chance.summary, "metrics": {"micro_map": 0.5}, "per_client": {}},
    )
    assert outcome.sections([base, other], 0.01)[0].text == ""
