"""``fedx site rotate``, ``revoke``, ``registrar``: keys that change, end, or are another's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedx_core.base import strict_json
from flows.commands.options import JsonObject
from flows.commands.site_options import CoordinatorHome, RegistrarHome, SiteHome, ValidDays

if TYPE_CHECKING:
    pass


def rotate(
    overlap_days: Annotated[
        int,
        typer.Option(min=0, help="Days until the new keys are used; carry the letter before."),
    ] = 14,
    valid_days: ValidDays = 730,
    coordinator: Annotated[
        bool, typer.Option("--coordinator", help="Change the coordinator's keys, not a site's.")
    ] = False,
    site_home: SiteHome = "site",
    coordinator_home: CoordinatorHome = "sites",
    as_json: JsonObject = False,
) -> None:
    """Make the next keys, and a letter that tells the other side.

    The keys in use sign the letter, so nobody has to compare fingerprints. A site's letter goes to
    the coordinator (`fedx site admit rotation.json`), the coordinator's to every site (`fedx site
    trust rotation.json`). Both keys are believed from then until a week after the day on which the
    new ones take over by themselves. If somebody may have copied the keys, revoke them instead.

        fedx site rotate
        fedx site rotate --coordinator --overlap-days 30
    """
    from fedx_core.rounds import audit
    from fedx_core.sites import keys, succession
    from fedx_core.store import FileStore

    folder = Path(coordinator_home if coordinator else site_home)
    following, letter = succession.rotate(folder, overlap_days, valid_days)
    FileStore(folder).put(succession.FILE, letter)
    starts = strict_json.loads(letter, succession.LONGEST)["starts"]
    public = following.public
    audit.note(folder, "rotated", fingerprint=public.fingerprint, starts=starts)
    path = folder / succession.FILE
    if as_json:
        told = {"name": public.name, "fingerprint": public.fingerprint, "starts": starts}
        print(strict_json.dumps({**told, "file": str(path)}))
        return
    print(f"{public.name}: {public.fingerprint} from {starts} on")
    if coordinator:
        print(f"{path}: carry it to all sites before that day: fedx site trust {path.name}")
    else:
        print(f"{path}: carry it to the coordinator before that day: fedx site admit {path.name}")
    if public.expires:
        print(f"The new keys expire on {keys.day(public.expires)}.")


def revoke(
    name: Annotated[
        str,
        typer.Argument(help="A site, at the coordinator; or coordinator, at a site."),
    ],
    why: Annotated[str, typer.Option(help="For the audit book.")] = "",
    site_home: SiteHome = "site",
    coordinator_home: CoordinatorHome = "sites",
    registrar_home: RegistrarHome = None,
    as_json: JsonObject = False,
) -> None:
    """Revoke the keys of a site, or at a site those of its coordinator, for good.

    A revoked site's answers do not count from now on, also in a round under way; what it has sent
    in rounds that are committed stays in the model. A site that revokes its coordinator takes no
    more orders until it trusts another one.

        fedx site revoke north --why "laptop stolen"
        fedx site revoke coordinator
    """
    from fedx_core.rounds import audit
    from fedx_core.sites.home import Home
    from fedx_core.sites.registry import COORDINATOR, Registry

    if name == COORDINATOR:
        home = Home(Path(site_home))
        folder, public = home.folder, home.revoke_coordinator()
        then = "no more orders are taken; fedx site trust names another coordinator"
    else:
        registry = Registry(Path(coordinator_home), _path(registrar_home))
        folder, public = registry.folder, registry.revoke(name)
        then = "its answers do not count any more; fedx site roster leaves it out of coming runs"
    audit.note(folder, "revoked", site=name, fingerprint=public.fingerprint, why=why)
    if as_json:
        print(strict_json.dumps({"name": name, "fingerprint": public.fingerprint}))
    else:
        print(f"{name}: {public.fingerprint} is revoked: {then}")


def registrar(
    registrar_home: Annotated[
        Path,
        typer.Argument(help="Folder for the registrar's keys; its owner alone admits sites then."),
    ],
    valid_days: ValidDays = 730,
    coordinator_home: CoordinatorHome = "sites",
    as_json: JsonObject = False,
) -> None:
    """Let somebody else than the coordinator admit and revoke sites.

    An admission counts from now on only if the registrar's keys have signed it; sites that are
    admitted already are signed now. Keep the folder with another user, or on another machine: who
    may start runs needs the coordinator's keys and can't admit, who may admit can't start runs, and
    who has neither can only read.

        fedx site registrar /srv/registrar
    """
    from fedx_core.rounds import audit
    from fedx_core.sites import key_files, keys
    from fedx_core.sites.registry import REGISTRAR, Registry

    if not (registrar_home / key_files.FILE).exists():
        key_files.save(keys.make(REGISTRAR, valid_days), registrar_home)
    public = key_files.load(registrar_home).public
    registry = Registry(Path(coordinator_home), registrar_home)
    _ = registry.keys
    registry.appoint(public)
    audit.note(registry.folder, "registrar", fingerprint=public.fingerprint)
    if as_json:
        print(strict_json.dumps({"name": public.name, "fingerprint": public.fingerprint}))
    else:
        print(f"registrar: {public.fingerprint}")
        print(
            f"{registrar_home}: move it to whoever admits sites; fedx site admit and revoke need "
            "it in --registrar-home"
        )


def _path(folder: str | None) -> Path | None:
    return Path(folder) if folder else None
