"""Where a site and a coordinator keep what is theirs; said by the environment, never by a job.

    FEDX_SITE_HOME         a site's folder: keys, approvals, memory, audit
    FEDX_SHARDS            its images: a folder with one folder, named as the site
    FEDX_COORDINATOR_HOME  the coordinator's folder: its keys and the sites it has admitted
    FEDX_PLAIN_HTTP        "allowed" on a private network, where stores may go without TLS

One machine may be both, in two folders.
"""

import os
from pathlib import Path


def site_home() -> Path:
    """Return this site's folder, ``./site`` if nothing else is said."""
    return Path(os.environ.get("FEDX_SITE_HOME") or "site")


def shards() -> Path:
    """Return the folder that holds this site's shard, ``./shards`` if nothing else is said."""
    return Path(os.environ.get("FEDX_SHARDS") or "shards")


def coordinator_home() -> Path:
    """Return the coordinator's folder, ``./sites`` if nothing else is said."""
    return Path(os.environ.get("FEDX_COORDINATOR_HOME") or "sites")


def plain_http() -> bool:
    """Tell whether somebody has said that object stores may be reached without TLS."""
    return os.environ.get("FEDX_PLAIN_HTTP") == "allowed"
