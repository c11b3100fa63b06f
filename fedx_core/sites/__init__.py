"""Institutions that own their data: who they are, what they are asked, and what they may touch.

    keys         a name with two pairs of keys: one to sign with, one to open sealed letters with
    registry     the sites that a coordinator has admitted
    home         a site's folder
    grants       one object each: a URL that fetches it, or stores it once, and ends
    presigner    makes them; granting works out which of them a job needs, and how long they are
    http_client  what a site's requests go through: HTTPS, bounded, no URL in any message
    orders       a job, signed by the coordinator, sealed to its site, with the grants that it needs
    invitation   where a site's first order will lie
    approvals    the plans that a site's people have read and agreed to
    manifest     a client's report, signed by the site over the bytes that it has stored
    notes        a site's short words: taken, waiting for people, ready, refused
    serving      a site that is at work: order in, checks, training, payload and manifest out

The coordinator alone has the store's credentials. A site has its keys, its data and its approvals,
and reaches nothing that an order does not grant.
"""
