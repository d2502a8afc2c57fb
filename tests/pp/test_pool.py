import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr
from spatialdata.models import PointsModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, set_transformation

import deepspot as ds
from deepspot.errors import InputError, MissingKeyError

BIN_UM, SIDE, GENES = 8.0, 60, ["A", "B", "C"]
ANGLE = np.deg2rad(30)
# Bins are squares of 2 units, turned and shifted in µm.
TO_MICRONS = np.array(
    [
        [BIN_UM / 2 * np.cos(ANGLE), -BIN_UM / 2 * np.sin(ANGLE), 100],
        [BIN_UM / 2 * np.sin(ANGLE), BIN_UM / 2 * np.cos(ANGLE), -40],
        [0, 0, 1],
    ]
)
AFFINE = Affine(TO_MICRONS, ("x", "y"), ("x", "y"))


def to_um(xy):
    return xy @ TO_MICRONS[:2, :2].T + TO_MICRONS[:2, 2]


@pytest.fixture
def bins():
    """Square bins without an image, in an order that is not that of their table."""
    rng = np.random.default_rng(0)
    y, x = (2.0 * axis.ravel() for axis in np.mgrid[:SIDE, :SIDE])
    names = [f"b{i}" for i in range(SIDE**2)]
    squares = gpd.GeoDataFrame(geometry=shapely.box(x, y, x + 2, y + 2), index=names)
    order = rng.permutation(SIDE**2)
    obs = pd.DataFrame({"region": pd.Categorical(["bins"] * SIDE**2), "bin": names}, index=names).iloc[order]
    obs["patient"], obs["cluster"] = "P1", rng.choice(["x", "y"], SIDE**2)
    counts = csr_matrix(rng.poisson(0.8, (SIDE**2, 3)).astype(np.float32))
    var = pd.DataFrame({"gene_ids": ["1", "2", "3"], "mean": [0.1, 0.2, 0.3]}, index=GENES)
    table = TableModel.parse(AnnData(counts, obs, var), region="bins", region_key="region", instance_key="bin")
    shapes = ShapesModel.parse(squares, transformations={"microns": AFFINE})
    return SpatialData(shapes={"bins": shapes}, tables={"table": table})


def bin_centers_um(sdata):
    centers = sdata["bins"].loc[sdata["table"].obs["bin"]].geometry.centroid
    return to_um(np.column_stack([centers.x, centers.y]))


def test_counts_are_summed_in_the_circle_that_contains_the_centroid(bins, log):
    ds.pp.pool(bins, link_key="spot")
    spots, table = bins["bins_spots"], bins["bins_spots_counts"]
    centers = to_um(np.column_stack([spots.geometry.x, spots.geometry.y]))
    distance = np.linalg.norm(centers[:, None] - bin_centers_um(bins), axis=2)
    inside = distance <= 27.5
    assert inside.sum(axis=0).max() == 1
    counts = bins["table"].X.toarray()
    np.testing.assert_array_equal(table.X.toarray(), inside @ counts)
    assert table.X.dtype == np.int32
    np.testing.assert_array_equal(table.obs["n_pooled"], inside.sum(axis=1))
    # Visium's array: the nearest spots are 100 µm away.
    apart = np.linalg.norm(centers[:, None] - centers, axis=2)
    np.testing.assert_allclose(np.sort(apart, axis=1)[:, 1], 100)
    assert (spots["diameter_um"] == 55).all()
    np.testing.assert_allclose(spots["radius"], 27.5 / (BIN_UM / 2))
    # The link, and what is in no spot.
    spot = bins["table"].obs["spot"]
    np.testing.assert_array_equal(spot.isna(), ~inside.any(axis=0))
    np.testing.assert_array_equal(spot.dropna(), spots.index[inside.argmax(axis=0)[inside.any(axis=0)]])
    outside = int(counts.sum() - table.X.sum())
    assert any(f"with {outside:,} of {int(counts.sum()):,} counts" in line for line in log)


def test_totals_agree_where_the_spots_cover_everything(bins):
    x, y = (20.0 * axis.ravel() for axis in np.mgrid[:6, :6])
    tiles = gpd.GeoDataFrame(geometry=shapely.box(x, y, x + 20, y + 20))
    bins["tiles"] = ShapesModel.parse(tiles, transformations={"microns": AFFINE})
    ds.pp.pool(bins, shapes_key="bins", into_key="tiles")
    table = bins["tiles_counts"]
    np.testing.assert_array_equal(table.X.sum(axis=0), bins["table"].X.sum(axis=0))
    assert (table.obs["n_pooled"] == 100).all()
    # Centroids on the border of two polygons are counted once.
    halves = gpd.GeoDataFrame(geometry=shapely.box([0, 61], [0, 0], [61, 122], [122, 122]))
    bins["halves"] = ShapesModel.parse(halves, transformations={"microns": AFFINE})
    ds.pp.pool(bins, shapes_key="bins", into_key="halves")
    assert bins["halves_counts"].X.sum() == bins["table"].X.sum()


def test_sums_beyond_32_bits_are_exact(bins):
    large = bins["table"].X.astype(np.float64)
    large.data[:] = 2**30 + 1
    bins["table"].layers["large"] = large
    ds.pp.pool(bins, layer="large", diameter_um=100)
    X = bins["bins_spots_counts"].X
    assert X.dtype == np.int64
    assert X.max() > 2**32
    assert (X.data % (2**30 + 1) == 0).all()


def test_spots_that_overlap_share_no_count(bins):
    ds.pp.pool(bins, diameter_um=100, pitch_um=50, layout="square")
    assert bins["bins_spots_counts"].X.sum() <= bins["table"].X.sum()
    assert bins["bins_spots_counts"].obs["n_pooled"].sum() <= SIDE**2
    array = bins["bins_spots"][["array_row", "array_col"]].to_numpy()
    centers = to_um(np.column_stack([bins["bins_spots"].geometry.x, bins["bins_spots"].geometry.y]))
    steps = (centers - centers[0])[:, ::-1] / 50
    np.testing.assert_allclose(steps, array - array[0], atol=1e-9)


def test_transcripts_are_pooled_as_the_shapes_that_contain_them(bins):
    counts = bins["table"].X.toarray().astype(int)
    names = bins["table"].obs["bin"].to_numpy()
    rows, genes = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices(counts.shape))
    centers = bins["bins"].loc[names[rows]].geometry.centroid
    frame = pd.DataFrame({"x": centers.x.to_numpy(), "y": centers.y.to_numpy(), "gene": np.array(GENES)[genes]})
    frame = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    bins["tx"] = PointsModel.parse(frame, feature_key="gene", transformations={"microns": AFFINE}, npartitions=4)
    ds.pp.pool(bins, shapes_key="bins")
    ds.pp.pool(bins, points_key="tx", into_key="bins_spots", key_added="again")
    ds.pp.pool(bins, points_key="tx", gene_key="gene", key_added="own")
    expected = bins["bins_spots_counts"]
    for table in (bins["again"], bins["own_counts"]):
        np.testing.assert_array_equal(table.X.toarray(), expected.X.toarray())
        assert table.var_names.tolist() == GENES
        np.testing.assert_array_equal(table.obs["n_pooled"], expected.X.sum(axis=1).A1)


def test_the_table_is_a_measured_one_and_keeps_what_holds_for_spots(bins, tmp_path):
    ds.pp.pool(bins, min_counts=100)
    table = bins["bins_spots_counts"]
    assert "deepspot" not in table.uns
    assert (table.X.sum(axis=1) >= 100).all()
    assert len(bins["bins_spots"]) == table.n_obs
    assert (table.obs["patient"] == "P1").all()
    assert (table.obs["pooled_from"] == "bins").all()
    assert "cluster" not in table.obs
    assert table.var.columns.tolist() == ["gene_ids"]
    bins.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr")
    np.testing.assert_array_equal(again["bins_spots_counts"].X.toarray(), table.X.toarray())


def test_spots_are_predicted_and_evaluated_on_their_own_counts(slide, quick_model, mean_color):
    """From the spots of a slide with an image to larger ones, whose measured table is chosen by the shapes."""
    ds.pp.pool(slide, diameter_um=120, pitch_um=60, key_added="large")
    ds.tl.predict(slide, quick_model, encoder=mean_color(), shapes_key="large")
    ds.tl.evaluate(slide, prediction_key="deepspot_large")
    assert slide["deepspot_large"].uns["deepspot"]["evaluated_on"] == "large_counts"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shapes_key": "cells"}, MissingKeyError, "Available keys: \\['bins'\\]"),
        ({"table_key": "counts"}, MissingKeyError, "counts"),
        ({"points_key": "tx"}, MissingKeyError, "sdata.points"),
        ({"gene_key": "gene"}, InputError, "points_key"),
        ({"layout": "round"}, InputError, "hexagonal"),
        ({"diameter_um": 0}, InputError, "above 0"),
        ({"diameter_um": 5}, InputError, "are smaller than the shapes 'bins' of 8 µm"),
        ({"diameter_um": 5_000}, InputError, "No spot of 5000 µm fits"),
        ({"pitch_um": 0.01}, InputError, "Check the scale"),
        ({"into_key": "bins"}, InputError, "no suitable element|itself"),
        ({"into_key": "bins", "shapes_key": "bins"}, InputError, "into itself"),
        ({"into_key": "bins", "pitch_um": 10, "shapes_key": "bins"}, InputError, "describe new spots"),
        ({"key_added": "bins"}, InputError, "exists"),
        ({"link_key": "patient"}, InputError, "link_key"),
        ({"min_counts": 0}, InputError, "at least 1"),
        ({"min_counts": 10**9}, InputError, "the highest number is"),
    ],
)
def test_bad_arguments_change_nothing(bins, options, error, message):
    before = [name for _, name, _ in bins.gen_elements()], list(bins["table"].obs)
    with pytest.raises((error, MissingKeyError), match=message):
        ds.pp.pool(bins, **options)
    assert before == ([name for _, name, _ in bins.gen_elements()], list(bins["table"].obs))


def test_transcripts_take_no_table(bins):
    with pytest.raises(InputError, match="pooled without \\['shapes_key'"):
        ds.pp.pool(bins, points_key="tx", shapes_key="bins")


def test_a_scale_is_needed(bins):
    set_transformation(bins["bins"], {"global": AFFINE}, set_all=True)
    with pytest.raises(InputError, match=r"ds\.pp\.set_scale"):
        ds.pp.pool(bins)


def test_circles_of_several_sizes_are_refused(bins):
    centers, radii = np.array([[20.0, 20], [60, 60]]), np.array([5.0, 8])
    bins["circles"] = ShapesModel.parse(centers, geometry=0, radius=radii, transformations={"microns": AFFINE})
    with pytest.raises(InputError, match="different radii"):
        ds.pp.pool(bins, into_key="circles")
    bins["circles"]["diameter_um"] = 30.0
    ds.pp.pool(bins, into_key="circles")
    inside = np.linalg.norm(to_um(centers)[:, None] - bin_centers_um(bins), axis=2) <= 15
    np.testing.assert_array_equal(bins["circles_counts"].X.toarray(), inside @ bins["table"].X.toarray())


def test_spots_that_other_tables_annotate_are_not_replaced(bins):
    ds.pp.pool(bins, diameter_um=50, pitch_um=50)
    ds.pp.pool(bins, diameter_um=50, pitch_um=50, overwrite=True)
    key = next(name for name in bins.shapes if name.endswith("_spots"))
    bins.tables["predicted"] = bins[f"{key}_counts"].copy()
    ds.pp.pool(bins, diameter_um=50, pitch_um=50, overwrite=True)  # the same spots
    before = bins[key].copy()
    with pytest.raises(ValueError, match=r"tables \['predicted'\] annotate it"):
        ds.pp.pool(bins, diameter_um=40, pitch_um=40, overwrite=True)
    assert bins[key].equals(before)
