"""Before the first round: data, normalisation, first weights; or another run's first rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedx_core import (
    acceptance,
    checkpoint,
    config,
    contents,
    examples,
    quorum,
    rounds,
    seeding,
    selection,
    strict_json,
)
from fedx_core import (
    moments as sums,
)
from fedx_core.client import Place, moments_of
from fedx_core.config import ExperimentConfig
from fedx_core.errors import (
    ConfigError,
    DataError,
    FedXError,
    ObjectMissingError,
    QuorumError,
    ReferenceSetError,
    RunError,
    StoreError,
)
from fedx_core.examples import Description, Examples
from fedx_core.frozen_json import canonical, parse
from fedx_core.journal import Commit, Journal
from fedx_core.messages import (
    LARGEST_MESSAGE,
    PROTOCOL,
    ClientFailure,
    ClientJob,
    ClientReport,
    Ref,
    RoundReport,
    ServerState,
    Traffic,
)
from fedx_core.models import catalogue
from fedx_core.moments import Moments, measure
from fedx_core.pixels import Pixels
from fedx_core.plan import Plan, Workbench, pixels_of, plan_of, set_up
from fedx_core.rounds import Server
from fedx_core.runtime import Runtime
from fedx_core.sites import audit
from fedx_core.store import Store, open_store, put_by_hash
from fedx_core.training import needs_pairs, pick_device


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a run finds its data and leaves its bytes; never what it computes.

    Args:
        run: name of the run.
        data: folder of one data set with ``prepared``, ``shards`` and ``reference`` in it.
        place: store, shards and memories, as clients see them.
        audit: folder whose ``audit.jsonl`` gets a line for each attempt of a client that does not
            count; None for no such lines.
    """

    run: str
    data: Path
    place: Place
    audit: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Another run whose first rounds are shared.

    Args:
        store: URI of that run's store.
        round_index: its last shared round; that round's pruning is this run's own.
    """

    store: str
    round_index: int


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the server sees of the data.

    Args:
        description: of the data set.
        reference: drawn from the validation split, for relevance and normalisation.
        tuning: the rest of the validation split.
        test: the test split, for reporting only.
        clients: training examples by client, in order.
        content: of all of it and of the clients' images, see :mod:`fedx_core.contents`.
        tested: test examples by client.
    """

    description: Description
    reference: Examples
    tuning: Examples
    test: Examples
    clients: Mapping[str, int]
    content: Mapping[str, str]
    tested: Mapping[str, int]


def load(setting: Setting, settings: ExperimentConfig) -> Data:
    """Open what the server sees of the data, and learn who its clients are.

    Raises:
        DataError: something is missing, or was made with other settings or from another prepared
            set.
    """
    return open_data(setting.data, Path(setting.place.shards), settings)


def open_data(folder: Path, shards_folder: Path, settings: ExperimentConfig) -> Data:
    """Do what :func:`load` does, before there is a run.

    Args:
        folder: of one data set, with ``prepared`` and ``reference`` in it.
        shards_folder: with one folder a client.
        settings: of the experiment.

    Raises:
        DataError: something is missing, or was made with other settings.
    """
    prepared = examples.read(folder / "prepared", "test")  # training images may be elsewhere
    held_back = examples.read(folder / "reference")
    shards = examples.read_manifest(shards_folder)
    dataset = settings.datasets[settings.dataset]
    for made, block, value in (
        (prepared.manifest, "source", dataset.source),
        (shards, "partition", dataset.partition),
        (held_back.manifest, "reference", dataset.reference),
    ):
        wanted, found = config.as_plain(value), made["settings"].get(block)
        if block == "reference":
            # What was drawn before this was a setting lacks it.
            found = {"absent": "error", **(found or {})}
        if found != wanted:
            raise DataError(
                f"{folder} was made with {block} {found!r}, the settings say {wanted!r}; "
                f"make it again with `fedx data {settings.dataset}` or `dvc repro`"
            )
    for part, manifest in (("shards", shards), ("reference", held_back.manifest)):
        if manifest["settings"].get("prepared", prepared.digest) != prepared.digest:
            raise DataError(
                f"the {part} of {folder} are not of its prepared set, which was made anew "
                f"since; make them again with `fedx data {settings.dataset}` or `dvc repro` (at "
                f"sites: `fedx site roster {settings.dataset}`)"
            )
    sizes = {
        part: {client["name"]: int(client["sizes"][part]) for client in shards["clients"]}
        for part in ("train", "test")
    }
    return Data(
        description=prepared.description,
        reference=held_back.parts["reference"],
        tuning=held_back.parts["tuning"],
        test=prepared.parts["test"],
        clients=sizes["train"],
        content=contents.of_data(folder, shards_folder),
        tested=sizes["test"],
    )


def check_same_data(journal: Journal, dataset: str, data: Data) -> None:
    """Refuse to go on with other data than those with which a run began.

    Args:
        journal: of that run.
        dataset: key of the data set.
        data: as it is now.

    Raises:
        DataError: images or labels have changed since.
    """
    if (found := journal.run()) is not None:
        contents.check_same(found.data, data.content, found.name, dataset)


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


def branch_of(journal: Journal) -> Branch | None:
    """Return where a run branched off, or None."""
    run = journal.run()
    if run is None or not run.branched_from:
        return None
    store, _, round_index = run.branched_from.rpartition("@")
    return Branch(store=store, round_index=int(round_index))


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What round 0 holds, as far as it is known without asking a client.

    Args:
        state: first weights.
        pixels: normalisation; None where clients have to count first.
    """

    state: ServerState
    pixels: Pixels | None


def check(settings: ExperimentConfig, data: Data, branch: Branch | None = None) -> Workbench:
    """Refuse what could be refused before anything is written or started.

    Returns:
        The bench of the first weights; its plan's normalisation means nothing yet.

    Raises:
        FedXError: a model, method, device or batch size that can't be, weights that do not fit,
            statistics that nobody published, clients with too few images, rounds that can't be
            judged, or a run that can't be branched from.
    """
    pick_device(settings.training.device)
    if branch is not None:
        _shared_pixels(settings, branch)
        check_same_data(Journal(open_store(branch.store)), settings.dataset, data)
    elif settings.training.normalisation == "published":
        pixels_of(settings, data.description, None)
    plan = plan_of(settings, data.description, _neutral(data.description))
    bench = set_up(plan, seeding.derive(settings.seed, "model"))
    _check_counts(settings, data, bench)
    if settings.federation.selection is not None:
        selection.check(
            settings.federation.selection,
            data.description.label_kind,
            data.tuning.labels,
            personal=bench.method.personal,
        )
    if settings.model.weights:
        catalogue.load_weights(bench.model, Path(settings.model.weights))
    return bench


def advice(settings: ExperimentConfig, data: Data) -> list[str]:
    """Say what is allowed and rarely meant, a line each."""
    size, epochs = settings.training.batch_size, settings.training.epochs
    small = [count for count in data.clients.values() if count < size]
    if not small:
        return []
    most = max(small)
    images = str(most) if most == min(small) else f"{min(small)} to {most}"
    return [
        f"{len(small)} of {len(data.clients)} clients have fewer training images ({images}) than "
        f"training.batch_size ({size}), so each trains {epochs} step(s) a round, one an epoch; "
        f"if scores stay low, lower it, as in --set training.batch_size={_smaller(most)}"
    ]


def _smaller(images: int) -> int:
    """Return a power of two that makes about eight batches of some images, 4 to 64."""
    return max(4, min(64, 1 << max(images // 8, 1).bit_length() - 1))


def _check_counts(settings: ExperimentConfig, data: Data, bench: Workbench) -> None:
    """Refuse clients that can't train, and a reference set that can't be measured."""
    pairs = needs_pairs(bench.model)
    everybody = sum(data.clients.values())
    asked = bench.method.cohort(tuple(data.clients), 1.0, 1, settings.seed)
    least = 2 if pairs else 1
    few = [name for name in asked if data.clients.get(name, everybody) < least]
    if few:
        more = f" (and {len(few) - 1} more)" if len(few) > 1 else ""
        why = ", and BatchNorm needs 2 to train" if pairs else ""
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


def check_beginning(settings: ExperimentConfig, data: Data, branch: Branch | None) -> Beginning:
    """Find everything that could be refused before a run is claimed.

    Raises:
        FedXError: as :func:`check`.
    """
    bench = check(settings, data, branch)
    pixels: Pixels | None = None
    if branch is not None:
        pixels = _shared_pixels(settings, branch)
    elif settings.training.normalisation == "reference":
        moments = measure(data.reference, data.description.scale)
        pixels = pixels_of(settings, data.description, moments)
    elif settings.training.normalisation == "published":
        pixels = pixels_of(settings, data.description, None)
    return Beginning(state=bench.method.start(bench.model.state_dict()), pixels=pixels)


def begin(
    beginning: Beginning,
    settings: ExperimentConfig,
    setting: Setting,
    runtime: Runtime,
    journal: Journal,
    data: Data,
) -> Commit:
    """Commit round 0: first weights, and the plan with its normalisation."""
    traffic: dict[str, Traffic] = {}
    failures: tuple[ClientFailure, ...] = ()
    pixels = beginning.pixels
    if pixels is None:
        moments, traffic, failures = _federated_moments(settings, setting, runtime, journal, data)
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
    commit = Commit(
        round_index=0,
        plan=put_by_hash(journal.store, "plans", canonical(plan)),
        state=put_by_hash(journal.store, "states", checkpoint.pack_server_state(beginning.state)),
        report=report,
    )
    journal.commit(commit)
    return commit


def _federated_moments(
    settings: ExperimentConfig,
    setting: Setting,
    runtime: Runtime,
    journal: Journal,
    data: Data,
) -> tuple[Moments, dict[str, Traffic], tuple[ClientFailure, ...]]:
    """Ask every client for counts and sums of its pixels, and add them up in their order.

    Raises:
        QuorumError: too few have sent any that can be.
    """
    plan = put_by_hash(
        journal.store,
        "plans",
        canonical(plan_of(settings, data.description, _neutral(data.description))),
    )
    jobs = [
        ClientJob(
            protocol=PROTOCOL,
            run=setting.run,
            round_index=0,
            client=client,
            attempt=0,
            seed=0,
            purpose="statistics",
            plan=plan,
            base=None,
            mask=None,
            schema="",
            memory=None,
            uplink_key=f"statistics/{client}.0",
            deadline=settings.federation.round_timeout,
        )
        for client in data.clients
    ]
    outcomes = {outcome.client: outcome for outcome in runtime.run_cohort(jobs, setting.place)}
    parts: list[Moments] = []
    traffic: dict[str, Traffic] = {}
    failures: list[ClientFailure] = []
    for job in jobs:
        outcome = outcomes[job.client]
        found: Moments | ClientFailure
        if isinstance(outcome, ClientFailure):
            found = outcome
        else:
            found = _accepted(journal.store, job, outcome, data)
            sent = outcome.uplink.size if outcome.uplink else 0
            is_sound = isinstance(found, Moments)
            traffic[job.client] = Traffic(uplink=sent) if is_sound else Traffic(retry=sent)
        if isinstance(found, Moments):
            parts.append(found)
        else:
            failures.append(found)
            audit.uncounted(setting.audit, job, found)
    refused = sum(failure.refused for failure in failures)
    needed = quorum.needed(settings.federation.min_reports, len(jobs), refused)
    if not parts or len(parts) < needed:
        raise QuorumError(
            f"{len(parts)} of {len(jobs)} clients sent statistics, {needed} needed "
            f"(federation.min_reports); mend it and `fedx resume {setting.run}`, or set "
            "training.normalisation to reference. Lost: "
            + "; ".join(f"{f.client}: {f.reason}" for f in failures),
            {failure.client: failure.reason for failure in failures},
        )
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total, traffic, tuple(failures)


def _accepted(
    store: Store, job: ClientJob, report: ClientReport, data: Data
) -> Moments | ClientFailure:
    """Believe a client's statistics only if some images that it may have can have them."""
    about, pixels = data.description, data.test.images.dtype
    try:
        acceptance.check(report, job, data.clients[job.client], {})
        found = moments_of(store, report, len(about.bands))
        largest = float(np.iinfo(pixels).max) / about.scale
        sums.check(found, report.examples, about.image_size, largest, job.client)
        return found
    except FedXError as error:
        if isinstance(error, StoreError) and not isinstance(error, ObjectMissingError):
            raise  # that the server can't reach its store is no fault of the client's
        return rounds.refusal(job, report, error)


def _neutral(description: Description) -> Pixels:
    bands = len(description.bands)
    return Pixels(
        scale=description.scale,
        mean=(0.0,) * bands,
        std=(1.0,) * bands,
        input_size=None,
        memory_format="contiguous",
    )


def open_server(
    settings: ExperimentConfig,
    setting: Setting,
    runtime: Runtime,
    journal: Journal,
    data: Data,
    plan: Ref,
) -> Server:
    """Build the model and gather all that the server's steps need."""
    bench = set_up(parse(Plan, strict_json.loads(journal.store.get(plan), LARGEST_MESSAGE)))
    return Server(
        run=setting.run,
        config=settings,
        bench=bench,
        plan=plan,
        store=journal.store,
        journal=journal,
        description=data.description,
        clients=data.clients,
        tested=data.tested,
        reference=data.reference,
        tuning=data.tuning,
        test=data.test,
        workers=runtime.workers,
        audit=setting.audit,
    )


def _pruned_before(journal: Journal, branch: Branch) -> bool:
    before = journal.committed(branch.round_index - 1)
    return before is None or before.report.sparsity > 0


def _shared_pixels(settings: ExperimentConfig, branch: Branch) -> Pixels:
    """Check that another run's first rounds are this run's too, and take its normalisation.

    Raises:
        ConfigError: a setting that its first rounds depend on differs.
        RunError: that run lacks the round or its state.
    """
    journal = Journal(open_store(branch.store))
    run = journal.run()
    last = journal.committed(branch.round_index)
    first = journal.committed(0)
    if run is None or last is None or first is None:
        raise RunError(
            f"{branch.store} has no committed round {branch.round_index} to branch from; "
            "run it that far first"
        )
    if any(holding.memory is not None for holding in last.holdings.values()):
        raise RunError(
            f"{branch.store}'s clients keep things to themselves (training.batch_norm: local, "
            "training.optimiser_state: kept, or a method such as spafl), which a branch can't take "
            "over; run the first rounds again instead"
        )
    # What settings it began with lack, since they are newer, are their defaults.
    theirs, ours = config.as_plain(config.parse(run.config)), config.as_plain(settings)
    for block in ("seed", "dataset", "datasets", "model", "training", "codec"):
        same = (
            theirs[block][settings.dataset] == ours[block][settings.dataset]
            if block == "datasets"
            else theirs[block] == ours[block]
        )
        if not same:
            raise ConfigError(
                f"{block} differs from the run to branch from: {theirs[block]!r} there, "
                f"{ours[block]!r} here; a branch shares all that its first rounds depend on"
            )
    pruned = last.report.sparsity and (last.evidence is None or _pruned_before(journal, branch))
    if theirs["method"] != ours["method"] and (
        pruned or theirs["method"]["name"] not in ("fedavg", "fedx")
    ):
        raise ConfigError(
            f"{branch.store} is pruned or not FedAvg by round {branch.round_index}, so its rounds "
            f"are of its method alone: {theirs['method']!r}; branch with the same settings of the "
            "method, or from an unpruned round of fedavg or fedx"
        )
    if journal.store.read((last.evidence.before if last.evidence else last.state).key) is None:
        raise RunError(
            f"{branch.store} no longer holds the state of round {branch.round_index}; it keeps the "
            "last federation.keep_states only; branch from a later round, or run it again with more"
        )
    plan = parse(Plan, strict_json.loads(journal.store.get(first.plan), LARGEST_MESSAGE))
    return plan.pixels
