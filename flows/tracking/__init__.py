"""A run's copy in MLflow, for looking at; the record stays in the run's folder.

``results/rounds.json``, ``results/system.jsonl`` and the files beside them are written first, and
everything in MLflow follows from them. So a tracking server that is away or slow costs a line,
never a run: a thread of its own brings the copy up to date while the run goes on, and ``fedx sync``
does so at any time later, to the same MLflow or to another one, and never twice.

    background   the tracker: told of a run, sends from a thread
    visits       one visit: open the copy, send, close; what a run and ``fedx sync`` share
    copying      one run's copy at one MLflow: find it or make it, send rounds and samples
    describing   parameters, tags, data and links of a copy
    files        its files and models
    content      what a copy holds: parameters, metrics, the table of clients; pure functions
    registry     the final model as a version of a registered model, and who is ``best``
    charts       the experiment opens on accuracy against what was transmitted
    sweeps       runs of one sweep below one parent
    places       tracking URIs: which, under which name, and how long to wait for one
    sync         the same from what is written down, for ``fedx sync``

Only this package imports MLflow.
"""

from flows.tracking.background import MlflowTracker, NoTracker, Tracker, tracker

__all__ = ["MlflowTracker", "NoTracker", "Tracker", "tracker"]
