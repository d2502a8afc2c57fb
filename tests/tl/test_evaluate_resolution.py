import numpy as np
import pandas as pd
import pytest
from spatialdata import deepcopy

import deepspot as ds
from deepspot._core.keys import PREDICTION, UNS
from deepspot._sdata.write import make_table
from deepspot._spatial.transforms import Placement, circles_at

SCALE = "log1p of counts per 10,000"


@pytest.fixture(scope="module")
def slide():
    return ds.datasets.toy(1, n_rows=8, n_cols=10, mpp=2.0, n_genes=30, cells=True, seed=0)["P1_S1"]


@pytest.fixture
def sdata(slide):
    return deepcopy(slide)


def in_spots(sdata):
    """Return the number of the spot of each cell, and -1 outside of spots; positions are in pixels of 2 µm."""
    spots = np.column_stack([sdata["spots"].geometry.x, sdata["spots"].geometry.y])
    cells = np.column_stack([sdata["cells"].centroid.x, sdata["cells"].centroid.y])
    distance = np.linalg.norm(cells[:, None] - spots, axis=-1)
    return np.where(distance.min(axis=1) <= 27.5 / 2, distance.argmin(axis=1), -1), cells


def add_prediction(sdata, X, region="cells", centers=None, key="fine", resolution="cell", **uns):
    shapes = sdata.shapes[region]
    centers = in_spots(sdata)[1] if centers is None else centers
    made = {"kind": PREDICTION, "scale": SCALE, "image_key": "P1_S1_image", "resolution": resolution}
    sdata.tables[key] = make_table(
        X.astype(np.float32),
        region=region,
        instances=shapes.index,
        region_key="region",
        instance_key="instance",
        var=sdata["table"].var[[]].copy(),
        obsm={"spatial": centers},
        uns={UNS: made | uns},
    )


def expected(sdata):
    return sdata["table_cells"].layers["expected"].astype(float)


def by_program(sdata, column, key="fine"):
    return sdata[key].var[column].groupby(sdata["table"].var["program"]).mean()


def test_the_truth_reaches_the_ceiling(sdata, log):
    add_prediction(sdata, expected(sdata))
    ds.tl.evaluate_resolution(sdata, seed=0)
    means = sdata["fine"].uns[UNS]["within_spots"]
    assert means["within_r"] > 0.25
    assert means["within_r_low"] < means["within_r"] < means["within_r_high"]
    assert means["within_p"] == pytest.approx(1 / 200)
    # Counts vary by what no image shows: noise genes, overdispersion, and the depth of a cell.
    assert 0.4 < means["within_of_ceiling"] < 1
    assert means["places_r"] > means["places_r_spot"] + 0.04
    r = by_program(sdata, "within_r")
    assert r[["tumor", "lymphoid", "stroma"]].min() > 0.3
    ceiling = by_program(sdata, "within_ceiling")
    assert (r / ceiling)[["tumor", "lymphoid", "stroma"]].between(0.5, 1.02).all()
    assert abs(r["noise"]) < 0.05
    spot, _ = in_spots(sdata)
    several = np.bincount(spot[spot >= 0]) > 1
    assert means["spots"] == several.sum()
    assert means["places"] == np.bincount(spot[spot >= 0])[several].sum()
    assert not any("not supported" in line for line in log)
    values = sdata["fine"].var[["within_r", "within_p", "within_ceiling", "places_r"]]
    assert (values.dtypes == np.float32).all()


def test_the_value_of_the_spot_has_no_resolution(sdata, log):
    spot, _ = in_spots(sdata)
    values = expected(sdata)
    means = np.stack(
        [values[spot == number].mean(axis=0) if (spot == number).any() else values[0] for number in range(80)]
    )
    add_prediction(sdata, means[spot])
    ds.tl.evaluate_resolution(sdata, n_swaps=19, seed=0)
    found = sdata["fine"].uns[UNS]["within_spots"]
    assert found["within_r"] == pytest.approx(0, abs=1e-6)
    assert found["within_p"] == 1
    assert found["places_r"] == pytest.approx(found["places_r_spot"], abs=1e-6)
    assert found["places_r"] > 0.2
    assert any("not better than the value of the spot" in line for line in log)


def test_cells_that_are_swapped_within_their_spot_have_no_resolution(sdata):
    spot, _ = in_spots(sdata)
    values, rng = expected(sdata), np.random.default_rng(0)
    for number in range(80):
        rows = np.flatnonzero(spot == number)
        values[rows] = values[rng.permutation(rows)]
    add_prediction(sdata, values)
    ds.tl.evaluate_resolution(sdata, seed=0)
    found = sdata["fine"].uns[UNS]["within_spots"]
    assert abs(found["within_r"]) < 0.05
    assert found["within_p"] > 0.01


def test_a_trend_between_spots_is_no_resolution(sdata, log):
    """A prediction that only continues the trend between spots agrees within them, and is named."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    spot, cells = in_spots(sdata)
    values = expected(sdata)
    number = np.unique(spot[spot >= 0])
    means = np.stack([values[spot == each].mean(axis=0) for each in number])
    at = np.column_stack([sdata["spots"].geometry.x, sdata["spots"].geometry.y])[number]
    linear = LinearNDInterpolator(at, means)(cells)
    add_prediction(sdata, np.where(np.isfinite(linear), linear, NearestNDInterpolator(at, means)(cells)))
    ds.tl.evaluate_resolution(sdata, n_swaps=19, seed=0)
    found = sdata["fine"].uns[UNS]["within_spots"]
    assert found["within_r"] > 0.02
    assert found["within_r_interpolated"] == pytest.approx(found["within_r"], abs=0.05)
    assert any("not better than" in line for line in log)


def test_cells_are_pooled_into_finer_places(sdata):
    """Sub-spots of 18.3 µm: the sums of the cells in a square around their centers are the truth."""
    cells = in_spots(sdata)[1]
    spots = np.column_stack([sdata["spots"].geometry.x, sdata["spots"].geometry.y])
    step = 55 / 3 / 2
    offsets = np.array([[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)]) * step
    centers = (spots[:, None] + offsets).reshape(-1, 2)
    place = np.abs(cells[:, None] - centers).max(axis=-1)
    place = np.where(place.min(axis=1) <= step / 2, place.argmin(axis=1), -1)
    counts = sdata["table_cells"].X.toarray()
    pooled = np.stack([counts[place == number].sum(axis=0) for number in range(len(centers))])
    placement = Placement(centers, 2.0, pd.Index([f"place {number}" for number in range(len(centers))]))
    circles = circles_at(sdata, "P1_S1_image", "spots", placement, 55 / 3)
    circles["parent"] = np.repeat(sdata["spots"].index.to_numpy(), 9)
    sdata.shapes["spots_subspots"] = circles
    logged = np.log1p(1e4 * pooled / np.maximum(pooled.sum(axis=1, keepdims=True), 1))
    add_prediction(sdata, logged, "spots_subspots", centers, resolution="subspot")
    ds.tl.evaluate_resolution(sdata, n_swaps=19, seed=0)
    var, means = sdata["fine"].var, sdata["fine"].uns[UNS]["within_spots"]
    np.testing.assert_allclose(var["within_r"], 1, atol=1e-5)
    np.testing.assert_allclose(var["places_r"], 1, atol=1e-5)
    filled = (pooled.sum(axis=1) > 0).reshape(80, 9).sum(axis=1)
    assert means["places"] == filled[filled > 1].sum()


def test_results_are_not_overwritten_and_can_be_written(sdata, tmp_path):
    add_prediction(sdata, expected(sdata))
    ds.tl.evaluate_resolution(sdata, n_swaps=19, n_bootstrap=20, seed=0)
    with pytest.raises(ValueError, match="overwrite=True"):
        ds.tl.evaluate_resolution(sdata)
    before = sdata["fine"].var.copy()
    ds.tl.evaluate_resolution(sdata, n_swaps=19, n_bootstrap=20, overwrite=True, seed=0)
    assert before.equals(sdata["fine"].var)
    sdata.write(tmp_path / "slide.zarr")


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda s: s.shapes["spots"].pop("diameter_um"), {}, ValueError, "ds.pp.set_scale"),
        (lambda s: None, {"prediction_key": "table"}, KeyError, "fine"),
        (lambda s: None, {"table_key": "fine"}, KeyError, "table_cells"),
        (lambda s: None, {"n_swaps": 0}, ValueError, "n_swaps"),
        (lambda s: None, {"layer": "expected"}, ValueError, "raw counts"),
        (lambda s: s["table_cells"].X.data.fill(0), {}, ValueError, "two places with counts"),
    ],
)
def test_bad_input_changes_nothing(sdata, change, options, error, message):
    add_prediction(sdata, expected(sdata))
    change(sdata)
    before = list(sdata["fine"].var)
    with pytest.raises(error, match=message):
        ds.tl.evaluate_resolution(sdata, **options)
    assert list(sdata["fine"].var) == before
    assert "within_spots" not in sdata["fine"].uns[UNS]


def test_a_prediction_of_the_spots_themselves_is_refused(sdata):
    centers = np.column_stack([sdata["spots"].geometry.x, sdata["spots"].geometry.y])
    add_prediction(sdata, sdata["table"].layers["expected"], "spots", centers, resolution="spot")
    with pytest.raises(ValueError, match="predicts the spots 'spots' themselves"):
        ds.tl.evaluate_resolution(sdata)


def test_a_slide_that_the_model_learned_from_is_named(sdata, log):
    add_prediction(sdata, expected(sdata), training_slide="yes")
    ds.tl.evaluate_resolution(sdata, n_swaps=19, n_bootstrap=20)
    assert any("learned from this slide" in line for line in log)


def test_shapes_that_moved_since_the_prediction_are_refused(sdata):
    add_prediction(sdata, expected(sdata))
    sdata["cells"].geometry = sdata["cells"].geometry.translate(xoff=30)
    with pytest.raises(ValueError, match=r"was predicted for other positions of the shapes 'cells'"):
        ds.tl.evaluate_resolution(sdata)
