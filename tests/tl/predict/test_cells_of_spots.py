"""Prediction of cells by models whose spots consist of cells."""

import numpy as np
import pandas as pd
import pytest
from spatialdata import deepcopy, read_zarr

import deepspot as ds

OPTIONS = {"genes": 8, "network": {"width": 16}, "training": {"epochs": 5, "spots_per_step": 16, "lr": 1e-2}}
SHAPES = {"shapes_key": "spots", "table_key": "table"}
SPOTS = SHAPES | {"nuclei_key": "cells"}


@pytest.fixture(scope="module")
def slides():
    return ds.datasets.toy(2, n_rows=5, n_cols=6, n_genes=12, cells=True)


@pytest.fixture(scope="module", params=["cell_sum", "deepspot2cell"])
def model(request, slides, mean_color):
    slide = deepcopy(slides["P2_S1"])
    return ds.models.train(slide, preset=request.param, keys=SPOTS, encoder=mean_color(), seed=0, **OPTIONS)


@pytest.fixture
def slide(slides):
    return deepcopy(slides["P1_S1"])


def predict(slide, model, encoder, **options):
    ds.tl.predict(slide, model, resolution="cell", encoder=encoder, **options)
    return slide["deepspot_cells"]


def inside(slide):
    """Distance of every cell (n, spots) to every spot, in pixels of 1 µm."""
    spots = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y])
    cells = np.column_stack([slide["cells"].centroid.x, slide["cells"].centroid.y])
    return np.linalg.norm(cells[:, None] - spots, axis=-1)


def test_the_cells_in_spots_are_predicted(slide, model, cheap_encoder):
    table = predict(slide, model, cheap_encoder)
    distance = inside(slide)
    kept = (distance <= 27.5).any(axis=1)
    assert list(table.obs["cell"]) == list(slide["cells"].index[kept])
    assert list(table.obs["parent"]) == list(slide["spots"].index[distance.argmin(axis=1)[kept]])
    assert table.uns["deepspot"]["resolution"] == "cell"
    assert np.isfinite(table.X).all()
    assert table.X.min() >= 0
    assert np.ptp(table.X, axis=0).min() > 0
    ds.tl.predict(slide, model, shapes_key="spots", encoder=cheap_encoder)
    spots = slide["deepspot_spots"]
    row = pd.Series(range(spots.n_obs), index=spots.obs["spot_id"])[table.obs["parent"]]
    np.testing.assert_array_equal(table.obs["ood_score"], spots.obs["ood_score"].iloc[row])


def test_titles_count_the_predicted_cells(slide, model, cheap_encoder):
    """And not all shapes: nuclei outside of spots are not predicted."""
    n = predict(slide, model, cheap_encoder).n_obs
    ds.tl.predict(slide, model, shapes_key="spots", encoder=cheap_encoder)
    *_, cells = ds.pl.superresolution(slide, model.card.genes[0], shapes_key="spots")
    assert n < len(slide["cells"])
    assert f"predicted, {n:,} cells of" in cells.get_title()


def test_cells_and_background_add_up_to_their_spot(slide, model, cheap_encoder):
    table = predict(slide, model, cheap_encoder)
    ds.tl.predict(slide, model, shapes_key="spots", encoder=cheap_encoder)
    spots = slide["deepspot_spots"]
    if model.system == "deepspot2cell":  # its cells do not add up
        assert "background" not in spots.layers
        return
    cells = pd.DataFrame(np.expm1(table.X.astype(float))).groupby(table.obs["parent"].to_numpy()).mean()
    total = cells.reindex(spots.obs["spot_id"], fill_value=0) + np.expm1(spots.layers["background"].astype(float))
    np.testing.assert_allclose(total, np.expm1(spots.X.astype(float)), rtol=2e-6)
    assert (spots.layers["background"] < spots.X).any()


def test_counts_of_cells_add_up_to_the_counts_of_their_spot(slides, slide, mean_color):
    keys = SPOTS | {"normalize": "log1p_counts"}
    model = ds.models.train(deepcopy(slides["P2_S1"]), preset="cell_sum", keys=keys, encoder=mean_color(), **OPTIONS)
    table = predict(slide, model, mean_color())
    ds.tl.predict(slide, model, shapes_key="spots", encoder=mean_color())
    spots = slide["deepspot_spots"]
    cells = pd.DataFrame(np.expm1(table.X.astype(float))).groupby(table.obs["parent"].to_numpy()).sum()
    total = cells.reindex(spots.obs["spot_id"], fill_value=0) + np.expm1(spots.layers["background"].astype(float))
    np.testing.assert_allclose(total, np.expm1(spots.X.astype(float)), rtol=2e-6)


def test_a_cell_in_two_spots_is_predicted_once(slide, model, cheap_encoder):
    near = slide["spots"].copy()
    near.geometry = near.geometry.translate(xoff=20)
    near.index = near.index + "_b" if near.index.dtype == object else near.index + 1000
    slide.shapes["spots"] = type(near)(pd.concat([slide["spots"], near]), geometry="geometry")
    slide["spots"].attrs = near.attrs
    del slide.tables["table"]
    table = predict(slide, model, cheap_encoder)
    distance = inside(slide)
    assert ((distance <= 27.5).sum(axis=1) > 1).any()
    kept = (distance <= 27.5).any(axis=1)
    assert list(table.obs["cell"]) == list(slide["cells"].index[kept])
    assert list(table.obs["parent"]) == list(slide["spots"].index[distance.argmin(axis=1)[kept]])


def test_the_prediction_is_written_and_evaluated(slide, model, cheap_encoder, tmp_path):
    predict(slide, model, cheap_encoder)
    slide.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr")
    ds.tl.evaluate_resolution(again, table_key="table_cells", spots_key="spots", n_swaps=19, n_bootstrap=50)
    assert again["deepspot_cells"].uns["deepspot"]["within_spots"]["spots"] > 3


def test_what_cannot_be_predicted(slide, model, cheap_encoder, tmp_path):
    before = sorted(slide.tables)
    slide.shapes["others"] = slide["cells"].iloc[:5]
    with pytest.raises(ValueError, match=r"are the nuclei 'cells', not 'others'. Pass `shapes_key='cells'`"):
        predict(slide, model, cheap_encoder, shapes_key="others")
    with pytest.raises(ValueError, match="calibrated on spots only"):
        predict(slide, model, cheap_encoder, shapes_key="cells", intervals=True)
    with pytest.raises(ValueError, match="in memory only"):
        predict(slide, model, cheap_encoder, shapes_key="cells", out=tmp_path / "cells.zarr")
    for resolution in ("subspot", "grid"):
        with pytest.raises(ValueError, match=r"sub-spots of model .* are nuclei"):
            ds.tl.predict(slide, model, resolution=resolution, shapes_key="spots", encoder=cheap_encoder)
    assert sorted(slide.tables) == before
    del slide.tables["table"]
    del slide.shapes["spots"]
    with pytest.raises(
        ValueError, match=r"predicts the cells of spots. There are no spots of known diameter.*`ds\.pp\.spots`"
    ):
        predict(slide, model, cheap_encoder, shapes_key="cells")


def test_cells_are_the_nuclei_of_the_model_by_default(slide, model, cheap_encoder):
    slide.shapes["others"] = slide["cells"].iloc[:5]
    assert predict(slide, model, cheap_encoder).uns["deepspot"]["resolution"] == "cell"


def test_a_correction_of_spots_does_not_hold_for_cells(slides, slide, model, mean_color):
    other = deepcopy(slides["P1_S1"])
    corrected = ds.models.calibrate(model, other, correction="affine", keys=SHAPES, encoder=mean_color())
    with pytest.raises(ValueError, match="holds for spots, and not for their cells"):
        ds.tl.predict(slide, corrected, resolution="cell", encoder=mean_color())
    ds.tl.predict(slide, corrected, shapes_key="spots", encoder=mean_color())
    assert "background" not in slide["deepspot_spots"].layers
