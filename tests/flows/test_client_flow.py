from fedx_core.clients.client import Place
from flows.prefect.client import at_site, name_of

PLACE = Place(store="s3://fedx/runs/a", shards="/server/shards", memory="/server/clients")


def test_a_site_without_an_own_place_uses_the_servers() -> None:
    assert at_site(PLACE, "a", {"FEDX_STORE": ""}) == PLACE


def test_a_sites_own_places_go_first_with_the_runs_name_in_them() -> None:
    own = {
        "FEDX_STORE": "s3://fedx/runs/",
        "FEDX_SHARDS": "/site/shards",
        "FEDX_MEMORY": "/site/{run}/memory",
    }
    assert at_site(PLACE, "a", own) == Place(
        store="s3://fedx/runs/a", shards="/site/shards", memory="/site/a/memory"
    )


def test_a_clients_work_is_named_after_its_round_and_what_is_special_about_it() -> None:
    assert name_of(7, "client-03", "train", 0) == "r7-client-03"
    assert name_of(7, "client-03", "evaluate", 0) == "r7-client-03-evaluate"
    assert name_of(7, "client-03", "train", 1) == "r7-client-03-try2"
