"""``fedx site``: institutions with data of their own, and the coordinator that asks them to train.

At a site: ``enroll`` makes its keys, ``trust`` names its coordinator, ``approve`` agrees to what is
computed, ``serve`` takes orders. At the coordinator: ``admit`` lets a site take part, ``invite``
tells it where its orders will lie, ``roster`` makes those admitted the clients of a data set.
On both sides ``rotate`` and ``revoke`` change keys and end them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject
from flows.commands.site_approve import approve
from flows.commands.site_keys import registrar, revoke, rotate
from flows.commands.site_options import CoordinatorHome, RegistrarHome, SiteHome, ValidDays
from flows.commands.site_roster import roster
from flows.commands.site_serve import invite, serve

if TYPE_CHECKING:
    from fedx_core.sites.keys import Public

COMPARE = "Compare the fingerprint by telephone or face to face, not by the way the file came."

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Take part with data of your own, or let sites take part.",
)

Yes = Annotated[bool, typer.Option("--yes", help="The fingerprint was compared; ask nothing.")]


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="Name of the site and of its folder of images.")],
    valid_days: ValidDays = 730,
    site_home: SiteHome = "site",
    as_json: JsonObject = False,
) -> None:
    """Make this site's keys, and a file for people to carry to the coordinator.

    The secret keys stay in the site's folder, readable by its owner alone. Doing it again changes
    nothing.

        fedx site enroll north
    """
    from fedx_core.sites.home import REQUEST, Home

    home = Home(Path(site_home))
    public = home.enroll(name, valid_days).public
    _told(
        as_json, public, file=home.folder / REQUEST,
        then="carry it to the coordinator's people, who admit it: fedx site admit "
        f"{REQUEST}\n{COMPARE}",
    )  # fmt: skip


@app.command()
def admit(
    file: Annotated[
        Path, typer.Argument(help="That `fedx site enroll` or `fedx site rotate` wrote.")
    ],
    max_examples: Annotated[
        int,
        typer.Option(
            min=0, help="Images that the site may say it has trained on; 0 for no bound of its own."
        ),
    ] = 0,
    yes: Yes = False,
    coordinator_home: CoordinatorHome = "sites",
    registrar_home: RegistrarHome = None,
    as_json: JsonObject = False,
) -> None:
    """Let a site take part in this coordinator's runs.

    The coordinator's own keys are made at the first time. Its public keys lie beside them in
    coordinator.json, for the site's people to pass to `fedx site trust`. A letter of `fedx site
    rotate` lets new keys follow those that are known, and needs no comparing.

        fedx site admit request.json --max-examples 3375
    """
    from fedx_core.rounds import audit
    from fedx_core.sites import key_files, succession
    from fedx_core.sites.home import COORDINATOR
    from fedx_core.sites.registry import Registry
    from flows.commands.answers import save

    registry = Registry(Path(coordinator_home), Path(registrar_home) if registrar_home else None)
    book = registry.registrar or registry.folder
    data = _bytes(file)
    if succession.is_letter(data):
        admitted = registry.follow(data)
        audit.note(book, "followed", site=admitted.public.name)
        _followed(as_json, admitted.public)
        return
    public = key_files.read_public(data)
    if not _compared(public, yes=yes, asking=not as_json):
        return
    registry.admit(public, max_examples)
    audit.note(
        book, "admitted", site=public.name, fingerprint=public.fingerprint,
        max_examples=max_examples,
    )  # fmt: skip
    card = registry.folder / COORDINATOR
    if registry.registrar is None or not card.exists():
        save(card, key_files.write_public(registry.keys.public).decode())
    fingerprint = key_files.read_public(card.read_bytes()).fingerprint
    _told(
        as_json, public, file=card, max_examples=max_examples,
        then=f"carry it to the people of {public.name}: fedx site trust {COORDINATOR}\n"
        f"The coordinator's fingerprint is {fingerprint}",
    )  # fmt: skip


@app.command()
def trust(
    file: Annotated[Path, typer.Argument(help="File that `fedx site admit` wrote.")],
    store: Annotated[
        str | None,
        typer.Option(
            help="Address of the coordinator's store, as its people say it; the site sends "
            "requests nowhere else. Without it the first order or invitation names it, but none "
            "of this machine, of a private network or without TLS."
        ),
    ] = None,
    yes: Yes = False,
    site_home: SiteHome = "site",
    as_json: JsonObject = False,
) -> None:
    """Take orders from this coordinator, and from no other.

    Its file is what `fedx site admit` wrote there, carried here by people. Once more with --store,
    it says where the coordinator's store is now. A letter of `fedx site rotate --coordinator` lets
    new keys follow those that are trusted, and needs no comparing.

        fedx site trust coordinator.json --store https://s3.example.org
    """
    from fedx_core.rounds import audit
    from fedx_core.sites import key_files, succession
    from fedx_core.sites.home import COORDINATOR, Home

    home, data = Home(Path(site_home)), _bytes(file)
    _ = home.keys
    if succession.is_letter(data):
        followed = home.follow(data)
        audit.note(home.folder, "followed", site=followed.name)
        _followed(as_json, followed)
        return
    public = key_files.read_public(data)
    if not _compared(public, yes=yes, asking=not as_json):
        return
    home.trust(public, store)
    audit.note(
        home.folder, "trusted", fingerprint=public.fingerprint, store=home.store or "",
    )  # fmt: skip
    _told(
        as_json, public, file=home.folder / COORDINATOR,
        then="look whether all is there: fedx doctor --site",
    )  # fmt: skip


app.command()(rotate)
app.command()(revoke)
app.command()(registrar)
app.command()(approve)
app.command()(serve)
app.command()(invite)
app.command()(roster)


def _bytes(file: Path) -> bytes:
    """Read a file that people have carried.

    Raises:
        SiteError: it can't be read.
    """
    from fedx_core.base.errors import SiteError

    try:
        return file.read_bytes()
    except OSError as error:
        raise SiteError(f"can't read {file}: {error.strerror}; pass the file that came") from error


def _followed(as_json: bool, public: "Public") -> None:
    from fedx_core.sites import keys

    assert public.successor is not None
    fingerprint, starts = public.successor.fingerprint, keys.day(public.starts)
    if as_json:
        print(
            strict_json.dumps({"name": public.name, "fingerprint": fingerprint, "starts": starts})
        )
    else:
        print(f"{public.name}: new keys {fingerprint} from {starts} on; signed by those known here")


def _compared(public: "Public", *, yes: bool, asking: bool) -> bool:
    """Ask whether the fingerprint is that of the others' people; without --yes nobody else says."""
    if yes:
        return True
    if not asking:
        raise typer.BadParameter("nobody can be asked with --json; compare, then add --yes")
    print(f"{public.name}: {public.fingerprint}")
    print(COMPARE)
    if typer.confirm("Do its people read out the same?"):
        return True
    print("Nothing was done.")
    return False


def _told(
    as_json: bool, public: "Public", *, file: Path, then: str, max_examples: int | None = None
) -> None:
    if as_json:
        said: dict[str, str | int] = {
            "name": public.name,
            "fingerprint": public.fingerprint,
            "file": str(file),
        }
        if max_examples is not None:
            said["max_examples"] = max_examples
        print(strict_json.dumps(said))
    else:
        print(f"{public.name}: {public.fingerprint}")
        print(f"{file}: {then}")
