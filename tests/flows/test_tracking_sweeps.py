import threading

from mlflow import MlflowClient

from flows.tracking import sweeps


def test_a_sweep_has_one_parent_that_is_found_again(mlflow_uri: str) -> None:
    client = MlflowClient(tracking_uri=mlflow_uri)
    experiment_id = client.create_experiment("fedx")
    first = sweeps.parent(client, experiment_id, "rates")
    assert sweeps.parent(client, experiment_id, "rates") == first
    assert sweeps.parent(client, experiment_id, "seeds") != first
    assert client.get_run(first).info.status == "FINISHED"


def test_of_parents_made_at_once_all_agree_on_one_afterwards(mlflow_uri: str) -> None:
    client = MlflowClient(tracking_uri=mlflow_uri)
    experiment_id = client.create_experiment("fedx")
    barrier = threading.Barrier(4)

    def race() -> None:
        own = MlflowClient(tracking_uri=mlflow_uri)
        barrier.wait()
        sweeps.parent(own, experiment_id, "rates")

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({sweeps.parent(client, experiment_id, "rates") for _ in range(3)}) == 1
    assert len(client.search_runs([experiment_id])) >= 1
