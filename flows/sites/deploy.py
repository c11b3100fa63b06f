"""The work pool and the deployment by which a coordinator wakes a site.

    python -m flows.sites.deploy NAME...

with PREFECT_API_URL in the environment. Doing it again brings them up to date. Prefect's server
needs nothing else to know of a site; who may train there is in the coordinator's folder of sites.
"""

import sys
from typing import Any

from prefect import flow

from fedx_core.base.errors import FedXError, RunError
from flows.base import exits
from flows.sites.command import ORDER_LENGTH, ORDER_PATTERN

FLOW = "fedx-site"


@flow(name=FLOW, persist_result=False)
def fedx_site(order: str) -> None:
    """Stand for a site's work, which its worker does without running this.

    Args:
        order: a letter of the coordinator, sealed to the site.

    Raises:
        RunError: always; something other than the site's worker has run it.
    """
    raise RunError(
        "an order is taken by a worker of type fedx-site alone; start one at the site with "
        "`prefect worker start --type fedx-site --pool fedx-site-NAME`"
    )


def pool_of(site: str) -> str:
    """Name the work pool of a site."""
    return f"{FLOW}-{site}"


def schema() -> dict[str, Any]:
    """Describe the parameter, for Prefect's server to refuse what can't be an order."""
    order = {
        "type": "string",
        "title": "order",
        "description": "A letter of the coordinator, sealed to the site.",
        "maxLength": ORDER_LENGTH,
        "pattern": f"^{ORDER_PATTERN}$",
        "position": 0,
    }
    return {
        "title": "Parameters",
        "type": "object",
        "properties": {"order": order},
        "required": ["order"],
        "additionalProperties": False,
    }


def deploy(site: str) -> str:
    """Make, or renew, a site's work pool and deployment.

    Args:
        site: its name, as it was admitted.

    Returns:
        The deployment's name, ``fedx-site/<site>``.

    Raises:
        RunError: no Prefect server is named, or it does not answer, or refuses.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import PREFECT_API_URL

    from flows.sites.worker import TEMPLATE, TYPE

    if not PREFECT_API_URL.value():
        raise RunError("PREFECT_API_URL names no Prefect server; set it to that of the rounds")
    pool = WorkPoolCreate(
        name=pool_of(site),
        type=TYPE,
        description=f"Wakes {site}, which opens sealed orders and runs nothing else.",
        base_job_template=TEMPLATE,
    )
    try:
        with get_client(sync_client=True) as client:
            client.create_work_pool(pool, overwrite=True)
            client.create_deployment(
                flow_id=client.create_flow_from_name(FLOW),
                name=site,
                description=f"The coordinator's letters to {site}; nobody else needs to start it.",
                work_pool_name=pool.name,
                entrypoint="flows/sites/deploy.py:fedx_site",
                pull_steps=[],
                tags=["fedx"],
                parameter_openapi_schema=schema(),
                enforce_parameter_schema=True,
            )
    except (httpx.HTTPError, RuntimeError) as error:
        raise RunError(
            f"no work pool for {site} at Prefect's server ({error}); check PREFECT_API_URL and "
            "PREFECT_API_AUTH_STRING, then do it again"
        ) from error
    return f"{FLOW}/{site}"


def main(sites: list[str]) -> int:
    """Deploy sites from the command line; an error goes to stderr, with exit code 1."""
    try:
        for site in sites:
            print(deploy(site))
    except FedXError as error:
        print(exits.said(error.code, str(error), as_json=False), file=sys.stderr)
        return exits.FAILED
    return exits.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
