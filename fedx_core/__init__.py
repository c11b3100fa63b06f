"""Federated learning for remote sensing in which the server explains its model and prunes it.

The package is a chain of steps over frozen values, whose only side effect is bytes put in a store:

    values      errors, state, masks, messages, seeding, plugins, config, examples, pixels
    pieces      data, partition, models, structure, codec, store, journal
    learning    training, evaluation, aggregate, relevance, pruning
    methods     FedAvg, FedX and whoever comes next, one file each
    rounds      dispatch, train (client), aggregate, relevance, prune, evaluate, commit
    around      plan, checkpoint, ledger, retention, carrier, asking, cohort, start
    federation  the loop over rounds; yields one report a round

It knows nothing of Prefect, MLflow, DVC or plots: those live in ``flows``.
"""

__version__ = "0.1.0"
