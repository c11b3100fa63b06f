import base64
import json
import zlib

import pytest
from mlflow import MlflowClient

from flows.tracking import charts, places


def state(text: str) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads(
        zlib.decompress(base64.b64decode(text.removeprefix("deflate;")))
    )
    return found


def test_the_view_is_left_once_grows_by_scores_and_spares_what_others_wrote(
    mlflow_uri: str,
) -> None:
    client = MlflowClient(tracking_uri=mlflow_uri)
    experiment_id = client.create_experiment("fedx")
    charts.prepare(client, experiment_id, ())
    assert charts.prepare(client, experiment_id, ["test/micro_map"]) == {"test/micro_map"}
    both = charts.prepare(client, experiment_id, ["test/overall_accuracy"])
    assert both == {"test/micro_map", "test/overall_accuracy"}
    tags = dict(client.get_experiment(experiment_id).tags)
    assert charts.prepare(client, experiment_id, ()) == both
    assert client.get_experiment(experiment_id).tags == tags

    tiles = state(tags[charts.TAG])["compareRunCharts"]
    first = tiles[0]
    assert first["type"] == "LINE"
    assert (first["xAxisKey"], first["selectedXAxisMetricKey"]) == ("metric", "wire/cumulative_mib")
    drawn = {(tile["type"], tile.get("metricKey"), tile.get("xAxisKey")) for tile in tiles}
    assert ("LINE", "test/overall_accuracy", "step") in drawn
    sections = state(tags[charts.TAG])["compareRunSections"]
    assert [section["name"] for section in sections] == [
        "mAP against MiB transmitted (right: last round)",
        "accuracy against MiB transmitted (right: last round)",
        "mAP and accuracy and sparsity by round",
        "mAP against MiB as the paper counts them",
        "accuracy against MiB as the paper counts them",
    ]
    assert {tile["metricSectionId"] for tile in tiles} == {s["uuid"] for s in sections}
    assert ("LINE", "sparsity", "step") in drawn
    assert [kind for kind, *_ in drawn].count("SCATTER") == 1  # both have no metricKey
    assert charts.path(experiment_id) in tags[charts.NOTE]

    client.set_experiment_tag(experiment_id, charts.NOTE, "Ours; do not touch.")
    charts.prepare(client, experiment_id, ())
    assert client.get_experiment(experiment_id).tags[charts.NOTE] == "Ours; do not touch."


@pytest.mark.parametrize(
    ("uri", "begins"),
    [
        ("http://ann:secret@host:5000/", "charts: http://host:5000/#/experiments/7/runs?"),
        ("sqlite:////tmp/mlflow.db", "charts: http://127.0.0.1:5000/#/experiments/7/runs?"),
    ],
)
def test_the_charts_have_an_address_without_secrets(uri: str, begins: str) -> None:
    line = charts.where(uri, "7")
    assert line.startswith(begins)
    assert "viewStateShareKey=fedx" in line
    assert "secret" not in line
    assert ("mlflow server --backend-store-uri sqlite:////tmp/mlflow.db" in line) == (
        "sqlite" in uri
    )


def test_a_place_has_one_name_from_every_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert places.default() == f"sqlite:///{folder / 'mlflow.db'}"
    assert places.absolute(places.default()) == places.default()
    assert places.public("postgresql://u:p@host/db") == "postgresql://host/db"
    assert places.public(places.default()) == places.default()
    assert places.artifact_location(places.default()) == (folder / "mlruns").as_uri()
    assert places.artifact_location("http://host:5000") is None
