"""Prepare MLflow's experiment and print the address of its charts; a process of its own.

python -m infra.stack.charts

MLflow takes seconds to import, and nothing else of the stack needs it.
"""

from flows.tracking import charts, copying, places


def main() -> None:
    """Do so at the server of MLFLOW_TRACKING_URI."""
    uri = places.default()
    client = places.connect(uri)
    experiment_id = copying.experiment(client, uri)
    charts.prepare(client, experiment_id, ())
    print(charts.chart_url(uri, experiment_id))


if __name__ == "__main__":
    main()
