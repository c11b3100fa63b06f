"""The command ``fedx``: thin over the flows, quick to start, clear when something is wrong.

Slow modules are imported where they are used, so that ``--help`` and mistakes answer at once.
"""

import sys
from typing import Annotated, Any, NoReturn

import typer

from fedx_core import __version__
from flows.base import exits
from flows.commands.advise import advise
from flows.commands.audit import app as audit
from flows.commands.backup import backup, restore
from flows.commands.compare import compare
from flows.commands.data import data
from flows.commands.doctor import doctor
from flows.commands.gc import gc
from flows.commands.help_text import keep_examples
from flows.commands.init import init
from flows.commands.log import log
from flows.commands.ls import ls
from flows.commands.methods import methods
from flows.commands.predict import predict
from flows.commands.probe import probe
from flows.commands.report import report
from flows.commands.reproduce import reproduce
from flows.commands.rollback import rollback
from flows.commands.run import resume, run
from flows.commands.site import app as site
from flows.commands.stop import stop
from flows.commands.sweep import sweep
from flows.commands.sync import sync
from flows.commands.usage import Group
from flows.commands.watch import watch
from flows.ending import away

EXAMPLES = """
A first run, on scenes that are drawn in code:

        fedx data synthetic
        fedx run

Other things to try:

        fedx run --method fedavg --run base         # to compare with
        fedx run --relevance random                 # another criterion
        fedx run --set training.epochs=1 --seed 2   # any setting
        fedx run --branch-from base@10              # share ten rounds
        fedx resume base --rounds 40                # go on, or further
        fedx rollback base --to 12                  # go back to an earlier round
        fedx run --no-engine                        # without Prefect
"""

EPILOGUE = "Exit codes:\n\n" + "\n\n".join(
    f"* {code}: {meaning}" for code, meaning in exits.MEANINGS.items()
)

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Typer carries a copy of click in some versions and imports it in others.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command; a mistake ends in one line and an exit code, without a traceback."""
    from fedx_core.base.errors import FedXError

    as_json = "--json" in sys.argv[1:]
    try:
        # Typer draws a box around wrong usage; for programs that is an error as any other.
        code = app(prog_name="fedx", standalone_mode=not as_json)
    except FedXError as error:
        _fail(error.code, str(error), as_json)
    except UsageError as error:
        _fail("E_USAGE", error.format_message(), as_json)
    away.leave(code)


def _fail(code: str, message: str, as_json: bool) -> NoReturn:
    sys.stdout.flush()
    print(exits.said(code, message, as_json=as_json), file=sys.stderr, flush=True)
    away.leave(exits.exit_code(code))


def _version(asked: bool) -> None:
    if asked:
        print(f"fedx {__version__}")
        raise typer.Exit


@app.callback(
    epilog=EPILOGUE, help=f"Federated learning that explains its model and sends less.\n{EXAMPLES}"
)
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


for command in (
    init, run, resume, sweep, advise, ls, watch, log, stop, compare, report, predict, probe, sync,
    data, doctor, gc, rollback, backup, restore, methods, reproduce,
):  # fmt: skip
    app.command()(command)
app.add_typer(site, name="site")
app.add_typer(audit, name="audit")
keep_examples(app)


if __name__ == "__main__":
    main()
