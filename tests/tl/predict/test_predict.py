from copy import copy

import numpy as np
import pytest
from spatialdata import deepcopy, read_zarr

import deepspot as ds
from deepspot._features.feature_table import bags_of
from deepspot._stats.metrics import pearson
from deepspot.models._inputs import Scaler


@pytest.fixture
def predict(cheap_encoder):
    def run(sdata, model, **options):
        ds.tl.predict(sdata, model, encoder=cheap_encoder, **options)

    return run


def test_the_table_is_as_documented(slide, quick_model, predict):
    predict(slide, quick_model, unclipped=True)
    table = slide.tables["deepspot_spots"]
    assert table.shape == (30, 10)
    assert list(table.var_names) == quick_model.card.genes
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.X, np.clip(table.layers["unclipped"], 0, np.float32(np.log1p(10_000))))
    assert table.uns["log1p"] == {}
    assert table.uns["deepspot"]["scale"] == "log1p of counts per 10,000"
    assert list(table.obs["spot_id"]) == list(slide.shapes["spots"].index)
    np.testing.assert_array_equal(table.obsm["spatial"], slide.tables["mean_color_spots"].obsm["spatial"])


def test_it_equals_the_prediction_of_the_model(slide, quick_model, predict):
    predict(slide, quick_model, unclipped=True)
    bags = bags_of(slide, "mean_color_spots", "spots", quick_model.card.geometry.neighbors)
    np.testing.assert_array_equal(slide.tables["deepspot_spots"].layers["unclipped"], quick_model.predict(bags))


def shifted(model, by):
    """The same model with all predictions higher by a number."""
    other = copy(model)
    other.scaler = Scaler(model.scaler.mean + by, model.scaler.std)
    other.ridge = copy(model.ridge)
    if other.weight < 1:
        other.ridge.scaler = other.scaler
    return other


def test_negative_predictions_become_zero(slide, quick_model, predict):
    predict(slide, shifted(quick_model, -100))
    assert slide.tables["deepspot_spots"].X.max() == 0
    assert "unclipped" not in slide.tables["deepspot_spots"].layers


@pytest.mark.parametrize("options", [{}, {"resolution": "subspot"}, {"resolution": "grid"}, {"out": "out.zarr"}])
def test_impossible_predictions_become_the_highest_possible_one(options, slide, quick_model, predict, log, tmp_path):
    if "out" in options:
        options = {"out": tmp_path / options["out"]}
    predict(slide, shifted(quick_model, 100), **options)
    (key,) = [name for name in slide.tables if name.startswith("deepspot")]
    X = np.asarray(slide.tables[key].X)
    np.testing.assert_allclose(X, np.log1p(1e4), rtol=1e-6)
    said = [message for message in log if "above that of a gene with all counts of a spot" in message]
    size = X.size // 9 if options.get("resolution") == "subspot" else X.size  # of their spots
    assert [message.split(" predicted values")[0] for message in said] == [f"{size:,} of {size:,}"]


def test_measured_genes_are_neither_used_nor_changed(slide, quick_model, predict):
    before = slide.tables["table"].X.copy()
    predict(slide, quick_model)
    expected = slide.tables["deepspot_spots"].X
    assert (before != slide.tables["table"].X).nnz == 0
    bare = deepcopy(slide)
    for name in list(bare.tables):
        del bare.tables[name]
    predict(bare, quick_model)
    np.testing.assert_array_equal(bare.tables["deepspot_spots"].X, expected)


def test_another_magnification_is_resampled_to_the_same_tissue(quick_model, predict):
    fine = ds.datasets.toy(1, 1, n_rows=5, n_cols=6, mpp=0.5)["P1_S1"]
    pixels = fine.images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    halved = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    table = fine.tables["table"].copy()
    table.obsm["spatial"] = table.obsm["spatial"] / 2
    coarse = ds.io.from_anndata(table, halved, mpp=1.0, diameter_um=55)
    for sdata in (fine, coarse):
        predict(sdata, quick_model, unclipped=True)
    a, b = (sdata.tables["deepspot_spots"].layers["unclipped"] for sdata in (fine, coarse))
    assert pearson(a, b).min() > 0.98
    np.testing.assert_allclose(a.mean(), b.mean(), rtol=0.02)


def test_tile_size_comes_from_the_model_not_from_the_spots(slide, quick_model, predict):
    slide.shapes["spots"]["diameter_um"] = 100.0
    predict(slide, quick_model)
    assert slide.tables["mean_color_spots"].uns["deepspot"]["geometry"]["tile_um"] == 55.0


def test_features_of_another_geometry_are_not_used(slide, quick_model, predict, cheap_encoder):
    ds.pp.embed(slide, cheap_encoder, tile_um=80)
    predict(slide, quick_model)
    names = sorted(name for name in slide.tables if name.startswith("mean_color"))
    sides = [slide.tables[name].uns["deepspot"]["geometry"]["tile_um"] for name in names]
    assert sides == [80.0, 55.0]
    assert slide.tables["deepspot_spots"].uns["deepspot"]["features"] == names[1]


def test_a_second_prediction_needs_another_name_or_overwrite(slide, quick_model, predict):
    predict(slide, quick_model)
    with pytest.raises(ValueError, match="overwrite=True"):
        predict(slide, quick_model)
    predict(slide, quick_model, overwrite=True)
    predict(slide, quick_model, key_added="again")
    np.testing.assert_array_equal(slide.tables["again"].X, slide.tables["deepspot_spots"].X)


def test_too_coarse_an_image_is_refused(slide, quick_model, predict):
    ds.pp.set_scale(slide, mpp=4.0)
    with pytest.raises(ValueError, match="full-resolution"):
        predict(slide, quick_model)
    assert list(slide.tables) == ["table"]


def test_another_encoder_is_refused(slide, quick_model, mean_color):
    with pytest.raises(ValueError, match="other weights"):
        ds.tl.predict(slide, quick_model, encoder=mean_color(fingerprint="2"))


def test_unfitted_models_and_models_of_arrays_are_refused(slide, quick_model):
    from copy import copy

    bare = copy(quick_model)
    bare.card = quick_model.card.model_copy(update={"geometry": None})
    with pytest.raises(ValueError, match="fitted to arrays"):
        ds.tl.predict(slide, bare)
    with pytest.raises(ValueError, match="not fitted"):
        ds.tl.predict(slide, ds.models.DeepSpot())
    with pytest.raises(FileNotFoundError, match="no_such_model"):
        ds.tl.predict(slide, "no_such_model")


def test_a_table_that_would_not_fit_is_refused_before_the_work(slide, quick_model, cheap_encoder, monkeypatch):
    monkeypatch.setattr(ds.settings, "max_table_gb", 1e-6)
    with pytest.raises(ValueError, match="max_table_gb"):
        ds.tl.predict(slide, quick_model, encoder=cheap_encoder)
    assert cheap_encoder.n_tiles == 0


def test_several_candidates_are_listed(slide, quick_model, predict):
    slide.shapes["cells"] = slide.shapes["spots"].copy()
    with pytest.raises(ValueError, match=r"\['spots', 'cells'\].*shapes_key="):
        predict(slide, quick_model)
    predict(slide, quick_model, shapes_key="cells")
    assert "deepspot_cells" in slide.tables


def test_write_read_predict_write_again(slide, quick_model, predict, tmp_path):
    slide.write(tmp_path / "a.zarr")
    backed = read_zarr(tmp_path / "a.zarr")
    predict(backed, quick_model)
    for name in ("mean_color_spots", "deepspot_spots"):
        backed.write_element(name)
    again = read_zarr(tmp_path / "a.zarr")
    np.testing.assert_array_equal(again.tables["deepspot_spots"].X, backed.tables["deepspot_spots"].X)
    predict(again, quick_model, overwrite=True)
    again.write(tmp_path / "b.zarr")
    assert sorted(read_zarr(tmp_path / "b.zarr").tables) == ["deepspot_spots", "mean_color_spots", "table"]
