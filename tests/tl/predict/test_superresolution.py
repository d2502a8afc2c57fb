from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from spatialdata import deepcopy, read_zarr
from spatialdata.transformations import get_transformation, set_transformation

import deepspot as ds
from deepspot._features.feature_table import bags_of
from deepspot._spatial.transforms import centers_px

FINER = ("subspot", "grid")
SQUARE = np.array([[x, y] for y in (60.0, 160.0, 260.0) for x in (60.0, 160.0, 260.0)])


@pytest.fixture
def predict(cheap_encoder):
    def run(sdata, model, **options):
        ds.tl.predict(sdata, model, encoder=cheap_encoder, **options)

    return run


def colored(size=320):
    """Thirds of 54 px tiles around the spots, each of another color."""
    image = np.full((size, size, 3), 255, np.uint8)
    for i, (x, y) in enumerate(SQUARE.astype(int)):
        for k in range(9):
            row, col = divmod(k, 3)
            top, left = y - 27 + 18 * row, x - 27 + 18 * col
            image[top : top + 18, left : left + 18] = (25 * i, 25 * k, 100)
    return image


@pytest.fixture
def square(slide_of):
    return slide_of(colored(), SQUARE, mpp=1.0, diameter_um=55)


@pytest.fixture
def pale(mean_color):
    """Colors from 0 to 1: with larger values, two epochs of the presets of the paper diverge."""

    class Pale(mean_color):
        def encode(self, tiles):
            return super().encode(tiles) / 255

    return Pale("pale")


def counts_of(sdata, key):
    return np.expm1(np.asarray(sdata.tables[key].X, dtype=np.float64))


def elements(sdata):
    return sorted(name for _, name, _ in sdata.gen_elements())


def test_subspots_are_as_documented(slide, quick_model, predict, cheap_encoder):
    predict(slide, quick_model)
    embedded = cheap_encoder.n_tiles
    assert ds.tl.predict(slide, quick_model, encoder=cheap_encoder, resolution="subspot") is None
    assert cheap_encoder.n_tiles == embedded
    shapes, table = slide.shapes["spots_subspots"], slide.tables["deepspot_spots_subspots"]
    assert table.shape == (270, 10)
    assert table.X.dtype == np.float32
    assert list(table.obs["spot_id"]) == list(shapes.index)
    assert shapes.index.is_unique
    assert shapes.index[5] == "0_1_2"
    assert list(shapes["parent"]) == list(np.repeat(slide.shapes["spots"].index, 9))
    assert list(shapes["row"][:9]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert list(shapes["col"][:9]) == [0, 1, 2] * 3
    np.testing.assert_allclose(shapes["diameter_um"], 55 / 3)
    np.testing.assert_allclose(table.obsm["spatial"], centers_px(slide, "P1_S1_image", "spots_subspots"))
    spots = slide.tables["deepspot_spots"]
    np.testing.assert_array_equal(table.obs["ood_score"], np.repeat(spots.obs["ood_score"], 9))
    np.testing.assert_array_equal(table.obs["ood"], np.repeat(spots.obs["ood"], 9))
    np.testing.assert_array_equal(table.var["expected_r"], spots.var["expected_r"])
    assert table.uns["log1p"] == {}
    same = {"resolution", "ood_share"}
    made, before = table.uns["deepspot"], spots.uns["deepspot"]
    assert (made["resolution"], before["resolution"]) == ("subspot", "spot")
    assert {key: made[key] for key in made.keys() - same} == {key: before[key] for key in before.keys() - same}


def test_the_mean_of_subspots_is_the_prediction_of_the_spot(slide, quick_model, predict):
    predict(slide, quick_model)
    predict(slide, quick_model, resolution="subspot")
    spots, parts = counts_of(slide, "deepspot_spots"), counts_of(slide, "deepspot_spots_subspots").reshape(30, 9, 10)
    np.testing.assert_allclose(parts.mean(axis=1), spots, rtol=2e-5)
    assert (np.ptp(parts, axis=1)[spots > 0] > 0).mean() > 0.9


@pytest.mark.parametrize(("degrees", "factor", "flip"), [(0, 1, 1), (90, 1, 1), (30, 0.5, -1), (200, 4, 1)])
def test_subspots_are_at_their_pixels(slide_of, quick_model, predict, degrees, factor, flip):
    c, s = np.cos(np.radians(degrees)) * factor, np.sin(np.radians(degrees)) * factor
    spots_to = np.array([[c, -s * flip, 30], [s, c * flip, -20], [0, 0, 1]])
    xy = (SQUARE - spots_to[:2, 2]) @ np.linalg.inv(spots_to[:2, :2]).T
    turned = slide_of(
        colored(), xy, image_to={"lab": np.eye(3)}, spots_to={"lab": spots_to}, mpp=1.0, index=list("ABCDEFGHI")
    )
    predict(turned, quick_model, resolution="subspot")
    made, spots = turned.shapes["spots_subspots"], turned.shapes["spots"]
    places = centers_px(turned, "he", "spots_subspots")
    image = turned.images["he"].to_numpy()
    for (x, y), parent, row, col in zip(places, made["parent"], made["row"], made["col"], strict=True):
        color = (25 * "ABCDEFGHI".index(parent), 25 * (3 * row + col), 100)
        np.testing.assert_array_equal(image[:, int(y), int(x)], color)
    # In the units of the spots, whatever these are.
    np.testing.assert_allclose(made["radius"], 55 / 3 / 2 / factor)
    matrices = [
        {name: known.to_affine_matrix(("x", "y"), ("x", "y")) for name, known in systems.items()}
        for systems in (get_transformation(of, get_all=True) for of in (made, spots))
    ]
    np.testing.assert_equal(*matrices)


def test_a_grid_is_as_documented(slide, quick_model, predict, cheap_encoder):
    predict(slide, quick_model, resolution="grid")
    shapes, table = slide.shapes["spots_grid"], slide.tables["deepspot_spots_grid"]
    features = slide.tables["mean_color_spots_grid"]
    assert cheap_encoder.n_tiles == 2 * len(shapes)
    assert elements(slide) == sorted(
        ["P1_S1_image", "spots", "table", "spots_grid", "mean_color_spots_grid", "deepspot_spots_grid"]
    )
    assert 20 * 16 * 0.8 < len(shapes) < 30 * 16  # the cells between 5 × 6 spots, and the spots
    assert table.shape == (len(shapes), 10)
    assert table.X.dtype == np.float32
    assert table.X.min() >= 0
    assert list(table.obs["spot_id"]) == list(shapes.index)
    np.testing.assert_allclose(shapes["diameter_um"], 55 / 3)
    np.testing.assert_allclose(shapes["radius"], 55 / 6)
    np.testing.assert_allclose(table.obsm["spatial"], centers_px(slide, "P1_S1_image", "spots_grid"))
    assert set(shapes["parent"]) == set(slide.shapes["spots"].index)
    assert features.obsm["subspots"].shape == (len(shapes), 1, 27)
    assert features.uns["deepspot"]["subspots"] == "central"
    made = table.uns["deepspot"]
    assert made["resolution"] == "grid"
    assert made["grid_um"] == pytest.approx(25.0, rel=0.01)
    assert made["features"] == "mean_color_spots_grid"


def test_the_subspot_of_a_grid_point_is_exactly_centered(slide_of, quick_model, predict, cheap_encoder):
    image = np.zeros((320, 320, 3), np.uint8)
    image[159:161, 159:161] = 255  # around the corner of pixels where the central spot is
    sdata = slide_of(image, SQUARE, mpp=1.0, diameter_um=55)
    predict(sdata, quick_model, resolution="grid")
    tiles, parts = (
        np.concatenate([seen for seen in cheap_encoder.seen if seen.shape[1] == side])[..., 0] for side in (54, 18)
    )
    assert len(tiles) == len(parts) == len(sdata.shapes["spots_grid"])
    np.testing.assert_array_equal(parts, tiles[:, 18:36, 18:36])
    marked = np.zeros((18, 18), np.uint8)
    marked[8:10, 8:10] = 255
    assert (parts == marked).all(axis=(1, 2)).sum() == 1
    # It belongs to the point at this position.
    features, point = sdata.tables["mean_color_spots_grid"], sdata.tables["mean_color_spots_grid"].obsm["spatial"]
    here = int(np.flatnonzero((point == 160).all(axis=1))[0])
    expected = cheap_encoder.encode(np.repeat(marked[None, ..., None], 3, axis=3))
    np.testing.assert_allclose(features.obsm["subspots"][here], expected, rtol=1e-3)


@pytest.mark.parametrize("preset", ["default", "paper", "published"])
def test_a_grid_point_on_a_spot_sees_what_the_spot_sees(square, slide, quick, pale, preset):
    # The presets of the paper take neighbors from the spot array, and sum over sub-spots.
    square["spots"]["array_row"], square["spots"]["array_col"] = np.divmod(np.arange(9), 3)
    make_up = {"network": {"width": 16, "members": 1}, "training": {"epochs": 2, "max_epochs": 2}}
    model = ds.models.train(slide, **quick | make_up | {"preset": preset, "encoder": pale})
    assert model.card.geometry.neighbors.kind == ("radius" if preset == "default" else "box")
    ds.tl.predict(square, model, encoder=pale)
    ds.tl.predict(square, model, encoder=pale, resolution="grid")
    bags = bags_of(square, "pale_spots", "spots", model.card.geometry.neighbors)
    expected = model.predict(replace(bags, subspots=bags.subspots[:, [4]]))
    table = square.tables["deepspot_spots_grid"]
    at = {tuple(center): row for row, center in enumerate(table.obsm["spatial"])}
    own = [at[tuple(center)] for center in SQUARE]
    np.testing.assert_allclose(table.X[own], np.maximum(expected, 0), atol=1e-4)
    assert expected.max() > 0


def test_a_finer_grid(square, quick_model, predict):
    predict(square, quick_model, resolution="grid", grid_um=50)
    assert len(square.shapes["spots_grid"]) == 5**2
    assert square.tables["deepspot_spots_grid"].uns["deepspot"]["grid_um"] == pytest.approx(50)


def test_a_model_without_subspots_predicts_a_grid_of_spot_tiles(slide, quick, predict, cheap_encoder):
    quick["network"] = quick["network"] | {"context": ("spot", "neighbors")}
    model = ds.models.train(slide, **quick)
    cheap_encoder.seen.clear()
    predict(slide, model, resolution="grid")
    assert cheap_encoder.n_tiles == len(slide.shapes["spots_grid"])
    with pytest.raises(ValueError, match=r"does not use sub-spots.*resolution='grid'"):
        predict(slide, model, resolution="subspot")


@pytest.mark.parametrize("resolution", FINER)
def test_arguments_that_do_not_fit_the_resolution(slide, quick_model, predict, resolution, cheap_encoder):
    before = elements(slide)
    with pytest.raises(ValueError, match="calibrated on spots only"):
        predict(slide, quick_model, resolution=resolution, intervals=True)
    with pytest.raises(ValueError, match="`unclipped` is for spots"):
        predict(slide, quick_model, resolution=resolution, unclipped=True)
    with pytest.raises(ValueError, match="the table needs another `key_added`"):
        predict(slide, quick_model, resolution=resolution, key_added=f"spots_{resolution}s".replace("grids", "grid"))
    with pytest.raises(ValueError, match="exists"):
        predict(slide, quick_model, resolution=resolution, key_added="table")
    assert elements(slide) == before
    assert cheap_encoder.n_tiles == 0


def test_unknown_resolution_and_wrong_grid_um(slide, quick_model, predict):
    with pytest.raises(KeyError, match=r"'nucleus'.*\['spot', 'subspot', 'grid', 'cell'\]"):
        predict(slide, quick_model, resolution="nucleus")
    with pytest.raises(ValueError, match="`resolution` is 'subspot'"):
        predict(slide, quick_model, resolution="subspot", grid_um=20)
    with pytest.raises(ValueError, match="`grid_um` must be above 0"):
        predict(slide, quick_model, resolution="grid", grid_um=0)


@pytest.mark.parametrize(("resolution", "limit"), [("subspot", 9e-6), ("grid", 15e-6)])
def test_a_result_that_would_not_fit_is_refused_before_the_work(
    slide, quick_model, predict, cheap_encoder, monkeypatch, resolution, limit
):
    before = elements(slide)
    monkeypatch.setattr(ds.settings, "max_table_gb", limit)
    with pytest.raises(ValueError, match="max_table_gb"):
        predict(slide, quick_model, resolution=resolution)
    assert elements(slide) == before
    assert cheap_encoder.n_tiles == 0


def test_a_grid_of_too_many_points_is_refused_at_once(slide, quick_model, predict, cheap_encoder):
    with pytest.raises(ValueError, match=r"The prediction of 45,\d{3},\d{3},\d{3} grid points"):
        predict(slide, quick_model, resolution="grid", grid_um=0.001)
    assert cheap_encoder.n_tiles == 0


@pytest.mark.parametrize("resolution", FINER)
def test_the_same_shapes_are_used_again(slide, quick_model, predict, resolution, cheap_encoder):
    predict(slide, quick_model, resolution=resolution)
    made, embedded = elements(slide), cheap_encoder.n_tiles
    with pytest.raises(ValueError, match="overwrite=True"):
        predict(slide, quick_model, resolution=resolution)
    predict(slide, quick_model, resolution=resolution, overwrite=True)
    predict(slide, quick_model, resolution=resolution, key_added="again")
    assert elements(slide) == sorted([*made, "again"])
    assert cheap_encoder.n_tiles == embedded
    first = next(table for name, table in slide.tables.items() if name.startswith("deepspot_"))
    np.testing.assert_array_equal(slide.tables["again"].X, first.X)


def test_moved_spots_need_new_shapes(slide, quick_model, predict):
    predict(slide, quick_model, resolution="subspot")
    for system, known in get_transformation(slide.shapes["spots"], get_all=True).items():
        shifted = known.to_affine_matrix(("x", "y"), ("x", "y"))
        shifted[:2, 2] += 5
        from spatialdata.transformations import Affine

        set_transformation(slide.shapes["spots"], Affine(shifted, ("x", "y"), ("x", "y")), system)
    with pytest.raises(ValueError, match=r"'spots_subspots'\] exists and does not match these spots"):
        predict(slide, quick_model, resolution="subspot", key_added="moved")
    with pytest.raises(ValueError, match=r"tables \['deepspot_spots_subspots'\] annotate it"):
        predict(slide, quick_model, resolution="subspot", key_added="moved", overwrite=True)
    predict(slide, quick_model, resolution="subspot", overwrite=True)
    places = centers_px(slide, "P1_S1_image", "spots_subspots")
    np.testing.assert_allclose(slide.tables["deepspot_spots_subspots"].obsm["spatial"], places)


def test_shapes_of_other_tools_are_never_replaced(slide, quick_model, predict):
    slide.shapes["spots_grid"] = deepcopy(slide.shapes["spots"])
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="rename it"):
            predict(slide, quick_model, resolution="grid", shapes_key="spots", overwrite=overwrite)


def test_finer_shapes_are_not_selected_as_spots(slide, quick_model, predict):
    for resolution in FINER:
        predict(slide, quick_model, resolution=resolution)
    predict(slide, quick_model)
    ds.tl.evaluate(slide)
    assert "pearson" in slide.tables["deepspot_spots"].var
    with pytest.raises(ValueError, match="was made of spots"):
        predict(slide, quick_model, shapes_key="spots_grid")


@pytest.mark.parametrize("resolution", FINER)
def test_an_object_without_measurements(slide, quick_model, predict, resolution):
    predict(slide, quick_model, resolution=resolution)
    bare = deepcopy(slide)
    for name in list(bare.tables):
        del bare.tables[name]
    predict(bare, quick_model, resolution=resolution)
    for name in (name for name in slide.tables if name.startswith("deepspot")):
        np.testing.assert_array_equal(bare.tables[name].X, slide.tables[name].X)


def test_write_read_predict_again_write(slide, quick_model, predict, cheap_encoder, tmp_path):
    slide.write(tmp_path / "a.zarr")
    backed = read_zarr(tmp_path / "a.zarr")
    for resolution in FINER:
        predict(backed, quick_model, resolution=resolution)
    new = sorted(set(elements(backed)) - set(elements(slide)))
    for name in new:
        backed.write_element(name)
    again = read_zarr(tmp_path / "a.zarr")
    assert elements(again) == elements(backed)
    for name in ("deepspot_spots_grid", "deepspot_spots_subspots"):
        np.testing.assert_array_equal(again.tables[name].X, backed.tables[name].X)
    for name in ("spots_grid", "spots_subspots"):
        for column in ("parent", "row", "col", "diameter_um", "radius"):
            np.testing.assert_array_equal(again.shapes[name][column], backed.shapes[name][column])
    embedded = cheap_encoder.n_tiles
    for resolution in FINER:
        predict(again, quick_model, resolution=resolution, overwrite=True)
    assert cheap_encoder.n_tiles == embedded
    again.write(tmp_path / "b.zarr")
    assert elements(read_zarr(tmp_path / "b.zarr")) == elements(again)


def test_a_slide_of_one_spot(slide_of, quick_model, predict):
    sdata = slide_of(colored(), SQUARE[:1], mpp=1.0, diameter_um=55)
    with pytest.raises(ValueError, match="at least two spots"):
        predict(sdata, quick_model, resolution="grid")
    predict(sdata, quick_model, resolution="subspot")
    assert sdata.tables["deepspot_spots_subspots"].shape == (9, 10)


def test_an_even_grid_of_subspots_has_no_central_one(slide, quick_model, predict):
    even = copy(quick_model)
    tile = quick_model.card.geometry.tile.model_copy(update={"grid": 2})
    even.card = quick_model.card.model_copy(
        update={"geometry": quick_model.card.geometry.model_copy(update={"tile": tile})}
    )
    with pytest.raises(ValueError, match="no central one"):
        predict(slide, even, resolution="grid")
    predict(slide, even, resolution="subspot")
    assert slide.tables["deepspot_spots_subspots"].shape == (120, 10)
