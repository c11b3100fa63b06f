"""Where a site and a coordinator keep what is theirs; said by the environment, never by a job.

    FEDX_SITE_HOME         a site's folder: keys, approvals, memory, audit
    FEDX_COORDINATOR_HOME  the coordinator's folder: its keys and the sites it has admitted
"""

import os
from pathlib import Path


def site_home() -> Path:
    """Return this site's folder, ``./site`` if nothing else is said."""
    return Path(os.environ.get("FEDX_SITE_HOME") or "site")


def coordinator_home() -> Path:
    """Return the coordinator's folder, ``./sites`` if nothing else is said."""
    return Path(os.environ.get("FEDX_COORDINATOR_HOME") or "sites")
