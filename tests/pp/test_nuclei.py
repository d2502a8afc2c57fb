import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree
from spatialdata import deepcopy, read_zarr
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, get_transformation, set_transformation

import deepspot as ds
from deepspot._sdata.write import make_table
from deepspot.datasets._toy.tissue import CLASSES, grow_tissue, hex_array, scatter_cells
from deepspot.errors import InputError, MissingKeyError
from deepspot.pp import _nuclei_blocks

COLUMNS = ["area_um2", "eccentricity", "solidity", "hematoxylin", "hematoxylin_std"]
ROWS, COLS, SEED = 4, 5, 20
NUCLEI = "P1_S1_image_nuclei"


@pytest.fixture(scope="module")
def segmented():
    """A toy slide at 1 µm per pixel. Shared: tests that change it take `copy`."""
    sdata = ds.datasets.toy(1, n_rows=ROWS, n_cols=COLS, seed=SEED)["P1_S1"]
    ds.pp.nuclei(sdata)
    return sdata


@pytest.fixture
def copy(segmented):
    return deepcopy(segmented)


def centers_of(sdata, key=NUCLEI):
    points = sdata[key].geometry.centroid
    return np.column_stack([points.x, points.y])


def true_cells():
    tissue = grow_tissue(np.random.default_rng([SEED, 0, 1, 1]), hex_array(ROWS, COLS)[2])
    return scatter_cells(np.random.default_rng([SEED, 1, 1, 1]), tissue)


def test_nuclei_are_found_where_they_were_drawn(segmented):
    truth = np.vstack([true_cells()[name].xy for name in CLASSES])
    found = centers_of(segmented)  # at 1 µm per pixel
    near = cKDTree(truth).query(found)[0] <= 3
    seen = cKDTree(found).query(truth)[0] <= 3
    assert near.mean() > 0.9
    assert seen.mean() > 0.8
    rng = np.random.default_rng(0)
    random = rng.uniform(found.min(axis=0), found.max(axis=0), found.shape)
    assert (cKDTree(truth).query(random)[0] <= 3).mean() < 0.3


def test_the_columns_are_in_physical_units(segmented):
    shapes = segmented[NUCLEI]
    assert list(shapes.columns) == ["geometry", *COLUMNS]
    np.testing.assert_allclose(shapes["area_um2"], shapes.geometry.area, rtol=1e-6)
    assert shapes["area_um2"].between(10, 400).all()
    assert shapes["eccentricity"].between(0, 1).all()
    assert shapes["solidity"].between(0.3, 1).all()
    cells = true_cells()
    size, look = {}, {}
    for name in ("tumor", "lymphoid", "stroma"):
        distance, row = cKDTree(centers_of(segmented)).query(cells[name].xy)
        mine = shapes.iloc[row[distance <= 2]]
        size[name] = mine["area_um2"].median() / np.median(np.pi * cells[name].long * cells[name].short)
        look[name] = mine[COLUMNS].median()
    assert 0.8 < size["tumor"] < 1.25
    assert 0.7 < size["lymphoid"] < 1.25
    # Lymphocytes are small and dark, fibroblasts long, and tumor nuclei have an uneven chromatin.
    assert look["lymphoid"]["hematoxylin"] > look["tumor"]["hematoxylin"] + 0.2
    assert look["stroma"]["eccentricity"] > look["lymphoid"]["eccentricity"] + 0.3
    assert look["tumor"]["area_um2"] > 2 * look["lymphoid"]["area_um2"]


def test_spots_get_the_density_and_the_means_of_their_nuclei(segmented):
    table, shapes = segmented["nuclei_spots"], segmented[NUCLEI]
    assert table.var_names.tolist() == ["nuclei_per_mm2", *COLUMNS]
    spots = np.column_stack([segmented["spots"].geometry.x, segmented["spots"].geometry.y])
    inside = np.linalg.norm(spots[:, None] - centers_of(segmented), axis=2) <= 27.5
    np.testing.assert_array_equal(table.obs["n_nuclei"], inside.sum(axis=1))
    np.testing.assert_allclose(table.X[:, 0], inside.sum(axis=1) / (np.pi * 0.0275**2), rtol=1e-5)
    for spot in range(len(spots)):
        mine = shapes[COLUMNS][inside[spot]].mean()
        np.testing.assert_allclose(table.X[spot, 1:], mine, rtol=1e-4)
    # The density follows the composition of the tissue.
    lymphoid = segmented["table"].obsm["composition"][:, CLASSES.index("lymphoid")]
    assert np.corrcoef(lymphoid, table.X[:, 0])[0, 1] > 0.7
    # It is no table of measured genes.
    other = deepcopy(segmented)
    ds.pp.pool(other, diameter_um=150, pitch_um=150, key_added="large")
    assert other["large_counts"].var_names.equals(other["table"].var_names)


def test_blocks_give_the_nuclei_of_the_whole_image(segmented, copy, monkeypatch):
    monkeypatch.setattr(_nuclei_blocks, "CORE", 300)
    ds.pp.nuclei(copy, key_added="blocks", overwrite=True)
    whole, blocks = centers_of(segmented), centers_of(copy, "blocks")
    there, back = cKDTree(blocks).query(whole)[0], cKDTree(whole).query(blocks)[0]
    assert len(whole) > 300
    assert (there < 0.05).mean() > 0.995
    assert (back < 0.05).mean() > 0.995
    # No nucleus of a seam is there twice.
    assert cKDTree(blocks).query(blocks, k=2)[0][:, 1].min() > 1.5


def test_pyramid_and_chunks_do_not_matter(segmented, copy):
    image = copy["P1_S1_image"]
    pixels = image.data.rechunk((3, 97, 131))
    parsed = Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=get_transformation(image, get_all=True),
        scale_factors=[2, 2],
        chunks=(3, 97, 131),
    )
    copy.images["P1_S1_image"] = parsed
    ds.pp.nuclei(copy, overwrite=True)
    # The color of the glass is rounded differently in a coarser level.
    whole, other = centers_of(segmented), centers_of(copy)
    assert abs(len(other) - len(whole)) <= 0.01 * len(whole)
    assert (cKDTree(other).query(whole)[0] < 0.3).mean() > 0.98


@pytest.mark.parametrize("mpp", [pytest.param(0.25, marks=pytest.mark.slow), 0.5])
def test_the_resolution_of_the_image_hardly_matters(segmented, mpp):
    fine = ds.datasets.toy(1, n_rows=ROWS, n_cols=COLS, seed=SEED, mpp=mpp)["P1_S1"]
    ds.pp.nuclei(fine)
    whole, other = centers_of(segmented), centers_of(fine) * mpp
    assert (cKDTree(other).query(whole)[0] < 2).mean() > 0.85
    assert 0.9 < len(other) / len(whole) < 1.25
    ratio = fine[NUCLEI]["area_um2"].median() / segmented[NUCLEI]["area_um2"].median()
    assert 0.85 < ratio < 1.15


def test_positions_are_right_in_a_rotated_system(segmented, copy):
    """Spots whose coordinates are turned get the same nuclei."""
    angle = np.deg2rad(40)
    turn = np.array([[np.cos(angle), -np.sin(angle), 7], [np.sin(angle), np.cos(angle), -3], [0, 0, 1]])
    spots = copy["spots"]
    xy = np.column_stack([spots.geometry.x, spots.geometry.y])
    spots.geometry = gpd.points_from_xy(*(xy @ turn[:2, :2].T + turn[:2, 2]).T)
    back = Affine(np.linalg.inv(turn), ("x", "y"), ("x", "y"))
    set_transformation(spots, dict.fromkeys(("global", "microns"), back), set_all=True)
    ds.pp.nuclei(copy, overwrite=True)
    np.testing.assert_allclose(copy["nuclei_spots"].X, segmented["nuclei_spots"].X, rtol=1e-5)


def test_shapes_of_other_software_are_described(segmented, copy):
    """In another order, half a pixel larger, in coordinates of their own."""
    half = Affine(np.diag([0.5, 0.5, 1]), ("x", "y"), ("x", "y"))
    order = np.random.default_rng(0).permutation(len(segmented[NUCLEI]))
    mine = segmented[NUCLEI].iloc[order]
    own = gpd.GeoDataFrame(geometry=mine.geometry.scale(2, 2, origin=(0, 0)).values, index=[f"n{i}" for i in order])
    copy["cells"] = ShapesModel.parse(own, transformations={"global": half, "microns": half})
    ds.pp.nuclei(copy, nuclei_key="cells", overwrite=True)
    given = copy["cells"]
    np.testing.assert_allclose(given["area_um2"], mine["area_um2"], rtol=1e-6)
    np.testing.assert_allclose(given["solidity"], mine["solidity"], rtol=1e-6)
    for column, worst in {"hematoxylin": 0.03, "hematoxylin_std": 0.03, "eccentricity": 0.05}.items():
        assert np.abs(given[column].to_numpy() - mine[column].to_numpy()).mean() < worst
    np.testing.assert_allclose(copy["nuclei_spots"].X[:, 0], segmented["nuclei_spots"].X[:, 0])
    assert copy["nuclei_spots"].uns["deepspot"] == {"kind": "morphology", "nuclei": "cells", "image": "P1_S1_image"}
    with pytest.raises(InputError, match=r"'nuclei_spots'.*, the nuclei of the spots 'spots', exists"):
        ds.pp.nuclei(copy, nuclei_key="cells")
    del copy["cells"]["solidity"], copy.tables["nuclei_spots"]
    with pytest.raises(InputError, match="has the columns"):
        ds.pp.nuclei(copy, nuclei_key="cells")


def test_nuclei_are_described_for_a_second_set_of_spots(segmented, copy, log, monkeypatch):
    """Without another segmentation or measurement of the nuclei."""
    copy["others"] = copy["spots"].iloc[::2].copy()
    monkeypatch.setattr("deepspot.pp._nuclei.measure_given", lambda *_: 1 / 0)
    ds.pp.nuclei(copy, shapes_key="others", nuclei_key=NUCLEI)
    pd.testing.assert_frame_equal(copy[NUCLEI], segmented[NUCLEI])
    np.testing.assert_array_equal(copy["nuclei_others"].X, segmented["nuclei_spots"].X[::2])
    assert any("have been measured already" in line for line in log)


def test_morphology_of_nuclei_that_were_replaced_is_mentioned(copy, log):
    copy["others"] = copy["spots"].iloc[::2].copy()
    ds.pp.nuclei(copy, shapes_key="others", nuclei_key=NUCLEI)
    ds.pp.nuclei(copy, shapes_key="spots", min_area_um2=30, overwrite=True)
    assert any(f"Tables ['nuclei_others'] describe the nuclei {NUCLEI!r} of an earlier" in line for line in log)


def test_tables_of_nuclei_that_were_deleted_are_in_the_way(copy):
    """Their rows would be those of other nuclei of the same name."""
    make = {"region": NUCLEI, "instances": copy[NUCLEI].index, "region_key": "region", "instance_key": "instance_id"}
    copy["predicted"] = make_table(np.zeros((len(copy[NUCLEI]), 2), np.float32), **make)
    del copy.shapes[NUCLEI]
    with pytest.raises(InputError, match=r"was deleted and would be others, but tables \['predicted'\] annotate it"):
        ds.pp.nuclei(copy, overwrite=True)
    del copy.tables["predicted"]
    ds.pp.nuclei(copy, overwrite=True)


def test_circles_are_nuclei_too(copy):
    cells = true_cells()["lymphoid"]
    transformations = get_transformation(copy["spots"], get_all=True)
    copy["cells"] = ShapesModel.parse(cells.xy, geometry=0, radius=3.1, transformations=transformations)
    ds.pp.nuclei(copy, nuclei_key="cells", shapes_key="spots", overwrite=True)
    np.testing.assert_allclose(copy["cells"]["area_um2"], np.pi * 3.1**2, rtol=0.02)
    assert copy["cells"]["eccentricity"].median() < 0.4


def test_only_around_the_spots(segmented, copy):
    ds.pp.nuclei(copy, within_um=40, key_added="near", overwrite=True)
    spots = cKDTree(np.column_stack([copy["spots"].geometry.x, copy["spots"].geometry.y]))
    assert spots.query(centers_of(copy, "near"))[0].max() <= 40
    near = spots.query(centers_of(segmented))[0] <= 40
    assert len(copy["near"]) == near.sum() < len(near)


def test_a_distance_without_nuclei_is_named(copy):
    with pytest.raises(InputError, match=r"no nuclei .* within `within_um` = 0\.1 µm .* and `within_um`"):
        ds.pp.nuclei(copy, within_um=0.1, overwrite=True)


def test_morphology_can_be_drawn(segmented):
    spots, table = segmented["spots"], segmented["nuclei_spots"]
    np.testing.assert_allclose(table.obsm["spatial"], np.column_stack([spots.geometry.x, spots.geometry.y]))


def test_an_object_without_spots_gets_nuclei_only(copy, tmp_path):
    for key in ("table", "nuclei_spots"):
        del copy.tables[key]
    del copy.shapes["spots"]
    ds.pp.nuclei(copy, overwrite=True)
    assert not copy.tables
    copy.write(tmp_path / "slide.zarr")
    assert list(read_zarr(tmp_path / "slide.zarr")[NUCLEI].columns) == ["geometry", *COLUMNS]


def test_glass_and_ink_have_no_nuclei(copy):
    image = copy["P1_S1_image"]
    pixels = image.data.compute()
    pixels[:, :60] = np.array([30, 60, 170], np.uint8)[:, None, None]
    image.data = pixels
    ds.pp.nuclei(copy, overwrite=True)
    assert centers_of(copy)[:, 1].min() > 60
    image.data = np.full_like(pixels, 240)
    with pytest.raises(InputError, match="shows no tissue"):
        ds.pp.nuclei(copy, overwrite=True)
    with pytest.raises(InputError, match="shows no nuclei"):
        ds.pp.nuclei(copy, tissue=None, overwrite=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_key": "he"}, MissingKeyError, "Available keys: \\['P1_S1_image'\\]"),
        ({"shapes_key": "cells"}, MissingKeyError, "sdata.shapes"),
        ({"nuclei_key": "cells"}, MissingKeyError, "sdata.shapes"),
        ({"tissue": "color"}, InputError, "brightness"),
        ({"min_area_um2": 0}, InputError, "above 0"),
        ({"min_area_um2": 500}, InputError, "must be above `min_area_um2`"),
        ({"within_um": -1}, InputError, "above 0"),
        ({"key_added": "spots"}, InputError, "name of the spots"),
        ({"key_added": "spots", "overwrite": True}, InputError, "name of the spots"),
        ({"nuclei_key": NUCLEI, "within_um": 5}, InputError, "for a segmentation"),
        ({}, InputError, f"'{NUCLEI}'\\] exists. Pass `nuclei_key='{NUCLEI}'` .* other spots"),
        (
            {"key_added": "others"},
            InputError,
            r"sdata.tables\['nuclei_spots'\], the nuclei of the spots 'spots', exists",
        ),
    ],
)
def test_bad_arguments_change_nothing(segmented, options, error, message):
    before = [name for _, name, _ in segmented.gen_elements()]
    with pytest.raises(error, match=message):
        ds.pp.nuclei(segmented, **options)
    assert before == [name for _, name, _ in segmented.gen_elements()]


def test_a_scale_that_shows_nuclei_is_needed(copy):
    ds.pp.set_scale(copy, mpp=2.0)
    with pytest.raises(InputError, match="too coarse for nuclei"):
        ds.pp.nuclei(copy, overwrite=True)


def test_nuclei_that_tables_annotate_are_not_replaced(copy):
    copy.tables["predicted"] = ds.datasets.toy(n_patients=1, n_rows=2, n_cols=2)["P1_S1"]["table"].copy()
    copy.tables["predicted"].obs["region"] = NUCLEI
    copy.tables["predicted"].uns["spatialdata_attrs"]["region"] = NUCLEI
    before = copy[NUCLEI]
    with pytest.raises(ValueError, match=r"tables \['predicted'\] annotate it"):
        ds.pp.nuclei(copy, min_area_um2=30, overwrite=True)
    assert copy[NUCLEI] is before


def test_spots_that_cannot_be_described_are_named_before_the_segmentation(copy):
    del copy.tables["nuclei_spots"]
    del copy.shapes[NUCLEI]
    copy["spots"]["diameter_um"] = [50.0, *[55.0] * (len(copy["spots"]) - 1)]
    with pytest.raises(ValueError, match=r"several diameters: 50, 55 µm"):
        ds.pp.nuclei(copy)
    assert NUCLEI not in copy.shapes
