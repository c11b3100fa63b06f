"""``fedx site serve`` and ``fedx site invite``: a site that stays at work, and its first letter."""

import base64
import binascii
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject, Store
from flows.commands.site_options import CoordinatorHome, SiteHome


def serve(
    shards: Annotated[
        str,
        typer.Option(envvar="FEDX_SHARDS", help="Folder that holds the site's folder of images."),
    ] = "shards",
    invitation: Annotated[
        Path | None,
        typer.Option(
            help="File that fedx site invite wrote; needed the first time, or after a week without "
            "orders."
        ),
    ] = None,
    idle: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds without an order after which it ends by itself."),
    ] = None,
    site_home: SiteHome = "site",
    as_json: JsonObject = False,
) -> None:
    """Take orders as they come, with model and data in memory, until Ctrl-C.

    It looks into the site's inbox at the coordinator's store, and opens no port. It may be ended at
    any time, even killed: it goes on where it was, and trains nothing twice.

        fedx site serve --invitation north.invitation
    """
    from fedx_core.sites.home import Home
    from fedx_core.sites.http_client import HttpClient
    from flows.sites.folders import plain_http
    from flows.sites.serve import Serving

    def say(line: str) -> None:
        if as_json:
            print(strict_json.dumps({"said": line}), flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    site = Serving(Home(Path(site_home)), Path(shards), HttpClient(plain_http=plain_http()), say)
    if invitation is not None:
        site.invited(_read(invitation))
    try:
        site.run(idle)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def invite(
    name: Annotated[str, typer.Argument(help="Of a site that was admitted.")],
    store: Store = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write; NAME.invitation if not given.")
    ] = None,
    coordinator_home: CoordinatorHome = "sites",
    as_json: JsonObject = False,
) -> None:
    """Write a site's invitation, which says where its orders will be stored.

    It is sealed to the site's keys. Each order says where the next one will lie, so one invitation
    is enough for as long as no week goes by without an order. Prefect can wake a site without one.

        fedx site invite north --store s3://fedx/runs
    """
    from urllib.parse import urlsplit

    from fedx_core.base.errors import ConfigError
    from fedx_core.sites import invitation
    from fedx_core.sites.registry import Registry
    from flows.commands.answers import save
    from flows.sites.folders import plain_http
    from flows.sites.inboxes import Inboxes

    bucket = urlsplit(store or "").netloc
    if urlsplit(store or "").scheme != "s3" or not bucket:
        raise ConfigError(f"no bucket in --store {store or ''!r}; name it as s3://BUCKET/PREFIX")
    registry = Registry(Path(coordinator_home))
    site = registry.site(name).public
    inbox = Inboxes(registry, bucket, plain_http=plain_http()).invite(name)
    path = out or Path(f"{name}.invitation")
    letter = base64.encodebytes(invitation.write(inbox, registry.keys, site)).decode()
    save(path, letter)
    if as_json:
        print(strict_json.dumps({"site": name, "file": str(path)}))
    else:
        print(f"{path}\ncarry it to the people of {name}: fedx site serve --invitation {path.name}")


def _read(path: Path) -> bytes:
    """Read the text that :func:`invite` wrote.

    Raises:
        PayloadError: it is something else.
        SiteError: there is no such file.
    """
    from fedx_core.base.errors import PayloadError, SiteError

    try:
        return base64.b64decode(b"".join(path.read_bytes().split()), validate=True)
    except OSError as error:
        raise SiteError(f"can't read {path}: {error.strerror}; pass the file that came") from error
    except binascii.Error:
        raise PayloadError(f"{path} is no invitation; have it sent again") from None
