"""The flow ``fedx-sweep``: the same as the command, on Prefect."""

from pathlib import Path

import pytest
import yaml

from bed import ROOT
from fedx_core.base.errors import RunError


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_runs_what_is_missing_leaves_what_is_done_and_names_what_fails(
    tmp_path: Path, tiny_params: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    from flows.deployments.sweep_flow import fedx_sweep

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    grid = tmp_path / "seeds.yaml"

    def run(seeds: list[int]) -> list[dict[str, str]]:
        content = {"base": {"federation.rounds": 1}, "grid": {"seed": seeds}}
        grid.write_text(yaml.safe_dump(content))
        return fedx_sweep(
            grid=str(grid),
            params=str(tiny_params),
            run_root=str(tmp_path / "runs"),
            data_root=str(tiny_data),
            track="nothing",
        )

    assert run([1]) == [{"run": "seeds-s1", "ending": "finished", "said": ""}]
    assert run([1]) == [{"run": "seeds-s1", "ending": "skipped", "said": ""}]
    # A file stands where a folder should be.
    (tmp_path / "runs" / "seeds-s2").mkdir()
    (tmp_path / "runs" / "seeds-s2" / "results").write_text("")
    with pytest.raises(RunError, match="1 of 2 runs failed, seeds-s2 first"):
        run([1, 2])
    with get_client(sync_client=True) as client:
        tables = [a for a in client.read_artifacts() if a.type == "table"]
    assert any("seeds-s1" in str(table.data) and "skipped" in str(table.data) for table in tables)


def test_the_deployment_names_the_flow_and_the_flow_its_function() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    entrypoints = {one["name"]: one["entrypoint"] for one in deployments}
    module, _, flow = entrypoints["sweep"].rpartition(".")
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert f"def {flow}(" in text
    # By which `make up` finds out whether it is deployed.
    assert f'name="{flow.replace("_", "-")}"' in text
