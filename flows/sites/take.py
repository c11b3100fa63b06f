"""Take one order: its text on stdin, the work done, one line of JSON on stdout.

    python -m flows.sites.take < ORDER

The worker of a site runs this and nothing else. Where the site is stands in FEDX_SITE_HOME, and its
images in FEDX_SHARDS; what to do stands in the order alone, and only if the site's coordinator has
signed it. Exit codes are those of the command ``fedx``.
"""

import base64
import binascii
import os
import sys
import time
import traceback
from pathlib import Path

from fedx_core.base import strict_json
from fedx_core.base.errors import FedXError, PayloadError
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.orders import open_order
from flows.base import exits
from flows.sites import serve
from flows.sites.command import order_of
from flows.sites.folders import plain_http, shards, site_home


def take(text: str, home: Home, images: Path, http: HttpClient) -> str:
    """Do what an order asks for.

    Args:
        text: the order, in base64.
        home: of the site.
        images: folder with a folder of the site's name.
        http: carries the requests.

    Returns:
        What was done, in a few words that its coordinator may read.

    Raises:
        FedXError: the order is refused, or can't be carried out.
    """
    try:
        letter = base64.b64decode(order_of({"order": text}), validate=True)
    except binascii.Error as error:
        raise PayloadError(f"the order is not base64: {error}") from error
    # Prefect's server keeps old orders, and whoever has its password may send them again.
    open_order(letter, home.keys, home.coordinator, now=time.time())
    job = serve.take(letter, home, images, http).job
    return f"{job.purpose}, round {job.round_index} of {job.run}"


def main() -> int:
    """Take the order on stdin; what anything else prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    code = exits.DONE
    try:
        done = take(
            sys.stdin.read(), Home(site_home()), shards(), HttpClient(plain_http=plain_http())
        )
        said = strict_json.dumps({"done": done})
    except FedXError as error:
        code, said = exits.exit_code(error.code), exits.said(error.code, str(error), as_json=True)
    except Exception:  # whatever it is, the site's log has all of it and the coordinator nothing
        traceback.print_exc()
        code, said = exits.FAILED, ""
    print(said, file=answers, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
