"""Each file is read by the reader of the software that it is for."""

import gzip
import json

import anndata
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import shapely
import tifffile

import deepspot as ds
from deepspot._spatial.transforms import centers_px

GENES = ["FASN", "ERBB2", "HLA-A"]
ALL = {
    "geojson": "s.geojson",
    "csv": "s.csv",
    "parquet": "s.parquet",
    "h5ad": "s.h5ad",
    "10x_h5": "s.h5",
    "10x": "outs",
}
# Warnings of readers: of scanpy on its own function, and of squidpy and spatialdata-io on types of pandas.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `squidpy"),
    pytest.mark.filterwarnings("ignore:Converting `region_key"),
    pytest.mark.filterwarnings("ignore:The set_bad function"),
]


@pytest.fixture
def values():
    return np.random.default_rng(0).gamma(2, 1, (30, 3)).astype(np.float32)


@pytest.fixture
def predicted(slide, values, add_table):
    """A slide with a prediction whose rows are not in the order of the spots."""
    add_table(slide, values, GENES)
    table = slide["deepspot_spots"]
    table.var["expected_r"] = [0.5, np.nan, 0.25]
    table.obs["ood_score"] = np.linspace(0, 1.2, 30).astype(np.float32)
    table.obs["ood"] = table.obs["ood_score"] > 1
    table.obs["group"] = pd.Categorical(np.repeat(["Tumör <b>", "T/NK"], 15))
    table.uns["group_colors"] = ["#00ff00", "#ff0000"]
    table.uns["deepspot"] |= {"model": "a <model>", "expected_r_from": "3 patients"}
    del slide.tables["deepspot_spots"]
    slide["deepspot_spots"] = table[np.random.default_rng(1).permutation(30)].copy()
    return slide


def centers(sdata):
    return centers_px(sdata, "P1_S1_image", "spots")


def names(sdata):
    return list(sdata["table"].obs_names)


def as_dict(value):
    """What GDAL makes of an object in a column, by its version."""
    return value if isinstance(value, dict) else json.loads(value)


def rates(values):
    return np.expm1(values)


def test_geojson_has_the_spots_in_pixels_with_their_genes(predicted, values, tmp_path):
    assert ds.io.export(predicted, tmp_path / "s.geojson") == tmp_path / "s.geojson"
    read = gpd.read_file(tmp_path / "s.geojson")
    assert list(read["name"]) == names(predicted)
    assert set(read["objectType"]) == {"detection"}
    outlines = read.geometry.to_numpy()
    np.testing.assert_allclose(shapely.get_coordinates(shapely.centroid(outlines)), centers(predicted), atol=0.02)
    # A polygon of 32 corners in a circle of 55 µm, at 1 µm per pixel.
    np.testing.assert_allclose(shapely.area(outlines), np.pi * 27.5**2, rtol=0.01)
    for i, gene in enumerate(GENES):
        measured = [row[f"Predicted: {gene}"] for row in read["measurements"].map(as_dict)]
        np.testing.assert_allclose(measured, values[:, i], atol=1e-4)


def test_geojson_is_as_qupath_reads_it(predicted, tmp_path):
    """As in QuPathTypeAdapters of QuPath: name, type, class with a color of three numbers, measurements by name."""
    read = json.loads(ds.io.export(predicted, tmp_path / "s.geojson").read_text(encoding="utf-8"))
    assert read["type"] == "FeatureCollection"
    assert read["deepspot"]["scale"] == "log1p of counts per 10,000"
    assert read["deepspot"]["expected_r"] == {"FASN": 0.5, "HLA-A": 0.25}
    for i, feature in enumerate(read["features"]):
        properties = feature["properties"]
        ring = feature["geometry"]["coordinates"][0]
        assert feature["geometry"]["type"] == "Polygon"
        assert ring[0] == ring[-1]
        doubtful = {"name": "Out of distribution", "color": [230, 120, 30]}
        assert properties.get("classification") == (
            doubtful if i >= 26 else None if i < 25 else properties.get("classification")
        )
        assert list(properties["measurements"])[:2] == ["ood_score", "ood"]
        assert all(isinstance(value, float) for value in properties["measurements"].values())


def test_groups_become_classes_that_annotate_reads_back(predicted, tmp_path):
    path = ds.io.export(predicted, tmp_path / "s.geojson", groupby="group", object_type="annotation", genes="FASN")
    read = json.loads(path.read_text(encoding="utf-8"))["features"]
    assert read[0]["properties"]["classification"] == {"name": "Tumör <b>", "color": [255, 0, 0]}
    assert read[0]["properties"]["objectType"] == "annotation"
    ds.pp.annotate(predicted, path, key_added="again")
    table = predicted["deepspot_spots"]
    assert list(table.obs["again"].astype(str)) == list(table.obs["group"].astype(str))
    colors = dict(zip(table.obs["again"].cat.categories, table.uns["again_colors"], strict=True))
    assert colors == {"Tumör <b>": "#ff0000", "T/NK": "#00ff00"}


def test_cells_keep_their_outlines(tmp_path, monkeypatch):
    monkeypatch.setattr("deepspot.io._export.contents.BLOCK", 100)  # several blocks
    slide = ds.datasets.toy(1, 1, n_rows=3, n_cols=4, cells=True)["P1_S1"]
    genes = list(slide["table_cells"].var_names[:2])
    path = ds.io.export(slide, tmp_path / "cells.geojson", table_key="table_cells", genes=genes, groupby="class")
    read = gpd.read_file(path)
    cells = slide["cells"]
    assert len(read) == len(cells) > 200
    assert set(read["objectType"]) == {"cell"}
    assert list(read["classification"].map(lambda text: as_dict(text)["name"])) == list(cells["class"].astype(str))
    np.testing.assert_allclose(
        shapely.area(read.geometry.to_numpy()), shapely.area(cells.geometry.to_numpy()), rtol=0.01
    )
    counts = [row[f"Measured: {genes[1]}"] for row in read["measurements"].map(as_dict)]
    np.testing.assert_array_equal(counts, slide["table_cells"][:, genes[1]].X.toarray().ravel())


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_have_positions_doubt_and_genes(predicted, values, tmp_path, ending, monkeypatch):
    monkeypatch.setattr("deepspot.io._export.contents.BLOCK", 7)
    path = ds.io.export(predicted, tmp_path / f"s.{ending}")
    read = pd.read_csv if ending == "csv" else pd.read_parquet
    table = read(path)
    added = ["barcode", "x_px", "y_px", "x_um", "y_um"]
    assert list(table) == [*added, "spot_id", "ood_score", "ood", "group", *GENES]
    assert list(table["barcode"]) == names(predicted)
    np.testing.assert_allclose(table[["x_px", "y_px"]], centers(predicted))
    np.testing.assert_allclose(table[["x_um", "y_um"]], centers(predicted))  # 1 µm per pixel
    np.testing.assert_allclose(table[GENES], values, rtol=1e-6)
    assert table["ood"].sum() == (np.linspace(0, 1.2, 30) > 1).sum()
    genes = read(tmp_path / f"s_genes.{ending}").set_index("gene")
    assert list(genes.index) == GENES
    assert set(genes["scale"]) == {"log1p of counts per 10,000"}
    assert genes["expected_r"]["FASN"] == 0.5


def test_parquet_states_what_it_holds(predicted, tmp_path):
    from pyarrow import parquet

    schema = parquet.read_schema(ds.io.export(predicted, tmp_path / "s.parquet"))
    assert json.loads(schema.metadata[b"deepspot"])["model"] == "a <model>"
    assert str(schema.field("FASN").type) == "float"


def colors_at(image, xy, half):
    return np.array([image[y - half : y + half, x - half : x + half].mean((0, 1)) for x, y in xy.round().astype(int)])


def test_h5ad_lies_on_its_images(predicted, values, tmp_path):
    read = anndata.read_h5ad(ds.io.export(predicted, tmp_path / "s.h5ad"))
    assert list(read.obs_names) == names(predicted)
    np.testing.assert_array_equal(read.X, values)
    assert "log1p" in read.uns
    entry = read.uns["spatial"]["P1_S1_image"]
    full = predicted["P1_S1_image"].transpose("y", "x", "c").to_numpy()
    at = colors_at(full, read.obsm["spatial"], 12)
    for name in ("hires", "lowres"):
        factor = entry["scalefactors"][f"tissue_{name}_scalef"]
        small = colors_at(entry["images"][name], read.obsm["spatial"] * factor, round(12 * factor))
        assert np.abs(small - at).mean() < 4 < np.abs(small[::-1] - at).mean()
    assert max(entry["images"]["lowres"].shape) == 600
    assert entry["scalefactors"]["spot_diameter_fullres"] == pytest.approx(55)


@pytest.mark.filterwarnings("ignore:The method obs_vector:FutureWarning")  # squidpy, with anndata 0.13
def test_h5ad_is_drawn_and_read_again(predicted, tmp_path):
    import matplotlib.pyplot as plt
    import squidpy as sq

    read = anndata.read_h5ad(ds.io.export(predicted, tmp_path / "s.h5ad"))
    sq.pl.spatial_scatter(read, color="FASN")
    assert plt.gca().get_images()
    plt.close("all")
    image = predicted["P1_S1_image"].transpose("y", "x", "c").to_numpy()
    again = ds.io.from_anndata(read, image, name="again")  # the scale is in the file
    np.testing.assert_allclose(centers_px(again, "again_image", "spots"), centers(predicted))


def test_prediction_becomes_rates_and_says_so(predicted, values, tmp_path, log):
    read = sc.read_10x_h5(ds.io.export(predicted, tmp_path / "s.h5"))
    assert "rates and not counts" in log[-2]
    np.testing.assert_allclose(read.X.toarray(), rates(values), rtol=1e-5)
    assert list(read.var_names) == GENES
    assert list(read.obs_names) == names(predicted)


@pytest.fixture
def visium(predicted):
    """As in a file of Space Ranger, circles are drawn with 65 µm."""
    predicted["spots"]["radius"] = 32.5
    return predicted


def test_every_reader_opens_the_folder(visium, tmp_path):
    import spatialdata_io
    import squidpy as sq

    folder = ds.io.export(visium, tmp_path / "outs", format="10x", table_key="table")
    counts = visium["table"].X.toarray()
    tables = [
        sc.read_10x_mtx(folder / "filtered_feature_bc_matrix"),
        sc.read_10x_h5(folder / "filtered_feature_bc_matrix.h5"),
        sq.read.visium(folder),
        spatialdata_io.visium(folder, dataset_id="a")["table"],
        ds.io.visium(folder)["table"],
    ]
    for table in tables:
        np.testing.assert_array_equal(table.X.toarray(), counts)
        assert list(table.obs_names) == names(visium)
        assert list(table.var_names) == list(visium["table"].var_names)
    np.testing.assert_allclose(tables[2].obsm["spatial"], centers(visium), atol=0.01)
    facts = pd.read_csv(folder / "deepspot_obs.csv")
    assert list(facts["barcode"]) == names(visium)


def test_the_folder_is_a_slide_of_known_scale(visium, tmp_path):
    """Also without the full-resolution image, of which the positions are: they stay the same on the way back."""
    folder = ds.io.export(visium, tmp_path / "outs", format="10x", table_key="table")
    pixels = visium["P1_S1_image"].transpose("y", "x", "c").to_numpy()
    tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(256, 256))
    full = ds.io.visium(folder, fullres_image_file="slide.tif")
    np.testing.assert_allclose(centers_px(full, "outs_full_image", "outs"), centers(visium), atol=0.01)
    downscaled = ds.io.visium(folder)
    options = {"table_key": "table", "image_key": "outs_lowres_image"}
    table = pd.read_csv(ds.io.export(downscaled, tmp_path / "a.csv", **options))
    np.testing.assert_allclose(table[["x_px", "y_px"]], centers(visium), atol=0.01)
    entry = anndata.read_h5ad(ds.io.export(downscaled, tmp_path / "a.h5ad", **options)).uns["spatial"]
    factors = entry["outs_lowres_image"]["scalefactors"]
    assert factors["spot_diameter_fullres"] == pytest.approx(65, rel=0.01)
    assert factors["tissue_lowres_scalef"] == pytest.approx(600 / max(pixels.shape), rel=0.01)


def test_the_layout_is_what_seurat_needs(predicted, tmp_path):
    """Load10X_Spatial takes every group of the file for a genome, and columns of the positions by their order."""
    import h5py

    folder = ds.io.export(predicted, tmp_path / "outs", format="10x")
    with h5py.File(folder / "filtered_feature_bc_matrix.h5") as file:
        assert list(file) == ["matrix"]
        matrix = file["matrix"]
        assert set(matrix) == {"barcodes", "data", "features", "indices", "indptr", "shape"}
        assert list(matrix["shape"]) == [3, 30]
        assert {"id", "name", "feature_type", "genome"} <= set(matrix["features"])
    lines = (folder / "spatial" / "tissue_positions.csv").read_text().splitlines()
    assert lines[0] == "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"
    x, y = centers(predicted)[0]
    assert lines[1].split(",")[-2:] == [str(round(y, 2)), str(round(x, 2))]
    factors = json.loads((folder / "spatial" / "scalefactors_json.json").read_text())
    needed = {"spot_diameter_fullres", "fiducial_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef"}
    assert needed <= set(factors)
    matrix = folder / "filtered_feature_bc_matrix"
    with gzip.open(matrix / "features.tsv.gz", "rt") as file:
        assert file.readline() == "FASN\tFASN\tGene Expression\n"
    assert {path.name for path in matrix.iterdir()} == {"barcodes.tsv.gz", "features.tsv.gz", "matrix.mtx.gz"}


def test_correction_has_its_own_rate_and_no_missing_genes(slide, values, add_table, tmp_path):
    rate = 2 * rates(values)
    rate[0, 1] = values[0, 1] = np.nan
    add_table(slide, values, GENES, "fixed", kind="corrected", layers={"rate": rate})
    read = sc.read_10x_h5(ds.io.export(slide, tmp_path / "s.h5", table_key="fixed"))
    assert list(read.var_names) == ["FASN", "HLA-A"]
    np.testing.assert_allclose(read.X.toarray(), rate[:, [0, 2]], rtol=1e-5)
    features = json.loads(ds.io.export(slide, tmp_path / "s.geojson", table_key="fixed").read_text())["features"]
    assert list(features[0]["properties"]["measurements"]) == ["Corrected: FASN", "Corrected: HLA-A"]


def test_bins_are_squares(tmp_path, add_table, slide):
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    xy = np.array([[100.0, 60.0], [116.0, 60.0]])
    squares = gpd.GeoDataFrame({"diameter_um": [16.0] * 2}, geometry=[shapely.box(*(p - 8), *(p + 8)) for p in xy])
    slide["bins"] = ShapesModel.parse(squares, transformations=get_transformation(slide["spots"], get_all=True))
    add_table(slide, [[1.0], [2.0]], ["A"], "deepspot_bins", shapes_key="bins")
    read = gpd.read_file(ds.io.export(slide, tmp_path / "s.geojson"))
    assert set(read["objectType"]) == {"detection"}
    np.testing.assert_array_equal(read.geometry.bounds.to_numpy(), np.hstack([xy - 8, xy + 8]))
    # No reader may take "0" for a number, and fail to find it in the matrix.
    folder = ds.io.export(slide, tmp_path / "outs", format="10x")
    import squidpy as sq

    read = sq.read.visium(folder)
    assert list(read.obs_names) == ["bin_0", "bin_1"]
    np.testing.assert_array_equal(read.obsm["spatial"], xy)


def test_names_with_html_quotes_and_unicode(slide, values, add_table, tmp_path):
    odd = ['<b>"A"</b>', "µ,β;基因", "a'b"]
    plain = [odd[0], "a,b;#", odd[2]]  # scanpy reads 10x files as ASCII
    add_table(slide, values, odd)
    for name in ("s.csv", "s.parquet", "s.h5ad", "s.geojson"):
        ds.io.export(slide, tmp_path / name)
    assert list(pd.read_csv(tmp_path / "s.csv"))[-3:] == odd
    assert list(pd.read_parquet(tmp_path / "s.parquet"))[-3:] == odd
    assert list(anndata.read_h5ad(tmp_path / "s.h5ad").var_names) == odd
    assert list(gpd.read_file(tmp_path / "s.geojson")["measurements"].map(as_dict)[0]) == [
        f"Predicted: {g}" for g in odd
    ]
    with pytest.raises(ValueError, match="is not in ASCII"):
        ds.io.export(slide, tmp_path / "s.h5")
    slide["deepspot_spots"].var_names = plain
    folder = ds.io.export(slide, tmp_path / "outs", format="10x")
    assert list(sc.read_10x_h5(folder / "filtered_feature_bc_matrix.h5").var_names) == plain
    assert list(sc.read_10x_mtx(folder / "filtered_feature_bc_matrix").var_names) == plain


def test_a_prediction_on_disk_needs_no_image(slide, quick_model, cheap_encoder, tmp_path):
    ds.tl.predict(slide, quick_model, encoder=cheap_encoder, out=tmp_path / "p.zarr")
    opened = ds.io.predicted(tmp_path / "p.zarr")
    table = pd.read_csv(ds.io.export(opened, tmp_path / "a.csv"))
    np.testing.assert_allclose(np.sort(table["x_px"]), np.sort(centers(slide)[:, 0]), atol=0.01)
    genes = list(opened["deepspot_spots"].var_names)
    assert genes == quick_model.card.genes
    order = pd.Index(opened["deepspot_spots"].obs_names).get_indexer(table["barcode"].astype(str))
    np.testing.assert_allclose(table[genes], np.asarray(opened["deepspot_spots"].X)[order], rtol=1e-5)
    assert anndata.read_h5ad(ds.io.export(opened, tmp_path / "a.h5ad")).X.shape == (30, 10)
    assert len(gpd.read_file(ds.io.export(opened, tmp_path / "a.geojson"))) == 30
    with pytest.raises(KeyError, match="no image"):
        ds.io.export(opened, tmp_path / "outs", format="10x")


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("s", {}, ValueError, "format of 's' is not clear"),
        ("s.xlsx", {}, ValueError, "End it with one of"),
        ("s.csv", {"format": "seurat"}, ValueError, "`format` must be one of"),
        ("nowhere/s.csv", {}, FileNotFoundError, "no folder"),
        ("nowhere/outs", {"format": "10x"}, FileNotFoundError, "no folder"),
        ("s.csv", {"table_key": "other"}, KeyError, "'other'"),
        ("s.csv", {"table_key": "features"}, ValueError, "holds features and no genes"),
        ("s.csv", {"genes": ["FASM"]}, KeyError, "Similar names: \\['FASN'"),
        ("s.csv", {"layer": "other"}, KeyError, "'other'"),
        ("s.csv", {"groupby": "group"}, ValueError, "are for objects of QuPath"),
        ("s.h5ad", {"layer": "lower"}, ValueError, "holds all layers"),
        ("s.geojson", {"groupby": "other"}, KeyError, "'other'"),
        ("s.geojson", {"object_type": "spot"}, ValueError, "`object_type` must be one of"),
        ("s.geojson", {"coordinate_system": "other"}, ValueError, "'other' is not shared"),
        ("s.h5", {"table_key": "table", "layer": "expected"}, ValueError, "does not contain raw counts"),
        ("s.h5", {"table_key": "scored"}, ValueError, "rates cannot be computed"),
    ],
)
def test_invalid_input_raises_and_writes_nothing(predicted, values, add_table, tmp_path, name, options, error, message):
    add_table(predicted, values, GENES, "features", kind="features")
    add_table(predicted, values, GENES, "scored")
    predicted["scored"].uns["deepspot"]["scale"] = "z-score"
    options = {"table_key": "deepspot_spots"} | options
    with pytest.raises(error, match=message):
        ds.io.export(predicted, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slot", ["obs", "var"])
@pytest.mark.parametrize("format", ["parquet", "h5ad"])
def test_a_column_that_cannot_be_stored_is_named(predicted, tmp_path, slot, format):
    frame = getattr(predicted["deepspot_spots"], slot)
    values = [1, "two", 3.5]
    frame["note"] = pd.Series([values[k % 3] for k in range(len(frame))], frame.index, dtype=object)
    with pytest.raises(ds.errors.InputTypeError, match=rf"{slot}\['note'\].*[Cc]onvert"):
        ds.io.export(predicted, tmp_path / ALL[format])
    assert not list(tmp_path.iterdir())
    frame["note"] = frame["note"].astype(str)
    ds.io.export(predicted, tmp_path / ALL[format])


def test_values_that_are_missing_or_infinite(predicted, tmp_path, monkeypatch):
    monkeypatch.setattr("deepspot.io._export.contents.BLOCK", 7)
    table = predicted["deepspot_spots"]
    first = table.obs["spot_id"].to_numpy() < 20  # missing in whole blocks
    table.obs["note"] = pd.Series(np.where(first, None, "seen"), table.obs_names, dtype=object)
    table.obs["count"] = pd.Series(range(30), table.obs_names, dtype="Int64").where(~first)
    table.obs["ood"] = table.obs["ood"].astype("boolean").where(~first)
    table.obs["ratio"] = np.where(first, np.inf, 0.5)
    table.var["expected_r"] = [0.5, np.inf, np.nan]
    frame = pd.read_parquet(ds.io.export(predicted, tmp_path / "s.parquet"))
    assert frame["note"].isna().sum() == frame["count"].isna().sum() == 20
    assert set(frame["note"].dropna()) == {"seen"}
    assert np.isinf(frame["ratio"]).sum() == 20
    assert pd.read_csv(ds.io.export(predicted, tmp_path / "s.csv"))["note"].isna().sum() == 20

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = ds.io.export(predicted, tmp_path / "s.geojson").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=refuse)
    measured = [each["properties"]["measurements"] for each in content["features"]]
    assert (
        ["ratio" in each for each in measured] == ["count" in each for each in measured] == [False] * 20 + [True] * 10
    )
    assert all("classification" not in each["properties"] for each in content["features"][:20])
    assert set(content["deepspot"]["expected_r"]) == {GENES[0]}
    read = anndata.read_h5ad(ds.io.export(predicted, tmp_path / "s.h5ad"))
    assert read.obs["note"].isna().sum() == 20


def test_names_must_be_unique(predicted, tmp_path):
    table = predicted["deepspot_spots"]
    table.obs["FASN"] = 1.0
    with pytest.raises(ValueError, match="Column 'FASN' of `obs`"):
        ds.io.export(predicted, tmp_path / "s.csv")
    table.var_names = ["A", "A", "B"]
    with pytest.raises(ValueError, match="Gene names of table 'deepspot_spots' are not unique"):
        ds.io.export(predicted, tmp_path / "s.geojson")
    del predicted.tables["deepspot_spots"]
    with pytest.raises(KeyError, match="No table holds predicted genes"):
        ds.io.export(predicted, tmp_path / "s.geojson")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ALL)
def test_nothing_is_overwritten_unasked(predicted, tmp_path, format):
    path = tmp_path / ALL[format]
    ds.io.export(predicted, path, format=format)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ds.io.export(predicted, path, format=format)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    ds.io.export(predicted, path, format=format, genes="FASN", overwrite=True)
    assert set(before) == {file for file in tmp_path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("format", ALL)
def test_an_interrupted_export_keeps_the_old_file(predicted, tmp_path, format, monkeypatch):
    path = tmp_path / ALL[format]
    ds.io.export(predicted, path, format=format)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("deepspot._core.atomic._synchronize", fail)
        with pytest.raises(OSError, match="disk full"):
            ds.io.export(predicted, path, format=format, overwrite=True)
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_a_folder_of_others_is_never_replaced(predicted, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(ValueError, match="was not exported by this package"):
        ds.io.export(predicted, tmp_path / "mine", format="10x", overwrite=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "precious"]


def test_the_object_is_not_changed(predicted, tmp_path):
    before = predicted["deepspot_spots"].copy()
    for format, name in ALL.items():
        ds.io.export(predicted, tmp_path / name, format=format)
    after = predicted["deepspot_spots"]
    pd.testing.assert_frame_equal(after.obs, before.obs)
    assert set(after.uns) == set(before.uns)
    np.testing.assert_array_equal(after.X, before.X)
