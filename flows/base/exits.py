"""How a command ends: exit codes and how errors are said, for all commands.

What was asked for goes to stdout, all else to stderr. An error is the last line on stderr:

    error E_NAME: method: no method 'fedprx'; ...

and with ``--json`` one JSON object, in which nothing has to be searched for:

    {"error": {"code": "E_NAME", "message": "method: no method ...", "exit_code": 1}}
"""

from fedx_core.base import strict_json

DONE, FAILED, USAGE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130

MEANINGS = {
    DONE: "done",
    FAILED: "an error, said last on stderr; of doctor: something is missing",
    USAGE: "a command or option that does not exist, or a value it does not take",
    STOPPED: "the run stopped early: too few clients reported, or it was cancelled in Prefect; "
    "fedx resume goes on with it",
    INTERRUPTED: "interrupted with Ctrl-C, or asked to end (SIGTERM, SIGHUP)",
}
# By the errors' own codes, since the classes would cost the import of what defines them.
CODES = {"E_QUORUM": STOPPED, "E_STOPPED": STOPPED, "E_USAGE": USAGE}


def exit_code(code: str) -> int:
    """Say with which code a command ends after an error.

    Args:
        code: of the error, such as ``E_QUORUM``.
    """
    return CODES.get(code, FAILED)


def said(code: str, message: str, *, as_json: bool) -> str:
    """Put an error into its line.

    Args:
        code: of the error.
        message: what was found, what was wanted, what to do next.
        as_json: for machines.
    """
    if as_json:
        error = {"code": code, "message": message, "exit_code": exit_code(code)}
        return strict_json.dumps({"error": error})
    return f"error {code}: {message}"
