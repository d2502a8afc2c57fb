import re

import numpy as np
import pytest
from anndata import AnnData
from geopandas import GeoDataFrame
from shapely import Point
from spatialdata import deepcopy
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import deepspot as ds
from deepspot._sdata.tables import match_rows
from deepspot._spatial.neighbors import nearest_within
from deepspot.tl._predict.resolution import conserve

OPTIONS = {"network": {"width": 16, "members": 1}, "training": {"epochs": 3, "max_epochs": 3, "gate": "off"}}


@pytest.fixture(scope="module")
def pair(mean_color):
    """A slide with its cells, and a model of its spots."""
    slides = ds.datasets.toy(2, n_rows=5, n_cols=6, n_genes=12, cells=True)
    model = ds.models.train(slides["P2_S1"], encoder=mean_color(), genes=8, seed=0, **OPTIONS)
    return slides["P1_S1"], model


@pytest.fixture
def slide(pair):
    return deepcopy(pair[0])


@pytest.fixture
def model(pair):
    return pair[1]


def predict(slide, model, encoder, **options):
    ds.tl.predict(slide, model, resolution="cell", encoder=encoder, **options)
    return slide["deepspot_cells"]


@pytest.fixture(scope="module")
def predicted_once(pair, mean_color):
    slide = deepcopy(pair[0])
    predict(slide, pair[1], mean_color())
    return slide


@pytest.fixture
def predicted(predicted_once):
    """The slide with its predicted cells."""
    return deepcopy(predicted_once)


def parents(slide):
    spots = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y])
    cells = np.column_stack([slide["cells"].centroid.x, slide["cells"].centroid.y])
    distance = np.linalg.norm(cells[:, None] - spots, axis=-1)
    return np.where(distance.min(axis=1) <= 27.5, distance.argmin(axis=1), -1)


def test_cells_in_a_spot_have_its_mean_on_counts(predicted, model, cheap_encoder):
    slide, table = predicted, predicted["deepspot_cells"]
    assert table.n_obs == len(slide["cells"])
    assert list(table.obs["cell"]) == list(slide["cells"].index)
    assert table.uns["deepspot"]["resolution"] == "cell"
    ds.tl.predict(slide, model, encoder=cheap_encoder)
    whole, spot = np.expm1(slide["deepspot_spots"].X.astype(float)), parents(slide)
    counts = np.expm1(table.X.astype(float))
    for number in np.unique(spot[spot >= 0]):
        np.testing.assert_allclose(counts[spot == number].mean(axis=0), whole[number], rtol=1e-5, atol=1e-5)
    assert np.median([np.ptp(table.X[spot == number], axis=0) for number in np.unique(spot[spot >= 0])]) > 0.01


def test_a_cell_is_seen_in_the_middle_of_its_tile(predicted, model):
    slide = predicted
    features = slide["mean_color_cells"]
    assert features.obsm["subspots"].shape == (len(slide["cells"]), 1, 27)
    table = slide["deepspot_cells"]
    spot = parents(slide)
    # Outside of spots nothing is scaled: the prediction is that of the bag with the central sub-spot alone.
    from deepspot._features.feature_table import bags_of

    bags = bags_of(slide, "mean_color_cells", "cells", model.geometry.neighbors)
    alone = np.clip(model.predict(bags), 0, None)
    np.testing.assert_allclose(table.X[spot < 0], alone[spot < 0], atol=1e-5)


def test_without_spots_cells_are_not_scaled(slide, model, cheap_encoder, log):
    del slide.tables["table"]
    del slide.shapes["spots"]
    table = predict(slide, model, cheap_encoder)
    assert table.n_obs == len(slide["cells"])
    assert any("not scaled to spots" in line for line in log)


def test_cells_can_be_spots_of_their_own(predicted, model, cheap_encoder):
    """A prediction of the same shapes by whole tiles is not that of cells, and the other way around."""
    ds.tl.predict(predicted, model, shapes_key="cells", encoder=cheap_encoder, key_added="whole")
    assert np.abs(predicted["whole"].X - predicted["deepspot_cells"].X).max() > 0.01


def test_what_cannot_be_predicted(slide, model, cheap_encoder):
    before = sorted(slide.tables)
    with pytest.raises(ValueError, match="calibrated on spots only"):
        predict(slide, model, cheap_encoder, intervals=True)
    with pytest.raises(KeyError, match="nuclei"):
        predict(slide, model, cheap_encoder, shapes_key="nuclei")
    del slide.tables["table_cells"]
    del slide.shapes["cells"]
    with pytest.raises(KeyError, match=r"polygons in sdata\.shapes"):
        predict(slide, model, cheap_encoder)
    assert sorted(slide.tables) == sorted(set(before) - {"table_cells"})


@pytest.fixture
def exact(monkeypatch, tmp_path):
    """Blocks of 7 cells or spots, which are fewer than the cells of a spot, and embeddings in full precision."""
    from deepspot._features import cache
    from deepspot.tl._predict import stream

    monkeypatch.setattr(stream, "ROWS", 7)
    monkeypatch.setattr(cache, "_rounded", lambda embeddings: embeddings)
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")


@pytest.mark.parametrize("spots", ["new", "predicted", "none"])
def test_streamed_cells_are_those_in_memory(slide, model, cheap_encoder, tmp_path, exact, spots):
    if spots == "predicted":
        ds.tl.predict(slide, model, encoder=cheap_encoder)
    if spots == "none":
        del slide.tables["table"], slide.shapes["spots"]
    memory = predict(slide, model, cheap_encoder)
    features, before = slide["mean_color_cells"], sorted(slide.tables)
    disk = predict(slide, model, cheap_encoder, out=tmp_path / "out.zarr", overwrite=True)
    assert disk.X.chunks[0][:-1] == (7,) * (len(slide["cells"]) // 7)
    rows, cells = match_rows(disk, slide, "cells")
    np.testing.assert_array_equal(cells, np.arange(len(slide["cells"])))
    np.testing.assert_allclose(np.asarray(disk.X)[rows], memory.X, rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(disk.obs["ood_score"].to_numpy()[rows], memory.obs["ood_score"], rtol=1e-5)
    assert dict(disk.uns["deepspot"]) | {"features": "mean_color_cells"} == dict(memory.uns["deepspot"])
    assert sorted(slide.tables) == before
    assert slide["mean_color_cells"] is features
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out.zarr"]


def test_streamed_cells_in_a_spot_have_its_mean_on_counts(slide, model, cheap_encoder, tmp_path, monkeypatch):
    """Of the prediction of spots that is streamed, too: embeddings on disk have half precision."""
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    disk = predict(slide, model, cheap_encoder, out=tmp_path / "cells.zarr")
    ds.tl.predict(slide, model, encoder=cheap_encoder, out=tmp_path / "spots.zarr")
    whole = slide["deepspot_spots"]
    counts, spot = np.expm1(np.asarray(disk.X, float)), parents(slide)[match_rows(disk, slide, "cells")[0].argsort()]
    expected = np.expm1(np.asarray(whole.X, float))[match_rows(whole, slide, "spots")[0]]
    for number in np.unique(spot[spot >= 0]):
        np.testing.assert_allclose(counts[spot == number].mean(axis=0), expected[number], rtol=1e-5, atol=1e-5)
        at = np.flatnonzero(spot == number)
        assert np.ptp(at) == len(at) - 1  # they follow each other


def test_cells_of_a_spot_in_several_blocks_are_scaled_together(monkeypatch):
    from deepspot.tl._predict import stream

    monkeypatch.setattr(stream, "ROWS", 4)
    rng = np.random.default_rng(0)
    groups = np.array([3, 3, -1, -1, 0, *[5] * 11, -1, 2, 2, 4, 1])
    cells, spots = (np.log1p(rng.gamma(1, 2, (n, 3))).astype(np.float32) for n in (len(groups), 6))
    order = rng.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    expected = cells.copy()
    conserve(expected, spots, groups)
    parents = stream.Parents(AnnData(spots), groups)
    given = [cells[rows] for rows in np.split(order, [5, 6, 13])]
    blocks = list(parents.scaled(given, order))
    assert [len(block) for block in blocks] == [4, 4, 4, 4, 4, 1]
    np.testing.assert_allclose(np.concatenate(blocks), expected[order], rtol=1e-6)


def test_spots_that_cannot_be_predicted_leave_nothing(slide, model, cheap_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    monkeypatch.setattr(cheap_encoder, "encode", lambda tiles: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(slide, model, cheap_encoder, out=tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())
    assert "deepspot_cells" not in slide.tables


def test_resolution_of_cells_can_be_evaluated(predicted):
    slide = predicted
    ds.tl.evaluate_resolution(slide, n_swaps=19, n_bootstrap=50)
    means = slide["deepspot_cells"].uns["deepspot"]["within_spots"]
    spot = parents(slide)
    assert means["places"] == sum(n for n in np.bincount(spot[spot >= 0]) if n > 1)


def test_spots_are_no_cells(slide, model, cheap_encoder):
    """Also if a table has the name of the prediction, and whatever the circles are called."""
    ds.tl.predict(slide, model, shapes_key="spots", encoder=cheap_encoder)
    before = slide["deepspot_spots"]
    with pytest.raises(ValueError, match=r"circles 'spots' are 55 µm wide: they are spots.*ds\.pp\.nuclei"):
        predict(slide, model, cheap_encoder, shapes_key="spots")
    small = slide["spots"].assign(diameter_um=20.0, radius=10.0)  # a regular array of 100 µm
    slide["small"] = small
    with pytest.raises(ValueError, match="circles 'small' are 20 µm wide: they are spots"):
        predict(slide, model, cheap_encoder, shapes_key="small")
    slide["wide"] = small.drop(columns="diameter_um").assign(radius=27.5)
    with pytest.raises(ValueError, match="circles 'wide' are 55 µm wide: they are spots"):
        predict(slide, model, cheap_encoder, shapes_key="wide")
    assert slide["deepspot_spots"] is before
    assert "mean_color_small" not in slide.tables


def test_circles_of_cells_are_cells(predicted, model, cheap_encoder):
    slide = predicted
    circles = GeoDataFrame(geometry=slide["cells"].centroid).assign(radius=5.0)
    slide["circles"] = ShapesModel.parse(circles, transformations=get_transformation(slide["cells"], get_all=True))
    predict(slide, model, cheap_encoder, shapes_key="circles", key_added="circles_table")
    np.testing.assert_allclose(slide["circles_table"].X, slide["deepspot_cells"].X, atol=1e-5)


def test_cells_outside_of_all_spots_are_a_warning(slide, model, cheap_encoder, log):
    outside = parents(slide) < 0
    slide["beside"] = slide["cells"][outside]
    predict(slide, model, cheap_encoder, shapes_key="beside", key_added="deepspot_cells")
    assert any(f"None of {outside.sum():,} cells of 'beside' is in a spot of 'spots'" in line for line in log)


@pytest.fixture
def pooled(slide):
    """A second set of spots with measured genes, of the same size."""
    ds.pp.pool(slide, shapes_key="cells")
    return slide


def test_of_several_spots_cells_are_in_those_that_the_model_predicted(pooled, model, cheap_encoder, log):
    ds.tl.predict(pooled, model, shapes_key="cells_spots", encoder=cheap_encoder)
    table = predict(pooled, model, cheap_encoder)
    assert "Of the spots ['spots', 'cells_spots'], the cells are in 'cells_spots': this model predicted them." in log
    spots, xy = pooled["cells_spots"], np.column_stack([pooled["cells"].centroid.x, pooled["cells"].centroid.y])
    at = nearest_within(xy, np.column_stack([spots.geometry.x, spots.geometry.y]), 27.5)
    whole, counts = np.expm1(pooled["deepspot_cells_spots"].X.astype(float)), np.expm1(table.X.astype(float))
    for number in np.unique(at[at >= 0]):
        np.testing.assert_allclose(counts[at == number].mean(axis=0), whole[number], rtol=1e-5, atol=1e-5)


def test_spots_that_are_not_clear_are_not_used(pooled, model, cheap_encoder, log):
    said = r"several sets of spots in which the cells could be: \['spots', 'cells_spots'\]\. "
    predict(pooled, model, cheap_encoder)
    (line,) = [line for line in log if "not scaled to spots" in line]
    assert re.search(said + r".*`ds\.tl\.predict\(sdata, model, shapes_key='cells_spots'\)`", line)
    for key in ("spots", "cells_spots"):
        ds.tl.predict(pooled, model, shapes_key=key, encoder=cheap_encoder)
    predict(pooled, model, cheap_encoder, overwrite=True)
    last = [line for line in log if "not scaled to spots" in line][-1]
    assert re.search(said + r"This model predicted \['spots', 'cells_spots'\]: delete", last)


@pytest.mark.parametrize("change", ["size", "measured"])
def test_spots_are_chosen_by_their_size_and_measured_genes(pooled, model, cheap_encoder, log, change):
    if change == "size":
        pooled["spots"]["diameter_um"] = 100.0
    else:
        del pooled.tables["table"]
    predict(pooled, model, cheap_encoder)
    assert any("the cells are in 'cells_spots': they alone have the 55 µm of the model" in line for line in log)


def test_the_log_says_where_a_streamed_table_is(slide, model, cheap_encoder, log, tmp_path, monkeypatch):
    """Also of an object with a store: the table is in neither memory nor that store."""
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    slide.write(tmp_path / "slide.zarr")
    predict(slide, model, cheap_encoder, out=tmp_path / "out.zarr")
    (line,) = [line for line in log if "sdata.tables['deepspot_cells']" in line]
    start = f"Added {len(slide['cells']):,} cells × 8 predicted genes to sdata.tables['deepspot_cells']."
    assert line == f"{start} It is on disk: {tmp_path / 'out.zarr'}."


def test_errors_name_the_next_step(predicted, model, cheap_encoder):
    slide = predicted
    with pytest.raises(KeyError, match=r"predictions of spots in .*`ds\.tl\.evaluate_resolution\(sdata\)`"):
        ds.tl.evaluate(slide)
    with pytest.raises(
        KeyError, match=r"of 'spots'\. Call `ds\.tl\.predict\(sdata, model, shapes_key='spots'\)` .*\['cells'\] are"
    ):
        ds.pl.superresolution(slide, model.card.genes[0])
    with pytest.raises(
        ValueError, match=r"predicts cells, finer than spots.*`ds\.tl\.evaluate_resolution\(sdata, prediction_key='"
    ):
        ds.tl.evaluate(slide, prediction_key="deepspot_cells")
    del slide.tables["table_cells"]
    with pytest.raises(KeyError, match=r"tables of cells or bins .*`ds\.io\.xenium`"):
        ds.tl.evaluate_resolution(slide)
    del slide.tables["deepspot_cells"], slide.shapes["cells"]
    with pytest.raises(KeyError, match=r"polygons in .*`ds\.pp\.nuclei\(sdata\)`, or name circles of cells"):
        predict(slide, model, cheap_encoder)


def test_rows_of_nuclei_are_no_spots(slide, model, cheap_encoder, log):
    slide["P1_S1_image_nuclei"] = slide["cells"].iloc[:20].copy()
    predict(slide, model, cheap_encoder, shapes_key="P1_S1_image_nuclei", key_added="deepspot_cells")
    assert slide["deepspot_cells"].uns["spatialdata_attrs"]["instance_key"] == "instance_id"
    assert "Added 20 nuclei × 8 predicted genes to sdata.tables['deepspot_cells']." in log
    assert "Added 20 nuclei × 27 features to sdata.tables['mean_color_P1_S1_image_nuclei']." in log


def test_groups_are_scaled_to_their_parents():
    rng = np.random.default_rng(0)
    children, whole = np.log1p(rng.gamma(1, 2, (7, 3))).astype(np.float32), np.log1p(rng.gamma(1, 2, (4, 3)))
    children[:2, 0] = 0  # all cells of spot 2 have none of gene 0
    groups, before = np.array([2, 2, -1, 0, 0, 0, 3]), children.copy()
    conserve(children, whole, groups)
    np.testing.assert_array_equal(children[2], before[2])
    for number in (0, 2, 3):
        mean = np.expm1(children[groups == number]).mean(axis=0)
        np.testing.assert_allclose(mean, np.expm1(whole[number]), rtol=1e-5)
    np.testing.assert_allclose(children[:2, 0], whole[2, 0], rtol=1e-6)


def test_the_nearest_center_within_reach():
    found = nearest_within(np.array([[0.0, 0], [4, 0], [5.1, 0]]), np.array([[10.0, 0], [1, 0]]), 3.0)
    assert list(found) == [1, 1, -1]
    corner = np.array([[3.0, 3.0]])
    assert nearest_within(corner, np.zeros((1, 2)), 3.0) == [-1]
    assert nearest_within(corner, np.zeros((1, 2)), 3.0, square=True) == [0]


def test_nuclei_of_cells_are_no_default_and_can_be_named(slide, model, cheap_encoder):
    """Xenium: the nuclei have a column with their cell."""
    slide.shapes["nucleus_boundaries"] = slide["cells"].assign(parent=slide["cells"].index)
    predict(slide, model, cheap_encoder)
    predict(slide, model, cheap_encoder, shapes_key="nucleus_boundaries", key_added="nuclei")
    assert slide["nuclei"].n_obs == len(slide["cells"])


def test_nuclei_of_the_image_are_not_taken_for_spots(slide, model, cheap_encoder):
    slide.shapes["P1_S1_image_nuclei"] = slide["cells"]
    for key in ("table", "table_cells"):
        del slide.tables[key]
    for key in ("spots", "cells"):
        del slide.shapes[key]
    with pytest.raises(KeyError, match=r"The slide has no spots.*ds\.pp\.spots.*only nuclei"):
        ds.tl.predict(slide, model, encoder=cheap_encoder)
    ds.tl.predict(slide, model, encoder=cheap_encoder, shapes_key="P1_S1_image_nuclei")


def test_shapes_of_another_size_than_the_tiles_are_mentioned(slide, model, cheap_encoder, log):
    ds.tl.predict(slide, model, shapes_key="spots", encoder=cheap_encoder)
    assert not any("µm wide" in line for line in log)
    ds.tl.predict(slide, model, shapes_key="cells", encoder=cheap_encoder)
    width = np.sqrt(np.median(slide["cells"].area))  # 1 µm per pixel
    assert any(f"'cells' are {width:.3g} µm wide, and the tiles of model" in line for line in log)
    assert any("tissue in the tile around the center" in line for line in log)
    slide.shapes["regions"] = slide["cells"].iloc[:4].assign(geometry=slide["cells"].iloc[:4].buffer(150))
    ds.tl.predict(slide, model, shapes_key="regions", encoder=cheap_encoder)
    assert any("'regions' are" in line and "that of the middle of a shape" in line for line in log)


def test_cells_are_scaled_to_all_spots_also_if_their_table_was_filtered(predicted, model, cheap_encoder):
    slide, expected = predicted, predicted["deepspot_cells"].X.copy()
    ds.tl.predict(slide, model, encoder=cheap_encoder, shapes_key="spots")
    slide.tables["deepspot_spots"] = slide["deepspot_spots"][:5].copy()
    found = predict(slide, model, cheap_encoder, overwrite=True)
    np.testing.assert_allclose(found.X, expected, atol=1e-6)


def test_spots_are_checked_before_cells_are_embedded(slide, model, cheap_encoder):
    slide["spots"].loc[slide["spots"].index[0], "geometry"] = Point(-500, -500)
    before = sorted(slide.tables)
    with pytest.raises(ValueError, match="outside"):
        predict(slide, model, cheap_encoder)
    assert sorted(slide.tables) == before


def test_names_of_cells_must_be_unique(slide, model, cheap_encoder):
    del slide.tables["table_cells"]
    slide["cells"].index = ["a", "a", *map(str, range(len(slide["cells"]) - 2))]
    with pytest.raises(ValueError, match=r"names of the shapes 'cells' .* are not unique"):
        predict(slide, model, cheap_encoder)
