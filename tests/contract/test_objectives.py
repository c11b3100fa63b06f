"""Every objective: any model and any bands, the same bits again, and client state that goes on.

With an objective without labels, every method is a method of federated pre-training.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bed import Bed, tiny, tiny_resnet6
from fedx_core.base import plugins, state
from fedx_core.base.config import Plugin
from fedx_core.base.errors import ConfigError, DataError, SchemaError
from fedx_core.clients.plan import MethodDesk, set_up
from fedx_core.desk.local import Local
from fedx_core.desk.plan import Plan
from fedx_core.images import set_folder
from fedx_core.images.examples import Examples
from fedx_core.images.label_values import LabelKind
from fedx_core.images.pixels import Pixels
from fedx_core.methods.base import load
from fedx_core.models import catalogue
from fedx_core.objectives.base import Task
from fedx_core.predict import model_file
from fedx_core.pruning.masks import keep_highest
from fedx_core.record.journal import Journal
from fedx_core.rounds.carrier import InProcess
from fedx_core.rounds.federation import federate, final_model
from fedx_core.store import open_store

NAMES = plugins.names("objectives")
UNLABELLED = [name for name in NAMES if not plugins.load("objectives", name).needs_labels]
METHODS = plugins.names("methods")
NO_CLASSIFIER = {"fedlp_hetero"}
"""Methods that put a classifier of their own behind a model."""


def kind_of(objective: str) -> LabelKind:
    kind: LabelKind = plugins.load("objectives", objective).label_kinds[0]
    return kind


def desk_of(objective: str, model: str = "resnet6", bands: int = 4, **training: Any) -> MethodDesk:
    block = {"name": objective, **training.pop("objective", {})}
    settings = tiny(
        training__objective=block, training__batch_size=8,
        **{f"training__{name}": value for name, value in training.items()},
    ).training  # fmt: skip
    return set_up(
        Plan(
            model=model, bands=bands, classes=3, label_kind=kind_of(objective),
            pixels=Pixels(scale=255.0, mean=(0.4,) * bands, std=(0.2,) * bands,
                          input_size=catalogue.entry(model).input_size,
                          memory_format="contiguous"),
            training=settings, method=Plugin(name="fedavg"), codec=Plugin(name="dense"),
        )
    )  # fmt: skip


def images(count: int = 20, bands: int = 4, side: int = 32, kind: LabelKind = "single") -> Examples:
    random = np.random.default_rng(0)
    shape = (count, side, side) if kind == "pixels" else (count,)
    return Examples(
        random.integers(0, 256, (count, bands, side, side), dtype=np.uint8),
        random.integers(0, 3, shape).astype(np.uint8 if kind == "pixels" else np.int64),
        np.zeros(count, np.int16),
    )


def local_of(desk: MethodDesk, round_index: int = 1, **changed: Any) -> Local:
    weights = changed.pop("weights", None) or state.copy(desk.model.state_dict())
    fields: dict[str, Any] = {
        "desk": desk, "client": "a", "round_index": round_index, "model": desk.model,
        "downlink": state.as_section(desk.shared(weights), "model"), "mask": None, "memory": {},
        "examples": images(bands=desk.plan.bands, kind=desk.plan.label_kind),
        "seed": 7 + round_index,
    }  # fmt: skip
    return Local(**(fields | changed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["resnet6", "convnextv2_atto", "vit_tiny"])
@pytest.mark.parametrize("cpu_amp", [False, True])
def test_an_objective_trains_any_model_of_any_bands_or_refuses_it_before_a_run(
    name: str, model: str, cpu_amp: bool
) -> None:
    if name == "mae" and model != "vit_tiny":
        with pytest.raises(ConfigError, match=r"only a vision transformer can.*Choose vit_tiny"):
            desk_of(name, model)
        return
    if name == "segmentation" and model != "resnet6":
        with pytest.raises(ConfigError, match=r"which residual networks have.*Choose resnet6"):
            desk_of(name, model)
        return
    desk = desk_of(name, model, cpu_amp=cpu_amp)
    start = state.copy(desk.model.state_dict())
    local = local_of(desk)
    load(local)
    assert np.isfinite(local.fit())
    trained = desk.model.state_dict()
    state.require_same_layout(start, trained)
    state.require_finite(trained, "the client")
    moved = [n for n in desk.graph.parameters if not torch.equal(start[n], trained[n])]
    # All that is trained moves, heads too; but for the norm that only pooled features pass.
    unread = {"head.norm.weight", "head.norm.bias"} if name == "simmim" else set()
    assert set(moved) >= desk.graph.parameters - unread


@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_is_done_again_gives_the_same_bits_and_keeps_the_same(name: str) -> None:
    model = "vit_tiny" if name == "mae" else "resnet6"
    desk = desk_of(name, model)
    start = state.copy(desk.model.state_dict())
    memory: state.StateDict = {}
    found = []
    for round_index in (1, 2, 4):
        for _ in range(2):
            local = local_of(desk, round_index, weights=start, beside=dict(memory))
            update = desk.method.train(local)
            found.append((update.payload, local.beside))
        (one, kept), (again, kept_again) = found[-2:]
        assert state.equal(one, again)
        assert state.equal(kept, kept_again)
        memory = kept
    assert bool(memory) is (name in ("moco", "byol"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_seen_is_paired_with_the_images_that_another_network_sees(name: str) -> None:
    desk = desk_of(name, "vit_tiny" if name == "mae" else "resnet6")
    network, inputs = desk.model.train(), torch.randn(8, 4, 64, 64)
    task = Task(
        label_kind=desk.plan.label_kind, labels=np.arange(8) % 3, pixels=desk.plan.pixels,
        settings=desk.plan.training,
    )  # fmt: skip
    targets = torch.arange(8) % 3 if name == "supervised" else None
    seen = desk.objective.views(network, inputs, targets, task, np.random.default_rng(1))
    outputs = desk.objective.outputs(network, seen)
    pairs = desk.objective.vectors_seen(network, seen, outputs)
    assert len(pairs) == (2 if name in ("simclr", "byol") else 1)
    for vectors, images in pairs:
        whole = desk.objective.vectors(network, images)
        assert vectors.shape == whole.shape == (8, whole.shape[1])
        assert vectors.requires_grad
        alike = torch.nn.functional.cosine_similarity(vectors, whole).mean()
        if name in ("supervised", "segmentation", "moco", "byol"):  # of the same batch, all of it
            assert float(alike.detach()) == pytest.approx(1, abs=1e-5)
        else:
            assert float(alike.detach()) > 0.5


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_a_momentum_encoder_goes_on_where_its_client_left_it(name: str) -> None:
    desk = desk_of(name)
    start = state.copy(desk.model.state_dict())
    first = local_of(desk, 1, weights=start)
    desk.method.train(first)
    kept, fresh = (
        desk.method.train(local_of(desk, 2, weights=start, beside=beside)).payload
        for beside in (dict(first.beside), {})
    )
    assert not state.equal(kept, fresh)
    copies = [n for n in first.beside if n.startswith("copy.conv1")]
    assert copies
    assert not any(n.startswith("copy.predictor") for n in first.beside)


@pytest.mark.parametrize("name", ["simclr", "moco", "byol", "simmim", "segmentation"])
def test_a_smaller_network_learns_what_one_with_dead_units_learns(name: str) -> None:
    found = []
    for shrink in (True, False):
        desk = desk_of(name, shrink=shrink, optimiser="sgd", learning_rate=0.01)
        scores = {
            layer.name: torch.rand(layer.units, generator=torch.Generator().manual_seed(i))
            for i, layer in enumerate(desk.graph.layers)
        }
        mask = keep_highest(scores, 0.5)
        support = desk.graph.support(mask, "slices")
        weights = {
            n: torch.where(support[n], v, 0.0) if n in support else v
            for n, v in desk.model.state_dict().items()
        }
        local = local_of(
            desk, weights=weights, mask=mask, cuts=desk.cuts(mask), model=desk.model_for(mask)
        )
        update = desk.method.train(local)
        assert bool(local.cuts) is shrink
        found.append(update.payload)
    small, dense = found
    for entry, value in dense.items():
        if value.is_floating_point() and "running" not in entry:
            torch.testing.assert_close(small[entry], value, atol=2e-4, rtol=2e-2)


@pytest.mark.parametrize("name", ["simclr", "byol"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_method_of_pre_training(method: str, name: str, bed: Bed) -> None:
    own: dict[str, dict[str, Any]] = {
        "fedx": {"method__warmup_rounds": 1, "method__relevance": {"name": "lrp"}},
        "fedsense": {"method__distil": "off", "method__ramp": 1},
        "fedckd": {"training__objective": {"name": name, "predictor": True}},
    }
    chosen: dict[str, Any] = {
        "method__name": method, "training__objective": {"name": name},
        "training__batch_size": 32, "federation__rounds": 2,
    }  # fmt: skip
    if (method, name) == ("fedckd", "byol"):
        with pytest.raises(ConfigError, match=r"byol as it is has not both; set it to.*simclr"):
            list(federate(tiny(**chosen), bed.setting(), InProcess(1)))
        return
    settings = tiny(**{**chosen, **own.get(method, {})})
    if method in NO_CLASSIFIER:
        with pytest.raises(ConfigError, match="puts a classifier behind each depth"):
            list(federate(settings, bed.setting(), InProcess(1)))
        return
    parts = bed.setting("parts")
    stopped = federate(settings, parts, InProcess(1))
    first = next(stopped)
    stopped.close()
    (second,) = federate(settings, parts, InProcess(1), resume=True)
    store = open_store(parts.place.store)
    model = final_model(store)
    state.require_finite(model, "the server")
    assert any(entry.startswith("projector.") for entry in model)
    assert not any(entry.startswith(("fc.", "copy.")) for entry in model)
    assert (first.train_loss > 0) == (method != "untrained")
    assert 0 <= second.metrics["overall_accuracy"] <= 1
    if (name == "byol" and method in ("fedavg", "fedx", "spafl", "fedema")) or (
        name == "simclr" and method in ("fedsense", "fedckd")
    ):
        whole = bed.setting("whole")
        list(federate(settings, whole, InProcess(2)))
        assert state.equal(model, final_model(open_store(whole.place.store)))


@pytest.mark.parametrize("name", ["simclr", "byol"])
def test_local_heads_stay_with_their_clients(name: str, bed: Bed) -> None:
    local = {"training__objective": {"name": name, "heads": "local"}, "method__name": "fedavg"}
    shared = {**local, "training__objective": {"name": name}}
    reports = {
        run: list(
            federate(tiny_resnet6(federation__rounds=2, **changes), bed.setting(run), InProcess(1))
        )
        for run, changes in (("local", local), ("shared", shared))
    }
    sizes = {run: r[-1].traffic["client-00"].uplink for run, r in reports.items()}
    heads = 128 * 128 + 128 + 2 * 128 + 2 * 128 + 128 * 128 + 128
    heads += (2 * (128 * 128 + 128) + 4 * 128) * (name == "byol")
    counters = 8 * (1 + (name == "byol"))  # BatchNorm counts its batches
    assert abs(sizes["shared"] - sizes["local"] - 4 * heads - counters) < 1100  # descriptions


def test_a_pre_trained_encoder_starts_a_run_that_learns_labels_and_one_that_does_not(
    bed: Bed, tmp_path: Path
) -> None:
    settings = {"method__name": "fedavg", "federation__rounds": 1}
    before = bed.setting("before")
    list(federate(tiny(training__objective={"name": "byol"}, **settings), before, InProcess(1)))
    store = open_store(before.place.store)
    encoder = final_model(store)
    description = set_folder.read(before.data / "prepared").description
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(model_file.pack(encoder, model_file.card_of(Journal(store), description, 1)))
    for name, objective in (("labels", "supervised"), ("simclr", "simclr")):
        setting = bed.setting(name)
        started = tiny(
            training__objective={"name": objective}, training__learning_rate=1e-12,
            training__weight_decay=0.0, model__weights=str(file), **settings,
        )  # fmt: skip
        list(federate(started, setting, InProcess(1)))
        model = final_model(open_store(setting.place.store))
        torch.testing.assert_close(model["layer2.0.conv2.weight"], encoder["layer2.0.conv2.weight"])
        assert ("fc.weight" in model) is (objective == "supervised")
    with pytest.raises(
        SchemaError, match=r"an encoder that learned without labels.*model.weights="
    ):
        model_file.read(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__batch_size": 4}, r"training\.batch_size: training\.objective compares.*8 or"),
        ({"training__objective": {"name": "simsiam"}}, r"no objective 'simsiam'.*choose one of"),
        (
            {"training__objective": {"name": "moco", "momentum": 1}},
            r"momentum must lie in \[0, 1",
        ),
        ({"training__objective": {"name": "simclr", "temperature": 0}}, r"temperature must be pos"),
        (
            {"training__objective": {"name": "simclr", "heads": "none"}},
            r"heads: wanted 'shared' or",
        ),
        ({"training__objective": {"name": "mae"}}, r"only a vision transformer can"),
        (
            {"training__objective": {"name": "mae", "decoder_width": 40}},
            r"multiple of 32, got 40",
        ),
        ({"training__objective": {"name": "simmim", "hidden": 1.0}}, r"hidden must lie in \(0, 1"),
        (
            {"method__relevance": {"name": "lrp"}, "training__objective": {"name": "simmim"}},
            r"lrp explains classes or the similarity of two views.*simmim has neither; choose",
        ),
        (
            {
                "method__relevance": {"name": "lrp"},
                "training__objective": {"name": "byol", "heads": "local"},
            },
            r"training\.objective\.heads: local leaves the server none; set it to shared",
        ),
    ],
)
def test_what_can_not_learn_is_refused_before_the_run(
    changes: dict[str, Any], message: str, bed: Bed
) -> None:
    setting = bed.setting()
    with pytest.raises((ConfigError, DataError), match=message):
        list(federate(tiny(**{"training__objective": {"name": "simclr"}, **changes}), setting,
                      InProcess(1)))  # fmt: skip


@pytest.mark.parametrize("name", UNLABELLED)
def test_images_that_are_too_small_to_learn_from_are_refused(
    name: str, bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = plugins.load("objectives", name)
    assert kind.least_side > 1
    monkeypatch.setattr(kind, "least_side", 64)  # the data has 32
    model = "vit_tiny" if name == "mae" else "resnet6"
    settings = tiny(training__objective={"name": name}, model__name=model, method__name="fedavg")
    with pytest.raises(ConfigError, match=rf"{name} needs images of 64 pixels.*synthetic has 32"):
        list(federate(settings, bed.setting(), InProcess(1)))


def test_clients_with_fewer_images_than_a_batch_needs_are_refused(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins.load("objectives", "simclr"), "least_batch", 40)
    settings = tiny(training__objective={"name": "simclr"}, training__batch_size=64)
    with pytest.raises(DataError, match=r"has 32 training image\(s\), and training.objective ne"):
        list(federate(settings, bed.setting(), InProcess(1)))
