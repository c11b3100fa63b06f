"""Every figure's dry run on real patches of BigEarthNet, from raw files to the picture."""

import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from bed import ROOT
from fedx_core.data._metadata import BANDS
from fedx_core.images import set_folder
from flows.reproduce import figures
from flows.reproduce.scale import Scale
from flows.sweeps import sweep
from flows.sweeps.sweep import Places
from sweeping import Here

V1 = "v1/BigEarthNet-v1.0"


@pytest.fixture(scope="module")
def patches(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay all real patches out as BigEarthNet v2 does, those of v1 under their later names.

    Left out are those without labels in v2, and Switzerland, which has none to train on.
    """
    folder = tmp_path_factory.mktemp("bigearthnet")
    table = pq.read_table(shared_data / "bigearthnet_v2_metadata" / "metadata.parquet")
    with zipfile.ZipFile(shared_data / "bigearthnet_real_mini.zip") as archive:
        names = archive.namelist()
        first = {n.split("/")[2] for n in names if n.startswith(V1) and n.count("/") > 2}
        later = {n.split("/")[3] for n in names if n.startswith("v2/BigEarthNet-S2/")}
        there = pc.or_(
            pc.is_in(table["s2v1_name"], pa.array(sorted(first))),
            pc.is_in(table["patch_id"], pa.array(sorted(later))),
        )
        table = table.filter(pc.and_(there, pc.not_equal(table["country"], "Switzerland")))
        pq.write_table(table, folder / "metadata.parquet")
        for row in table.select(["patch_id", "s2v1_name"]).to_pylist():
            patch, old = row["patch_id"], row["s2v1_name"]
            tile = patch.rsplit("_", 2)[0]
            into = folder / "BigEarthNet-S2" / tile / patch
            into.mkdir(parents=True)
            place = (
                f"{V1}/{old}/{old}" if old in first else f"v2/BigEarthNet-S2/{tile}/{patch}/{patch}"
            )
            for band in BANDS:
                content = archive.read(f"{place}_{band}.tif")
                (into / f"{patch}_{band}.tif").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of data sets and runs, of which figures share some."""
    return tmp_path_factory.mktemp("dry")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "runs", "drawn"),
    [
        ("fig2", {"method.pruning_rate": 0.9}, 1 + 4, "fig2-by-rate.png"),
        ("fig3", {}, 2 * 2, "fig3.png"),
        ("fig4", {"method.pruning_rate": 0.5}, 2 + 2, "fig4-by-rate.png"),
        ("fig5", {"method.pruning_rate": 0.5, "method.sparsity": 0.5,
                  "method.prune_share": 0.2, "method.penalty": 0.001}, 1 + 2 + 3 + 1 + 1,
         "fig5-by-mib.png"),
    ],
)  # fmt: skip
def test_a_figures_dry_run_goes_end_to_end_on_real_patches(
    name: str,
    changes: dict[str, Any],
    runs: int,
    drawn: str,
    patches: Path,
    root: Path,
    shared_data: Path,
) -> None:
    model = ["resnet6", "convnextv2_atto"] if name == "fig4" else "resnet6"
    overrides = {
        "datasets.bigearthnet.source.source": str(patches),
        "datasets.bigearthnet.source.months": list(range(1, 13)),
        "datasets.eurosat.source.source": str(shared_data / "eurosat_rgb.zip"),
        "training.device": "cpu",
        "model.name": model,
        **changes,
    }
    both = name == "fig3"
    scale = Scale(dataset=None if both else "bigearthnet", dry=True, overrides=overrides)
    figure = figures.planned(name, scale, ROOT / "params.yaml", root / name)
    places = Places(run_root=root / "runs", data_root=figures.dry_data(figure, root / "data"))
    shards = set_folder.read_manifest(places.data_root / "bigearthnet" / "shards")
    assert [client["name"] for client in shards["clients"]] == [
        "austria", "finland", "ireland", "portugal", "serbia",
    ]  # fmt: skip
    jobs = sweep.jobs(figure.grid, places)
    ends = sweep.carry_out(jobs, Here(places), 1, lambda outcome: None)
    assert [end.said for end in ends if end.ending == "failed"] == []
    files = figures.draw(figure, places.run_root)
    assert len(figure.grid.cells) == runs
    assert drawn in files
    assert all((figure.folder / file).stat().st_size for file in files)
    assert "Dry run" in (figure.folder / drawn).with_suffix(".svg").read_text()
