import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat, read_h5ad
from scipy.sparse import csr_matrix
from spatialdata import join_spatialelement_table, read_zarr

import deepspot as ds
from deepspot._sdata.tables import find_measured_table
from deepspot._spatial.transforms import centers_px, microns_per_pixel

PITCH = 50.0


def spots(n=4):
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(n)))
    return np.column_stack([x, y]) * PITCH + 40


@pytest.fixture
def image():
    """White image with spots of different colors."""
    pixels = np.full((230, 260, 3), 255, np.uint8)
    for i, (x, y) in enumerate(spots().astype(int)):
        pixels[y - 15 : y + 15, x - 15 : x + 15] = (10 * i, 200 - 10 * i, 100)
    return pixels


@pytest.fixture
def adata():
    table = AnnData(csr_matrix(np.random.default_rng(0).poisson(2, (16, 3)).astype(np.int32)))
    table.var_names = ["ERBB2", "ACTB", "KRT5"]
    table.obs_names = [f"AAA{i}-1" for i in range(16)]
    table.obsm["spatial"] = spots()
    table.uns["spatial"] = {"S1": {"scalefactors": {"spot_diameter_fullres": 32.5}, "metadata": {}}}
    return table


def state_scale(adata, mpp, part="metadata"):
    adata.uns["spatial"]["S1"][part]["microns_per_pixel"] = mpp


def test_elements(adata, image, log):
    sdata = ds.io.from_anndata(adata, image, mpp=2.0)
    assert [name for _, name, _ in sdata.gen_elements()] == ["S1_image", "spots", "table"]
    assert set(sdata.coordinate_systems) == {"global", "microns"}
    np.testing.assert_array_equal(sdata["S1_image"].transpose("y", "x", "c").to_numpy(), image)
    np.testing.assert_allclose(centers_px(sdata, "S1_image", "spots"), adata.obsm["spatial"])
    assert microns_per_pixel(sdata, "S1_image") == pytest.approx(2.0)
    np.testing.assert_array_equal(sdata["table"].X.toarray(), adata.X.toarray())
    assert sdata["table"].obs_names.tolist() == adata.obs_names.tolist()
    assert "spatial" not in sdata["table"].uns
    _, joined = join_spatialelement_table(
        sdata=sdata, spatial_element_names="spots", table_name="table", how="inner", match_rows="left"
    )
    assert joined.n_obs == 16
    assert log[-1] == "Read S1: 16 spots × 3 genes, 2 µm per pixel, spots of 55 µm."


def test_the_input_is_not_changed(adata, image):
    before = adata.copy()
    ds.io.from_anndata(adata, image, mpp=2.0)
    assert adata.obs.equals(before.obs)
    assert adata.uns == before.uns


@pytest.mark.parametrize("part", ["metadata", "scalefactors"])
def test_scale_of_the_object(adata, image, part):
    state_scale(adata, 2.0, part)
    assert microns_per_pixel(ds.io.from_anndata(adata, image), "S1_image") == pytest.approx(2.0)


def test_scale_from_the_pitch(adata, image):
    sdata = ds.io.from_anndata(adata, image, pitch_um=100)
    assert microns_per_pixel(sdata, "S1_image") == pytest.approx(100 / PITCH)


def test_scales_within_5_percent_are_accepted(adata, image):
    state_scale(adata, 2.0)
    sdata = ds.io.from_anndata(adata, image, mpp=2.05, pitch_um=np.float32(99))
    assert microns_per_pixel(sdata, "S1_image") == pytest.approx(2.0)


def test_contradictory_scales(adata, image):
    state_scale(adata, 2.0)
    with pytest.raises(ValueError, match=r"contradictory.*2 from adata.uns\['spatial'\].*, 0\.5 from `mpp`"):
        ds.io.from_anndata(adata, image, mpp=0.5)
    with pytest.raises(ValueError, match="4 from `pitch_um`"):
        ds.io.from_anndata(adata, image, pitch_um=200)


def test_contradictory_scales_in_the_object(adata, image):
    state_scale(adata, 2.0, "metadata")
    state_scale(adata, 0.5, "scalefactors")
    with pytest.raises(ValueError, match=r"2 from .*'metadata'.*, 0\.5 from .*'scalefactors'"):
        ds.io.from_anndata(adata, image)


def test_no_scale(adata, image):
    with pytest.raises(ValueError, match=r"The scale is unknown.*Pass `mpp=` .* or `pitch_um=`"):
        ds.io.from_anndata(adata, image)


@pytest.mark.parametrize(("argument", "value"), [("mpp", 0), ("pitch_um", -100), ("diameter_um", 0)])
def test_sizes_are_positive(adata, image, argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be above 0, got {value}"):
        ds.io.from_anndata(adata, image, **({"mpp": 2.0} | {argument: value}))


@pytest.mark.parametrize("scale", [{"mpp": 353}, {"mpp": 0.001}, {"pitch_um": 1e-5}, {"pitch_um": 10_000}])
def test_implausible_scales(adata, image, scale):
    with pytest.raises(ValueError, match=rf"`{next(iter(scale))}` gives .* µm per pixel; .*0.05 to 10"):
        ds.io.from_anndata(adata, image, diameter_um=55, **scale)
    state_scale(adata, 353)
    with pytest.raises(ValueError, match=r"adata.uns\['spatial'\]\[…\]\['metadata'\] gives 353 µm per pixel"):
        ds.io.from_anndata(adata, image)


def test_65_um_are_read_as_55(adata, image, log):
    shapes = ds.io.from_anndata(adata, image, mpp=2.0)["spots"]
    assert set(shapes["diameter_um"]) == {55.0}
    assert set(shapes["radius"]) == {16.25}
    assert "spots of 65 µm, as Space Ranger does for Visium. They measure 55 µm" in log[0]


def test_other_diameters_are_kept(adata, image):
    assert set(ds.io.from_anndata(adata, image, mpp=100 / 32.5)["spots"]["diameter_um"]) == {100.0}
    assert set(ds.io.from_anndata(adata, image, mpp=2.0, diameter_um=65)["spots"]["diameter_um"]) == {65.0}


def test_missing_scale_factors(adata, image):
    del adata.uns["spatial"]
    with pytest.raises(ValueError, match=r"The size of a spot is unknown.*Pass `diameter_um=` \(55 for Visium"):
        ds.io.from_anndata(adata, image, mpp=2.0)
    sdata = ds.io.from_anndata(adata, image, mpp=2.0, diameter_um=55)
    assert list(sdata.images) == ["slide_image"]
    assert set(sdata["spots"]["radius"]) == {13.75}


@pytest.fixture
def two_libraries(adata):
    """Two slides in one table, on overlapping coordinates, as `anndata.concat` makes it."""
    other = adata.copy()
    other.obs_names = [f"{name}-2" for name in adata.obs_names]
    other.obsm["spatial"] = adata.obsm["spatial"] + 7
    other.uns["spatial"] = {"S2": {"scalefactors": {"spot_diameter_fullres": 50}}}
    return concat({"S1": adata, "S2": other}, label="library_id", uns_merge="unique")


def test_spots_of_one_library(two_libraries, image, log):
    with pytest.raises(ValueError, match=r"several candidates: \['S1', 'S2'\]. Choose one with `library_id="):
        ds.io.from_anndata(two_libraries, image, mpp=2.0)
    sdata = ds.io.from_anndata(two_libraries, image, mpp=2.0, library_id="S2")
    assert list(sdata.images) == ["S2_image"]
    assert set(sdata["spots"]["diameter_um"]) == {100.0}
    assert sdata["table"].obs_names.tolist() == two_libraries.obs_names[16:].tolist()
    np.testing.assert_allclose(centers_px(sdata, "S2_image", "spots"), spots() + 7)
    assert log[0] == "16 of 32 spots are not of library 'S2' (obs['library_id']) and are left out."


def test_the_library_of_spots_that_were_selected_before(two_libraries, image):
    first = two_libraries[two_libraries.obs["library_id"] == "S1"]
    assert list(ds.io.from_anndata(first, image, mpp=2.0).images) == ["S1_image"]


def test_libraries_that_are_only_in_obs(two_libraries, image):
    del two_libraries.uns["spatial"]
    known = {"mpp": 2.0, "diameter_um": 55}
    with pytest.raises(ValueError, match=r"several candidates: \['S1', 'S2'\]"):
        ds.io.from_anndata(two_libraries, image, **known)
    sdata = ds.io.from_anndata(two_libraries, image, library_id="S2", **known)
    assert sdata["table"].n_obs == 16


@pytest.mark.parametrize("values", [["1", "2"], [1, 2], [1.0, 2.0]], ids=["text", "whole numbers", "numbers"])
@pytest.mark.parametrize("entries", [{}, {"1": {}}, {"1": {}, "2": {}}], ids=["none", "one", "two"])
def test_libraries_that_are_numbers(two_libraries, image, values, entries):
    two_libraries.uns["spatial"] = entries
    two_libraries.obs["library_id"] = np.repeat(values, 16)
    known = {"mpp": 2.0, "diameter_um": 55}
    with pytest.raises(ValueError, match=r"`adata.obs\['library_id'\]` holds several candidates: \['1', '2'\]"):
        ds.io.from_anndata(two_libraries, image, **known)
    assert ds.io.from_anndata(two_libraries, image, library_id="2", **known)["table"].n_obs == 16


@pytest.mark.parametrize(
    ("column", "values"), [("sample", ["S1", "S2"]), ("capture", ["S1", "S2"]), ("batch", [0, 1]), ("Slide ID", "ab")]
)
def test_slides_that_lie_between_each_other(two_libraries, image, column, values):
    del two_libraries.obs["library_id"]
    two_libraries.uns["spatial"] = {"S1": {}}  # merged with uns_merge="first"
    two_libraries.obs[column] = np.repeat(list(values), 16)
    two_libraries.obs["leiden"] = ["S1", "3"] * 16
    known = {"mpp": 2.0, "diameter_um": 55}
    with pytest.raises(ValueError, match=rf"`adata.obs\['{column}'\]` holds several candidates: .*`library_id="):
        ds.io.from_anndata(two_libraries, image, **known)
    sdata = ds.io.from_anndata(two_libraries, image, library_id=str(values[1]), **known)
    assert sdata["table"].obs_names.tolist() == two_libraries.obs_names[16:].tolist()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("leiden", ["S1"] * 9 + ["S2"] * 7),
        ("leiden", ["S1", "S2", "S3", "S4"] * 4),
        ("annotation", ["S1"] * 15 + ["stroma"]),
        ("sample", ["S1"] * 8 + ["S2"] * 8),
        ("batch", [0] * 4 + [1] * 12),
    ],
)
def test_clusters_and_sections_are_no_libraries(adata, image, column, values):
    adata.obs[column] = values
    assert ds.io.from_anndata(adata, image, mpp=2.0)["table"].n_obs == 16
    assert ds.io.from_anndata(adata, image, mpp=2.0, library_id="S1")["table"].n_obs == 16


def test_a_cluster_does_not_select_among_libraries(two_libraries, image):
    two_libraries.obs["leiden"] = ["S1"] * 4 + ["S2"] * 28
    assert ds.io.from_anndata(two_libraries, image, mpp=2.0, library_id="S1")["table"].n_obs == 16
    del two_libraries.obs["library_id"]
    with pytest.raises(ValueError, match=r"no column of `obs` names the library"):
        ds.io.from_anndata(two_libraries, image, mpp=2.0, library_id="S1")


def test_regions_of_a_table_of_spatialdata(two_libraries, image):
    two_libraries.obs = two_libraries.obs.rename(columns={"library_id": "region"})
    two_libraries.uns = {"spatialdata_attrs": {"region": ["S1", "S2"], "region_key": "region", "instance_key": "i"}}
    with pytest.raises(ValueError, match=r"several candidates: \['S1', 'S2'\]"):
        ds.io.from_anndata(two_libraries, image, mpp=2.0, diameter_um=55)
    sdata = ds.io.from_anndata(two_libraries, image, mpp=2.0, diameter_um=55, library_id="S2")
    assert list(sdata.images) == ["S2_image"]
    assert sdata["table"].n_obs == 16


def test_libraries_of_unknown_spots(two_libraries, image):
    two_libraries.obs["library_id"] = "both"
    with pytest.raises(ValueError, match=r"no column of `obs` names the library.*keep the spots of 'S2'"):
        ds.io.from_anndata(two_libraries, image, mpp=2.0, library_id="S2")
    two_libraries.obs["library_id"] = ["S1", "S2"] * 16
    two_libraries.obs["sample"] = ["S2", "S1"] * 16
    with pytest.raises(ValueError, match=r"\['library_id', 'sample'\] of `adata.obs` disagree on the spots of 'S1'"):
        ds.io.from_anndata(two_libraries, image, mpp=2.0, library_id="S1")


def test_spots_of_two_slides_have_the_same_array_positions(two_libraries, image):
    del two_libraries.uns["spatial"], two_libraries.obs["library_id"]
    two_libraries.obs["array_row"], two_libraries.obs["array_col"] = [*range(16), *range(16)], 0
    with pytest.raises(ValueError, match=r"16 spots have the array position of another spot, the first is 'AAA0-1-2'"):
        ds.io.from_anndata(two_libraries, image, mpp=2.0, diameter_um=55)


def test_a_flag_of_cellxgene_is_no_library(adata, image):
    adata.uns["spatial"]["is_single"] = np.True_
    assert list(ds.io.from_anndata(adata, image, mpp=2.0).images) == ["S1_image"]


@pytest.mark.parametrize(
    ("columns", "swapped"),
    [
        (["row", "col"], True),
        (["y", "x"], True),
        (["pxl_row_in_fullres", "pxl_col_in_fullres"], True),
        (["imagerow", "imagecol"], True),
        (["Y_centroid", "X_centroid"], True),
        (["CenterY_global_px", "CenterX_global_px"], True),
        (["rows", "cols"], True),
        (["ypos", "xpos"], True),
        (["y1", "x1"], True),
        (["py", "px"], True),
        (["Row number", "columns"], True),
        (["centroid-0", "centroid-1"], True),
        (["i", "j"], True),
        (["lat", "lon"], True),
        ([1, 0], True),
        (["dim_10", "dim_9"], True),
        (["centroid-1", "centroid-0"], False),
        (["posX", "posY"], False),
        (["xx", "xy"], False),
        ([0, 1], False),
        (["x", "y"], False),
        (["pxl_col_in_fullres", "pxl_row_in_fullres"], False),
        (["spatial_1", "spatial_2"], False),
        (["X1", "X2"], False),
    ],
)
def test_named_columns_of_coordinates(adata, image, columns, swapped):
    xy = spots()[:, ::-1] if swapped else spots()
    adata.obsm["spatial"] = pd.DataFrame(xy, index=adata.obs_names, columns=columns)
    sdata = ds.io.from_anndata(adata, image, mpp=2.0)
    np.testing.assert_allclose(centers_px(sdata, "S1_image", "spots"), spots())
    np.testing.assert_allclose(sdata["table"].obsm["spatial"], spots())


@pytest.mark.parametrize("columns", [["y", "z"], ["row", "row_2"], ["a", "x"], ["Zeile", "Spalte"], ["x", "x2"]])
def test_columns_of_coordinates_without_x_and_y(adata, image, columns):
    adata.obsm["spatial"] = pd.DataFrame(spots(), index=adata.obs_names, columns=columns)
    with pytest.raises(ValueError, match=r"has the columns \['.*Name them 'x' and 'y'"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_coordinates_that_are_no_numbers(adata, image):
    adata.obsm["spatial"] = pd.DataFrame({"x": ["1"] * 15 + ["a"], "y": 1}, index=adata.obs_names)
    with pytest.raises(ValueError, match=r"obsm\['spatial'\]` must hold numbers"):
        ds.io.from_anndata(adata, image, mpp=2.0)


@pytest.mark.parametrize(
    "values", [[0, 0, *[1] * 14], ["False", "false", *["True"] * 14], [False, False, *[True] * 14], [0.0, 0, *[1] * 14]]
)
@pytest.mark.parametrize("column", ["in_tissue", "tissue"])
def test_spots_that_are_not_in_tissue(adata, image, values, column, log):
    adata.obs[column] = pd.Categorical(values) if isinstance(values[0], str) else values
    sdata = ds.io.from_anndata(adata, image, mpp=2.0)
    assert sdata["table"].obs_names.tolist() == adata.obs_names[2:].tolist()
    np.testing.assert_allclose(centers_px(sdata, "S1_image", "spots"), spots()[2:])
    assert log[0] == "2 of 16 spots of S1 are not in tissue and are left out."


def test_marks_of_tissue_that_say_nothing(adata, image, log):
    adata.obs["tissue"] = "breast"
    adata.obs["in_tissue"] = 0
    assert ds.io.from_anndata(adata, image, mpp=2.0)["table"].n_obs == 16
    assert any("'in_tissue'] of S1 marks no spot as in tissue, so all spots are kept" in line for line in log)
    adata.obs["in_tissue"] = ["inside", "outside"] * 8
    with pytest.raises(ValueError, match=r"obs\['in_tissue'\] of S1 must be 1 or 0, .*got 'inside'"):
        ds.io.from_anndata(adata, image, mpp=2.0)


@pytest.mark.parametrize("view", [False, True])
def test_backed_tables_are_read(adata, image, tmp_path, view):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = read_h5ad(tmp_path / "a.h5ad", backed="r")
    table = ds.io.from_anndata(backed[:9] if view else backed, image, mpp=2.0)["table"]
    np.testing.assert_array_equal(table.X.toarray(), adata.X.toarray()[: table.n_obs])
    backed.file.close()


def test_lazy_tables_are_read(adata, image, tmp_path):
    from anndata.experimental import read_lazy

    adata.obs["library_id"] = "S1"
    adata.write_h5ad(tmp_path / "a.h5ad")
    table = ds.io.from_anndata(read_lazy(tmp_path / "a.h5ad"), image, mpp=2.0)["table"]
    np.testing.assert_array_equal(table.X.toarray(), adata.X.toarray())


def test_no_spots(adata, image):
    with pytest.raises(ValueError, match=r"`adata.obsm\['spatial'\]` has no spots"):
        ds.io.from_anndata(adata[:0], image, mpp=2.0)


def test_repeated_columns(adata, image):
    adata.obs = pd.DataFrame(1, index=adata.obs_names, columns=["a", "a"])
    with pytest.raises(ValueError, match=r"`adata.obs` has several columns 'a'"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_a_path_is_no_table(image):
    with pytest.raises(TypeError, match=r"`adata` must be an AnnData, got 'a.h5ad'.*`anndata.read_h5ad`"):
        ds.io.from_anndata("a.h5ad", image)


@pytest.mark.parametrize("side_um", [8.0, 64.0, 65.0])
def test_bins_of_visium_hd(adata, image, side_um):
    factors = {"spot_diameter_fullres": PITCH, "bin_size_um": side_um}
    adata.uns["spatial"]["S1"]["scalefactors"] = factors
    sdata = ds.io.from_anndata(adata, image)
    assert set(sdata["spots"]["diameter_um"]) == {side_um}
    assert microns_per_pixel(sdata, "S1_image") == pytest.approx(side_um / PITCH)
    with pytest.raises(ValueError, match=r"contradictory.*'bin_size_um' and 'spot_diameter_fullres', 2\.6 from `mpp`"):
        ds.io.from_anndata(adata, image, mpp=2 * 65 / PITCH)
    del factors["bin_size_um"]  # adjacent spots are squares, whose side is what it says
    sdata = ds.io.from_anndata(adata, image, mpp=65 / PITCH)
    assert set(sdata["spots"]["diameter_um"]) == {65.0}


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("scalefactors", "spot_diameter_fullres", "wide"),
        ("scalefactors", "spot_diameter_fullres", np.nan),
        ("metadata", "microns_per_pixel", [1, 2]),
        ("scalefactors", "microns_per_pixel", -1),
    ],
)
def test_scale_factors_that_are_no_numbers(adata, image, part, key, value):
    adata.uns["spatial"]["S1"][part][key] = value
    with pytest.raises(ValueError, match=rf"\['{part}'\]\['{key}'\] must be a number above 0, got"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_spots_in_one_place(adata, image):
    adata.obsm["spatial"][:] = 50
    with pytest.raises(ValueError, match="spots or more have the position of another one"):
        ds.io.from_anndata(adata, image, pitch_um=100)


def test_names_that_cannot_be_written_are_changed(adata, image, tmp_path, log):
    adata.obs["B cells (CD20)"] = "x"
    adata.obs["Region"], adata.obs["SPOT_ID"] = "cortex", 7
    adata.var["gene/symbol"] = "y"
    sdata = ds.io.from_anndata(adata, image, mpp=2.0)
    assert "B cells (CD20)" in adata.obs
    assert {"B_cells__CD20_", "Region", "SPOT_ID", "deepspot_region", "deepspot_spot_id"} == set(sdata["table"].obs)
    assert list(sdata["table"].var) == ["gene_symbol"]
    assert any("'B cells (CD20)' to 'B_cells__CD20_', 'gene/symbol' to 'gene_symbol'" in line for line in log)
    sdata.write(tmp_path / "a.zarr")


def test_unknown_library(adata, image):
    with pytest.raises(KeyError, match=r"Key `'S9'` not found in `adata.uns\['spatial'\]`. Available keys: \['S1'\]"):
        ds.io.from_anndata(adata, image, mpp=2.0, library_id="S9")


def test_name_becomes_valid(adata, image):
    assert list(ds.io.from_anndata(adata, image, mpp=2.0, name="patient 1/a").images) == ["patient_1_a_image"]


def test_no_coordinates(adata, image):
    del adata.obsm["spatial"]
    adata.obsm["X_pca"] = np.zeros((16, 2))
    with pytest.raises(KeyError, match=r"Key `'spatial'` not found in `adata.obsm`. Available keys: \['X_pca'\]"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_three_coordinates(adata, image):
    adata.obsm["spatial"] = np.zeros((16, 3))
    with pytest.raises(ValueError, match=r"must be of shape \(n, 2\): x and y in pixels. Got \(16, 3\)"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_coordinates_that_are_not_finite(adata, image):
    adata.obsm["spatial"][[3, 7]] = np.nan
    with pytest.raises(ValueError, match=r"2 of 16 spots have no finite coordinates .*, the first is 'AAA3-1'. Remove"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_swapped_coordinates(adata, image):
    adata.obsm["spatial"][0] = [30, 250]
    with pytest.raises(ValueError, match=r"1 of 16 spots lie outside the image \(260 × 230 px\).* swap the two"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_spots_outside(adata, image):
    adata.obsm["spatial"] *= 4
    with pytest.raises(ValueError, match=r"spots lie outside the image .*Check that image and spots are of one slide"):
        ds.io.from_anndata(adata, image, mpp=2.0)


@pytest.mark.parametrize("factor", [0.5, 0.25])
def test_downscaled_image(adata, image, factor):
    step = round(1 / factor)
    wide = np.kron(image, np.ones((step, step, 1), np.uint8))
    adata.obsm["spatial"] = adata.obsm["spatial"] * step
    adata.uns["spatial"]["S1"]["scalefactors"]["spot_diameter_fullres"] = 32.5 * step
    large = ds.io.from_anndata(adata, wide, mpp=2.0 * factor)
    small = ds.io.from_anndata(adata, image, mpp=2.0 * factor, image_scale=factor)
    assert microns_per_pixel(small, "S1_image") == pytest.approx(2.0)
    np.testing.assert_allclose(centers_px(small, "S1_image", "spots") * step, adata.obsm["spatial"])
    assert set(small["spots"]["diameter_um"]) == set(large["spots"]["diameter_um"]) == {55.0}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda rgb: np.dstack([rgb, rgb[..., 0]]), r"uint8 \(230, 260, 4\)"),
        (lambda rgb: rgb / 255, r"float64 \(230, 260, 3\)"),
        (lambda rgb: rgb[..., 0], r"uint8 \(230, 260\)"),
        (lambda rgb: rgb.transpose(2, 0, 1), r"uint8 \(3, 230, 260\)"),
        (lambda rgb: rgb.astype(np.uint16), r"uint16 \(230, 260, 3\)"),
    ],
)
def test_only_rgb_in_uint8(adata, image, change, found):
    with pytest.raises(ValueError, match=rf"`image` must be RGB in uint8 of shape \(height, width, 3\), got {found}"):
        ds.io.from_anndata(adata, change(image), mpp=2.0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_image_files(adata, image, tmp_path, suffix):
    import tifffile
    from PIL import Image

    path = tmp_path / f"slide{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, image)
    else:
        Image.fromarray(image).save(path, **({"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}))
    sdata = ds.io.from_anndata(adata, str(path), mpp=2.0)
    off = np.abs(sdata["S1_image"].transpose("y", "x", "c").to_numpy().astype(int) - image)
    assert off.max() <= (12 if suffix == ".jpg" else 0)


def test_missing_image(adata, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no image .*nowhere\.jpg"):
        ds.io.from_anndata(adata, tmp_path / "nowhere.jpg", mpp=2.0)


def test_gene_identifiers(adata, image):
    adata.var["gene_ids"] = ["ENSG1", "ENSG2", "ENSG3"]
    table = ds.io.from_anndata(adata, image, mpp=2.0, gene_id_key="gene_ids")["table"]
    assert table.var_names.tolist() == ["ENSG1", "ENSG2", "ENSG3"]
    assert table.var["former_name"].tolist() == ["ERBB2", "ACTB", "KRT5"]
    assert adata.var_names.tolist() == ["ERBB2", "ACTB", "KRT5"]


def test_unknown_gene_identifiers(adata, image):
    adata.var["gene_ids"] = ["ENSG1", None, ""]
    with pytest.raises(KeyError, match=r"Key `'ensembl'` not found in `adata.var`. Available keys: \['gene_ids'\]"):
        ds.io.from_anndata(adata, image, mpp=2.0, gene_id_key="ensembl")
    with pytest.raises(ValueError, match=r"2 genes have no identifier in adata.var\['gene_ids'\]"):
        ds.io.from_anndata(adata, image, mpp=2.0, gene_id_key="gene_ids")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_repeated_gene_names_are_logged(adata, image, log):
    adata.var_names = ["ACTB", "ACTB", "KRT5"]
    table = ds.io.from_anndata(adata, image, mpp=2.0)["table"]
    assert table.var_names.tolist() == ["ACTB", "ACTB-1", "KRT5"]
    (message,) = [line for line in log if "more than once" in line]
    assert message.startswith(
        "1 gene names occur more than once ('ACTB'). A number was appended to the later ones ('ACTB-1')."
    )


def test_an_existing_column_called_region_is_kept(adata, image, cheap_encoder):
    adata.obs["region"] = ["cortex", "medulla"] * 8
    adata.obs["spot_id"] = [f"s{i}" for i in range(16)]
    sdata = ds.io.from_anndata(adata, image, mpp=2.0)
    assert sdata["table"].obs["region"].tolist() == ["cortex", "medulla"] * 8
    assert sdata["table"].obs["spot_id"].tolist() == [f"s{i}" for i in range(16)]
    ds.pp.embed(sdata, cheap_encoder)
    assert sdata["mean_color_spots"].n_obs == 16
    assert find_measured_table(sdata, "spots", None) == "table"


def test_index_name_that_is_also_a_column(adata, image, tmp_path):
    adata.obs["barcode"] = adata.obs_names
    adata.obs.index.name = "barcode"
    sdata = ds.io.from_anndata(adata, image, mpp=2.0)
    sdata.write(tmp_path / "a.zarr")
    assert read_zarr(tmp_path / "a.zarr")["table"].obs["barcode"].tolist() == adata.obs_names.tolist()


def test_column_that_cannot_be_written(adata, image):
    adata.obs["when"] = pd.to_datetime(["2020"] * 16)
    with pytest.raises(TypeError, match=r"obs\['when'\] cannot be written"):
        ds.io.from_anndata(adata, image, mpp=2.0)


def test_normalized_by_scanpy(adata, image):
    import scanpy as sc

    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    assert ds.io.from_anndata(adata, image, mpp=2.0)["table"].uns["log1p"] == {"base": None}


def test_tiles_show_their_spots(adata, image, cheap_encoder):
    sdata = ds.io.from_anndata(adata, image, mpp=2.0)
    ds.pp.embed(sdata, cheap_encoder, tile_um=54)
    colors = [(10 * i, 200 - 10 * i, 100) for i in range(16)]
    np.testing.assert_array_equal(sdata["mean_color_spots"].X, np.tile(colors, 9) / 32)


def test_visium_of_squidpy(data, cheap_encoder):
    folder = data / "visium_mouse_brain_crop"
    adata = read_h5ad(folder / "test_data.h5ad")
    sdata = ds.io.from_anndata(adata, folder / "test_img.jpg", pitch_um=100)
    (image_key,) = sdata.images
    assert microns_per_pixel(sdata, image_key) == pytest.approx(65 / 89.44, rel=0.005)
    assert set(sdata["spots"]["diameter_um"]) == {55.0}
    ds.pp.embed(sdata, cheap_encoder)
    (key,) = [key for key in sdata.tables if key != "table"]
    assert sdata[key].shape == (49, 27)
    assert {tiles.shape[1:] for tiles in cheap_encoder.seen} == {(75, 75, 3), (25, 25, 3)}  # spots and their sub-spots


def test_spatial_transcriptomics_of_her2st(data):
    adata = read_h5ad(data / "her2st" / "C2.h5ad")
    sdata = ds.io.from_anndata(adata, data / "her2st" / "C2.jpg")
    assert sdata["table"].n_obs == 187
    assert list(sdata.images) == ["C2_image"]
    assert microns_per_pixel(sdata, "C2_image") == pytest.approx(0.69, abs=0.01)
    np.testing.assert_allclose(sdata["spots"]["diameter_um"], 100, rtol=0.01)


def test_pitch_of_spots_that_jitter(data):
    adata = read_h5ad(data / "her2st" / "C2.h5ad")
    blank = np.zeros((6000, 7000, 3), np.uint8)
    sdata = ds.io.from_anndata(adata, blank, pitch_um=200)
    del adata.uns["spatial"]["C2"]["metadata"]
    stated = ds.io.from_anndata(adata, blank, pitch_um=200)
    assert microns_per_pixel(stated, "C2_image") == pytest.approx(microns_per_pixel(sdata, "C2_image"), rel=0.01)
