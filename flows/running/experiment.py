"""One run from what was asked to what came of it; the same with Prefect and without.

settle     settings, a name, a folder, a place: everything that can be refused is refused here
carry_out  rounds, and after each one results, tracking and a line; at the end the model
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fedx_core
from fedx_core.base import config, unfinished
from fedx_core.base.config import ExperimentConfig
from fedx_core.base.errors import ConfigError, FedXError, RunError, RunExistsError
from fedx_core.clients.client import Place
from fedx_core.images import contents
from fedx_core.record.journal import Journal
from fedx_core.rounds import advice, start
from fedx_core.rounds.branching import Branch
from fedx_core.rounds.federation import federate, history
from fedx_core.rounds.start import Setting
from fedx_core.store import open_store
from flows.carriers.runtimes import choose
from flows.running import results
from flows.runs import provenance, run_folder, run_log
from flows.runs.live import Display, Watched
from flows.runs.monitor import sampling
from flows.runs.now import Noted
from flows.runs.run_folder import RunFolder
from flows.settings import preset
from flows.settings.choices import RunAt
from flows.settings.request import Request, overrides_of
from flows.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class SettledRun:
    """A request that can be carried out."""

    settings: ExperimentConfig
    setting: Setting
    folder: RunFolder
    resume: bool
    branch: Branch | None
    sweep: str = ""

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.folder.name


def settle(request: Request) -> SettledRun:
    """Turn a request into settings, a folder and a place.

    Raises:
        FedXError: something that was asked for can't be; nothing is left behind.
    """
    return _resumed(request) if request.resume else _new(request)


def _check(
    settings: ExperimentConfig,
    data_root: Path,
    branch: Branch | None = None,
    begun: Journal | None = None,
) -> None:
    """Refuse all that can be refused before a server starts or anything is written."""
    folder = data_root / settings.dataset
    data = start.open_data(folder, folder / "shards", settings)
    if begun is not None:
        start.check_same_data(begun, settings.dataset, data)
    start.check(settings, data, branch)


def carry_out(
    settled: SettledRun,
    *,
    run_at: RunAt,
    workers: int,
    display: Display,
    tracker: Tracker,
    prefect_run: str = "",
    clients_per_task: int | None = None,
) -> dict[str, Any]:
    """Run the rounds.

    Args:
        settled: what to do.
        run_at: who trains.
        workers: clients at once on this machine.
        display: what is shown.
        tracker: where numbers are copied to.
        prefect_run: id of the flow run, if there is one.
        clients_per_task: clients that one of Prefect's tasks trains; None leaves it to the carrier.

    Returns:
        What ``results/summary.json`` says.

    Raises:
        FedXError: the run can't go on; what was committed is kept, and it can be resumed.
    """
    folder, store = settled.folder, settled.setting.place.store
    display = Noted(run_log.kept(display, folder), folder)

    def waiting() -> None:
        if not settled.resume:
            raise RunExistsError(
                f"another process is starting run {folder.name!r}; watch it with `fedx watch "
                f"{folder.name}`, or choose another name with --run"
            )
        display.warn(
            f"another process is at work on run {settled.run!r}; this one goes on after it"
        )

    try:
        # Nothing is written before the run is this process's alone.
        with folder.at_work(waiting):
            if not settled.resume:
                run_folder.refuse_if_taken(folder, store)
            try:
                with (
                    choose(
                        run_at,
                        workers,
                        settled.setting.place,
                        display.warn,
                        clients_per_task,
                        engine=bool(prefect_run),
                    ) as carrier,
                    display,
                ):
                    return _tracked(
                        settled, Watched(carrier, display), display, tracker, prefect_run
                    )
            except BaseException:
                if not settled.resume:
                    folder.take_back(store)
                raise
    except BaseException:
        folder.give_back()
        raise


def _tracked(
    settled: SettledRun, carrier: Watched, display: Display, tracker: Tracker, prefect_run: str
) -> dict[str, Any]:
    try:
        if settled.resume:
            unfinished.sweep(settled.folder.path)
        _introduce(settled, prefect_run)
        tracker.began(settled.folder, settled.settings, _identity(prefect_run))
        with sampling(settled.folder, display.warn):
            found = _rounds(settled, carrier, display, tracker)
    except BaseException as error:
        stopped = not isinstance(error, Exception)  # Ctrl-C, or a signal to the flow
        tracker.ended("KILLED" if stopped else "FAILED")
        raise
    display.doing("saving")
    tracker.ended("FINISHED")
    return found


def _rounds(
    settled: SettledRun, carrier: Watched, display: Display, tracker: Tracker
) -> dict[str, Any]:
    folder, store = settled.folder, settled.setting.place.store
    reports = history(open_store(store)) if settled.resume else []
    display.began(settled.run, settled.settings.federation.rounds, len(reports))
    display.doing("starting")
    if not settled.resume:
        data = start.load(settled.setting, settled.settings)
        for line in advice.lines(settled.settings, data):
            display.warn(line)
    if reports:
        tracker.logged(reports)
        if reports[-1].stopped:
            display.warn(
                f"run {settled.run!r} stopped early after round {reports[-1].round_index} "
                f"({reports[-1].stopped}) and stays so; start another with a higher "
                "federation.selection.patience, or 0"
            )
    encoded: list[str] = []
    for report in federate(
        settled.settings, settled.setting, carrier, resume=settled.resume, branch=settled.branch
    ):
        # A branch comes with rounds of its own, so the first report may be of any round.
        reports = [*reports, report] if reports else history(open_store(store))
        results.write_rounds(folder, reports, encoded)
        results.write_pruning(folder, store, [report])
        tracker.logged(reports)
        display.finished_round(reports)
    if not reports:
        raise RunError(
            f"run {settled.run!r} has no round to do; raise federation.rounds (--rounds)"
        )
    results.write_rounds(folder, reports, encoded)
    results.write_pruning(folder, store, reports)
    results.write_figure(folder, reports)
    results.write_model(folder, store, settled.setting.data)
    notes = folder.notes()
    found = results.summary(settled.settings, reports, {"run": settled.run, **_public(notes)})
    results.write_summary(folder, found)
    return found


def _new(request: Request) -> SettledRun:
    settings = config.load(
        request.params or "params.yaml", _preset_of(request), overrides_of(request)
    )
    branch = _branch(request, Path(request.run_root))
    _check(settings, Path(request.data_root or "data"), branch)
    folder = run_folder.claim(Path(request.run_root), request.run, settings)
    store = run_folder.store_of(request.store, folder)
    try:
        run_folder.refuse_if_taken(folder, store)
        setting = _setting(folder, store, Path(request.data_root or "data"), settings)
    except FedXError:
        folder.give_back()
        raise
    return SettledRun(
        settings=settings,
        setting=setting,
        folder=folder,
        resume=False,
        branch=branch,
        sweep=run_folder.checked(request.sweep) if request.sweep else "",
    )


def _resumed(request: Request) -> SettledRun:
    if request.run is None:
        raise ConfigError(
            "resume is on and no run is named; name it in run, or use `fedx resume RUN`"
        )
    folder = run_folder.find(Path(request.run_root), request.run)
    notes = folder.notes()
    store, begun = run_folder.begun(folder, request.store)
    asked = {"federation.rounds": request.rounds} if request.rounds is not None else {}
    settings = (
        config.load(folder.config, asked)
        if folder.config.exists()
        else config.parse(config.override(begun.config, asked))
    )
    data_root = Path(request.data_root or notes.get("data_root") or "data")
    _check(settings, data_root, begun=Journal(open_store(store)))
    setting = _setting(folder, store, data_root, settings)
    return SettledRun(settings=settings, setting=setting, folder=folder, resume=True, branch=None)


def _preset_of(request: Request) -> dict[str, Any]:
    """Return the settings of the preset that a request names; nothing where it names none.

    Raises:
        ConfigError: it does not say whose preset.
    """
    if request.preset is None:
        return {}
    if request.method is None:
        raise ConfigError(f"preset {request.preset!r} of which method? name it with --method")
    return preset.settings(request.preset, request.method)


def _setting(folder: RunFolder, store: str, data_root: Path, settings: ExperimentConfig) -> Setting:
    data = data_root.absolute() / settings.dataset
    place = Place(
        store=store, shards=str(data / "shards"), memory=str(folder.path.absolute() / "clients")
    )
    return Setting(run=folder.name, data=data, place=place, audit=folder.path.absolute())


def _branch(request: Request, root: Path) -> Branch | None:
    if request.branch_from is None:
        return None
    run, _, round_index = request.branch_from.rpartition("@")
    if not run or not round_index.isdigit() or int(round_index) < 1:
        raise ConfigError(
            f"impossible branch {request.branch_from!r}; write RUN@ROUND, as in base@10"
        )
    origin = run_folder.find(root, run)
    store = str(origin.notes().get("store") or run_folder.store_of(request.store, origin))
    return Branch(store=store, round_index=int(round_index))


def _introduce(settled: SettledRun, prefect_run: str) -> None:
    """Write down what the run is and where its things are."""
    run_folder.save_config(settled.folder, settled.settings)
    data, shards = settled.setting.data, Path(settled.setting.place.shards)
    results.write_clients(settled.folder, data, shards, settled.settings.dataset)
    notes = {
        "run": settled.run,
        "store": settled.setting.place.store,
        "data_root": str(settled.setting.data.parent),
        "data": provenance.of_data(settled.setting.data),
        "content": contents.of_server(data),
        **({} if settled.resume else {"started": _now()}),
        **({"sweep": settled.sweep} if settled.sweep else {}),
        **(
            {"branched_from": f"{settled.branch.store}@{settled.branch.round_index}"}
            if settled.branch
            else {}
        ),
        **_identity(prefect_run),
    }
    settled.folder.note(notes)


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")


def _identity(prefect_run: str) -> dict[str, str]:
    return {
        "fedx_version": fedx_core.__version__,
        "git_commit": git_commit(),
        "prefect_run": prefect_run,
    }


def _public(notes: Mapping[str, Any]) -> dict[str, Any]:
    names = ("fedx_version", "git_commit", "prefect_run")
    return {name: notes.get(name, "") for name in names}


def git_commit() -> str:
    """Return the commit that this code is of, with ``+`` if it was changed; empty if unknown."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
