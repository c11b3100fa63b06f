"""Institutions that own their data: what runs at them, and how the server's loop reaches them.

    errands  one of those orders, until it is answered; inboxes: where they lie
    waking   Prefect as the doorbell of a site that does not look into its inbox
    serve    a site that stays at work, with model and data in memory; post: its letters
    worker   the Prefect worker `fedx-site`: a sealed order in, a fixed command, nothing else
    take     that command: one order from stdin
    deploy   the work pool and the deployment by which the coordinator wakes a site

What is trusted, checked and stored is in :mod:`fedx_core.sites`; here is how it is carried.
"""
