"""Before the first round: data, normalisation, first weights; or another run's first rounds."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedx_core.base import config, seeding
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import (
    ConfigError,
    DataError,
    ReferenceSetError,
    RunError,
)
from fedx_core.base.frozen_json import canonical
from fedx_core.clients.plan import (
    MethodDesk,
    pixels_of,
    plan_of,
    read_plan,
    set_up,
    unmeasured,
)
from fedx_core.images.moments import measure
from fedx_core.images.pixels import Pixels
from fedx_core.learning.training import needs_pairs, pick_device
from fedx_core.methods.base import Turn
from fedx_core.models import catalogue
from fedx_core.record import checkpoint
from fedx_core.record.journal import Journal
from fedx_core.record.records import Commit
from fedx_core.rounds import selection, staleness
from fedx_core.rounds.branching import Branch, shared_pixels
from fedx_core.rounds.carrier import Carrier
from fedx_core.rounds.normalisation import federated_moments
from fedx_core.rounds.setting import Data as Data
from fedx_core.rounds.setting import Setting as Setting
from fedx_core.rounds.setting import check_same_data as check_same_data
from fedx_core.rounds.setting import load as load
from fedx_core.rounds.setting import open_data as open_data
from fedx_core.rounds.steps import Server
from fedx_core.store import open_store, put_by_hash
from fedx_core.wire.messages import (
    ClientFailure,
    Ref,
    RoundReport,
    ServerState,
    Traffic,
)


def settings_of(journal: Journal, run: str, asked: ExperimentConfig) -> ExperimentConfig:
    """Return the settings with which a run began; only the number of rounds may change.

    Raises:
        RunError: there is no such run.
        VersionError: another version began it.
    """
    found = journal.run()
    if found is None:
        raise RunError(f"no run {run!r} to resume; start it with `fedx run --run {run}`")
    settings = config.parse(found.config)
    federation = replace(settings.federation, rounds=asked.federation.rounds)
    return replace(settings, federation=federation)


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What round 0 holds, as far as it is known without asking a client.

    Args:
        state: first weights.
        pixels: normalisation; None where clients have to count first.
    """

    state: ServerState
    pixels: Pixels | None


def check(settings: ExperimentConfig, data: Data, branch: Branch | None = None) -> MethodDesk:
    """Refuse what could be refused before anything is written or started.

    Returns:
        The desk of the first weights; its plan's normalisation means nothing yet.

    Raises:
        FedXError: a model, method, device or batch size that can't be, weights that do not fit,
            statistics that nobody published, clients with too few images, rounds that can't be
            judged or would close at more clients than they ask, updates that can't count later, or
            a run that can't be branched from.
    """
    pick_device(settings.training.device)
    if branch is not None:
        shared_pixels(settings, branch)
        check_same_data(Journal(open_store(branch.store)), settings.dataset, data)
    elif settings.training.normalisation == "published":
        pixels_of(settings, data.description, None)
    plan = plan_of(settings, data.description, unmeasured(data.description))
    desk = set_up(plan, seeding.derive(settings.seed, "model"))
    desk.wire(None)  # payloads that can't be are refused here
    _check_counts(settings, data, desk)
    _check_public(settings, data, desk)
    settings.recovery.build("recovery").check(desk)
    _check_architectures(data, desk)
    _check_labels(settings, data, desk)
    asked = settings.federation
    if asked.staleness:
        staleness.check(desk)
    cohort = desk.method.cohort(list(data.clients), asked.participation, 1, settings.seed)
    if asked.close_at > len(cohort):
        raise ConfigError(
            f"federation.close_at is {asked.close_at}, and a round asks {len(cohort)} clients; "
            "lower it, raise federation.participation, or set it to 0 to wait for all"
        )
    side, least = data.description.image_size, desk.objective.least_side
    if side < least:
        raise ConfigError(
            f"training.objective {settings.training.objective.name} needs images of {least} pixels "
            f"a side, and {settings.dataset} has {side}; prepare larger ones, or choose the "
            "objective supervised"
        )
    if settings.federation.selection is not None:
        selection.check(
            settings.federation.selection,
            data.description.label_kind,
            data.tuning.labels,
            personal=desk.method.personal,
        )
    if settings.model.weights and plan.first_model is not None:
        raise ConfigError(
            "federation.first_model: clients can't draw the weights of a file from a seed; set it "
            "to whole, or leave model.weights empty"
        )
    if settings.model.weights:
        catalogue.load_weights(desk.model, Path(settings.model.weights), desk.heads)
    return desk


def _check_public(settings: ExperimentConfig, data: Data, desk: MethodDesk) -> None:
    """Refuse to learn from public images that are not there, or are too few to be compared."""
    if not desk.method.needs_public:
        return
    there, least = 0 if data.public is None else len(data.public), desk.method.least_public
    setting = f"datasets.{settings.dataset}.reference.public"
    if not there:
        raise ConfigError(
            f"{settings.method.name} learns from public images, and data set "
            f"{settings.dataset!r} has none; set {setting} to their number and prepare it again: "
            f"fedx data {settings.dataset}"
        )
    if there < least:
        raise ConfigError(
            f"{settings.method.name} compares public images with each other and needs {least} or "
            f"more, and data set {settings.dataset!r} has {there}; raise {setting} and prepare it "
            f"again: fedx data {settings.dataset}"
        )


def _check_labels(settings: ExperimentConfig, data: Data, desk: MethodDesk) -> None:
    """Refuse to learn, or to judge by, labels that are not there."""
    if len(data.description.class_names) > 1:
        return
    if desk.objective.needs_labels:
        raise ConfigError(
            f"training.objective {settings.training.objective.name} learns labels, and data set "
            f"{settings.dataset!r} has none to tell apart; choose simclr, moco, byol or simmim, or "
            f"leave out datasets.{settings.dataset}.source.labels: none and prepare it again"
        )
    if settings.federation.selection is not None:
        raise ConfigError(
            f"federation.selection judges rounds by labels, and data set {settings.dataset!r} has "
            "none; set it to null"
        )


def _check_counts(settings: ExperimentConfig, data: Data, desk: MethodDesk) -> None:
    """Refuse clients that can't train, and a reference set that can't be measured."""
    pairs = needs_pairs(desk.model)
    everybody = sum(data.clients.values())
    asked = desk.method.cohort(tuple(data.clients), 1.0, 1, settings.seed)
    least = desk.least_batch
    few = [name for name in asked if data.clients.get(name, everybody) < least]
    if few:
        more = f" (and {len(few) - 1} more)" if len(few) > 1 else ""
        why = {1: "", 2: ", and BatchNorm needs 2 to train"}.get(
            least, f", and training.objective needs {least} in a batch"
        )
        raise DataError(
            f"client {few[0]!r}{more} has {data.clients.get(few[0], everybody)} training image(s)"
            f"{why}; raise datasets.{settings.dataset}.partition's min_examples, choose fewer "
            "clients or a larger source.limit, or a model without BatchNorm; then prepare again "
            f"with `fedx data {settings.dataset}`"
        )
    if pairs and settings.training.batch_norm != "aggregate" and len(data.reference) < 2:
        raise ReferenceSetError(
            f"the reference set has {len(data.reference)} image(s), and training.batch_norm "
            f"{settings.training.batch_norm} needs 2 to measure a variance; raise "
            f"datasets.{settings.dataset}.reference.per_class, or set training.batch_norm to "
            "aggregate"
        )


def _check_architectures(data: Data, desk: MethodDesk) -> None:
    """Refuse clients' models of their own where payloads are not the same for all of them."""
    for place, client in enumerate(data.clients):
        turn = Turn(client=client, place=place, round_index=1, purpose="train", returning=False)
        variant = desk.method.variant(turn, desk)
        if not (architecture := desk.method.architecture(variant)):
            continue
        other, ours = (
            b.wire(None, variant) for b in (set_up(desk.plan, architecture=architecture), desk)
        )
        if (other.up.digest, other.down.digest) != (ours.up.digest, ours.down.digest):
            raise ConfigError(
                f"{desk.method.name} gives {client} the model {architecture}, whose payloads are "
                f"other ones than those of model.name {desk.plan.model}; models can differ only "
                "where what travels is of no model, such as answers on public images"
            )


def check_beginning(settings: ExperimentConfig, data: Data, branch: Branch | None) -> Beginning:
    """Find everything that could be refused before a run is claimed.

    Raises:
        FedXError: as :func:`check`.
    """
    desk = check(settings, data, branch)
    pixels: Pixels | None = None
    if branch is not None:
        pixels = shared_pixels(settings, branch)
    elif settings.training.normalisation == "reference":
        moments = measure(data.reference, data.description.scale)
        pixels = pixels_of(settings, data.description, moments)
    elif settings.training.normalisation == "published":
        pixels = pixels_of(settings, data.description, None)
    first = desk.masked(desk.model.state_dict())
    return Beginning(state=desk.method.start(first), pixels=pixels)


def begin(
    beginning: Beginning,
    settings: ExperimentConfig,
    setting: Setting,
    carrier: Carrier,
    journal: Journal,
    data: Data,
) -> Commit:
    """Commit round 0: first weights, and the plan with its normalisation."""
    traffic: dict[str, Traffic] = {}
    failures: tuple[ClientFailure, ...] = ()
    pixels = beginning.pixels
    if pixels is None:
        moments, traffic, failures = federated_moments(settings, setting, carrier, journal, data)
        pixels = pixels_of(settings, data.description, moments)
    report = RoundReport(
        round_index=0,
        rounds=settings.federation.rounds,
        cohort=(),
        failures=failures,
        metrics={},
        metrics_before_pruning={},
        pruned=False,
        traffic=traffic,
        paper_bytes=0,
        sparsity=0.0,
        units_kept={},
        train_loss=0.0,
        seconds={},
    )
    plan = plan_of(settings, data.description, pixels)
    if data.public is not None and settings.method.build("methods").public_at_clients:
        images = {"images": torch.from_numpy(np.array(data.public.images))}
        public = put_by_hash(journal.store, "public", checkpoint.pack_state(images))
        plan = replace(plan, public=public, public_images=len(data.public))
    commit = Commit(
        round_index=0,
        plan=put_by_hash(journal.store, "plans", canonical(plan)),
        state=put_by_hash(journal.store, "states", checkpoint.pack_server_state(beginning.state)),
        report=report,
    )
    journal.commit(commit)
    return commit


def open_server(
    settings: ExperimentConfig,
    setting: Setting,
    carrier: Carrier,
    journal: Journal,
    data: Data,
    plan: Ref,
) -> Server:
    """Build the model and gather all that the server's steps need."""
    desk = replace(
        set_up(read_plan(journal.store.get(plan))),
        reference=data.reference,
        public=data.public,
        seed=settings.seed,
    )
    return Server(
        run=setting.run,
        config=settings,
        desk=desk,
        plan=plan,
        store=journal.store,
        journal=journal,
        description=data.description,
        clients=data.clients,
        tested=data.tested,
        reference=data.reference,
        tuning=data.tuning,
        test=data.test,
        workers=carrier.workers,
        audit=setting.audit,
    )
