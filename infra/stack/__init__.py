"""One command starts all servers and workers on this machine, and one ends them.

    settings    what ``.env`` says, and what shells need to use the servers
    identities  who may do what in the object store
    certificates  what SeaweedFS asks for at its inner doors
    services    which programs make up the stack, and how each is started
    processes   start programs, find them again, end them
    waiting     until each answers, or time is up
    prefect_api the few requests that setting Prefect up takes
    bootstrap   bucket, work pools, deployments, automation, charts: made where they are missing
    lifecycle   up, down, status, forget

    python -m infra.stack up

No container engine is needed. Data are in ``var/``, next to logs; everything listens on this
machine alone.
"""
