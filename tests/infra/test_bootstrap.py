from infra.stack import bootstrap
from infra.stack.settings import HEARTBEAT_SECONDS


def test_each_site_gets_the_clients_deployment_with_a_queue_of_its_own() -> None:
    plain = bootstrap.deployments(())["deployments"]
    assert [each["name"] for each in plain] == ["round-loop", "sweep", "train"]
    sites = bootstrap.deployments(("north", "south"))["deployments"]
    train, north, south = sites[2:]
    assert [each["name"] for each in (north, south)] == ["north", "south"]
    assert north["work_pool"] == {**train["work_pool"], "work_queue_name": "north"}
    assert {**north, "name": "train", "work_pool": train["work_pool"]} == train


def test_deployments_are_of_one_version_until_something_changes() -> None:
    versions = {
        each["version"]
        for _ in range(2)
        for each in bootstrap.deployments(("north",))["deployments"]
    }
    assert len(versions) == 1
    assert bootstrap.deployments(())["deployments"][0]["version"] not in versions


def test_a_run_has_time_for_three_heartbeats_before_it_counts_as_crashed() -> None:
    trigger = bootstrap.automation()["trigger"]
    assert trigger["within"] >= 3 * HEARTBEAT_SECONDS
    assert "prefect.flow-run.heartbeat" in trigger["expect"]
    # What has ended is not expected to beat again.
    for end in ("Completed", "Failed", "Cancelled", "Crashed"):
        assert f"prefect.flow-run.{end}" in trigger["expect"]
