"""Ways of running and watching a federation: DVC stages, Prefect flows, MLflow, the command.

Nothing here may talk to a third party: the switches below come before any import of Prefect, MLflow
or DVC, and this is the one place where that is certain. Whoever sets them keeps the last word. For
the same reason what the machine lacks is seen to here.
"""

import os as _os

from flows.doctor import surroundings as _surroundings

for _switch, _value in {
    "DO_NOT_TRACK": "true",  # MLflow wants the word, Prefect takes it too
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
}.items():
    _os.environ.setdefault(_switch, _value)

_surroundings.ask_this_machine_directly(_os.environ)
_surroundings.find_a_home(_os.environ)
