from fedx_core.client import Place
from flows.client import at_site

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
