"""Ways of running and watching a federation: DVC stages, Prefect flows, MLflow, the command."""
