"""Annotated regions, their markers, gene sets and pathways, and all of it in a report."""

import geopandas as gpd
import pandas as pd
import pytest
from shapely import box
from spatialdata import read_zarr

import deepspot as ds


@pytest.fixture
def regions(predicted, classes):
    """A square around each spot, of the class of its tissue, as if somebody had drawn them."""
    spots = predicted.shapes["spots"].geometry
    squares = [box(p.x - 40, p.y - 40, p.x + 40, p.y + 40) for p in spots]
    return gpd.GeoDataFrame({"name": classes(predicted).to_numpy()}, geometry=squares)


# zarr has no specification for the record arrays in which scanpy keeps ranked genes.
@pytest.mark.filterwarnings("ignore:The data type")
def test_from_regions_to_the_report(predicted, regions, programs, classes, model, tmp_path):
    # In the file that `ds.tl.enrich` reads; and one set of genes that nobody has measured.
    lines = ["\t".join([name, "", *genes]) for name, genes in programs.items()]
    (tmp_path / "sets.gmt").write_text("\n".join([*lines, "unknown\t\tABC1\tABC2"]))
    net = pd.DataFrame([(name, gene, 1.0) for name, genes in programs.items() for gene in genes])
    net.columns = ["source", "target", "weight"]

    ds.pp.annotate(predicted, regions, label_key="name")
    table = predicted["deepspot_spots"]
    assert (table.obs["annotation"].astype(str).to_numpy() == classes(predicted).to_numpy()).mean() > 0.8
    frequent = [str(name) for name, n in table.obs["annotation"].value_counts().items() if n >= 5]
    assert len(frequent) > 1

    ds.tl.markers(predicted, "annotation", table_key="deepspot_spots", groups=frequent)
    markers = table.uns["markers"]
    assert set(markers["group"]) == set(frequent)
    assert set(markers["gene"]) <= set(table.var_names)

    ds.tl.enrich(predicted, tmp_path / "sets.gmt", table_key="deepspot_spots")
    assert {"term", "p_adj", "overlap"} <= set(table.uns["enrichment"])
    assert not table.uns["enrichment"]["term"].eq("unknown").any()
    same = table.uns["enrichment"].copy()
    ds.tl.enrich(predicted, programs, table_key="deepspot_spots", overwrite=True)
    assert set(table.uns["enrichment"]["term"]) == set(same["term"])

    ds.tl.pathways(predicted, net, table_key="deepspot_spots")
    scores = table.obsm["score_mlm"]
    assert "tumor" in scores
    assert scores.index.equals(table.obs_names)

    page = ds.report(predicted, tmp_path / "report.html", groupby="annotation", model=model)
    text = page.read_text(encoding="utf-8")
    for said in ("annotation", frequent[0], "tumor", "Pathways"):
        assert said in text
    assert "<script" not in text

    predicted.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")["deepspot_spots"]
    loose = {"check_index_type": False, "check_column_type": False}
    for name in ("score_mlm", "padj_mlm"):
        pd.testing.assert_frame_equal(back.obsm[name], table.obsm[name], **loose)
    assert list(back.uns["deepspot_pathways"]["n_targets"]) == table.uns["deepspot_pathways"]["n_targets"]
    assert len(back.uns["markers"]) == len(markers)
    assert back.obs["annotation"].astype(str).tolist() == table.obs["annotation"].astype(str).tolist()
