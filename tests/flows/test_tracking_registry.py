import pytest
from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from bed import NARROW
from flows.runs import record
from flows.runs.run_folder import RunFolder
from flows.tracking import registry


def version(number: int, data: str = "d", **scores: float) -> ModelVersion:
    tags = {registry.DATA: data, registry.METRIC: "overall_accuracy"}
    tags |= {registry.SCORED[split]: repr(score) for split, score in scores.items()}
    return ModelVersion(
        "fedx-eurosat-resnet6",
        str(number),
        creation_timestamp=0,
        tags=[ModelVersionTag(key, value) for key, value in tags.items()],
    )


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        pytest.param([version(1, test=0.8), version(2, test=0.7)], (1, "test"), id="by test"),
        pytest.param(
            [version(1, test=0.9, validation=0.6), version(2, test=0.7, validation=0.7)],
            (2, "validation"),
            id="validation goes before a better test score",
        ),
        pytest.param(
            [version(1, test=0.9), version(2, test=0.7, validation=0.7)],
            (2, "validation"),
            id="whoever lacks a validation score does not compete with one who has",
        ),
        pytest.param(
            [version(1, "old images", test=0.99), version(2, test=0.5), version(3, test=0.4)],
            (2, "test"),
            id="scores on other images do not count",
        ),
        pytest.param(
            [version(10, test=0.5), version(9, test=0.5)], (9, "test"), id="of equals the first"
        ),
        pytest.param([version(1), version(2)], (2, "nothing"), id="without scores the newest"),
    ],
)
def test_the_best_version_is_chosen_by_what_may_choose(
    versions: list[ModelVersion], expected: tuple[int, str]
) -> None:
    assert registry.best(versions) == expected
    assert registry.best(versions[::-1]) == expected


def test_a_version_says_which_round_it_is_and_what_it_scored(base: RunFolder) -> None:
    found = record.read(base)
    made = registry.version_of(found, 2, "ab" * 32)
    assert (made.name, made.place) == (f"fedx-synthetic-{NARROW}", "models/0002-abababab")
    assert float(made.tags["fedx.test"]) == found.reports[1].metrics["overall_accuracy"]
    assert made.tags["fedx.data"] == found.notes["data"]["prepared"]["digest"]
    assert "fedx.validation" not in made.tags
