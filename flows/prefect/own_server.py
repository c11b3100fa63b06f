"""A password for the Prefect server that starts with a run, where no other server is named.

Everybody on this machine can reach its port, and whoever may use it can read what runs say and end
them. The password is drawn anew for each process, reaches the server and the run's own processes
through their environment, and is shown nowhere: this server has no pages to log in to.
"""

import os
import secrets


def protect() -> None:
    """Have Prefect start its server with a password, unless a server is named or has one."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_AUTH_STRING

    if PREFECT_API_URL.value() or PREFECT_SERVER_API_AUTH_STRING.value():
        return
    password = f"fedx:{secrets.token_urlsafe(24)}"
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = password
    os.environ["PREFECT_API_AUTH_STRING"] = password
    # No page anywhere has business with it either.
    os.environ.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "http://127.0.0.1")
    refresh_global_settings_context()
