"""Real sections and the real encoder. One patient, so this shows only that training works."""

import anndata as ad
import numpy as np
import pytest

import deepspot as ds

pytestmark = pytest.mark.slow

# Without sub-spots there is one tile per spot to embed instead of ten.
CONTEXT = {"context": ("spot", "neighbors"), "members": 1}


@pytest.fixture(scope="module")
def sections(data):
    return {name: ds.datasets.her2st(name) for name in ("C3", "C4", "C5")}


@pytest.fixture(scope="module")
def predicted(sections):
    """C5, predicted by a model trained on two other sections of the patient."""
    training = {name: sections[name] for name in ("C3", "C4")}
    model = ds.models.train(training, patient_key="patient", genes=100, min_detected=0.3, network=CONTEXT, seed=0)
    ds.tl.predict(sections["C5"], model)
    ds.tl.evaluate(sections["C5"])
    return sections["C5"].tables["deepspot_spots"]


def test_a_held_out_section_is_predicted(predicted):
    r = predicted.var["pearson"]
    assert r.mean() > 0.2
    assert (r > 0).mean() > 0.95


def test_shuffled_spots_are_not_predicted(sections, predicted):
    agreement = predicted.var["pearson"].copy()
    right = predicted.X.copy()
    try:
        predicted.X = np.random.default_rng(0).permutation(right)
        ds.tl.evaluate(sections["C5"], overwrite=True)
        assert abs(predicted.var["pearson"].mean()) < 0.08
    finally:
        predicted.X, predicted.var["pearson"] = right, agreement


def test_tiles_are_as_wide_as_the_spots_of_this_technology(sections, predicted):
    assert predicted.n_vars == 100
    assert sections["C3"].tables["lite0_stats_spots"].uns["deepspot"]["geometry"]["tile_um"] == 100.0


def test_the_embedded_model_predicts_mouse_brain_but_warns(data, log):
    folder = data / "visium_mouse_brain_crop"
    adata = ad.read_h5ad(folder / "test_data.h5ad")
    sdata = ds.io.from_anndata(adata, folder / "test_img.jpg", pitch_um=100)
    sdata.shapes["spots"] = sdata.shapes["spots"].iloc[:6]
    ds.tl.predict(sdata)
    assert any("HER2-positive breast cancer of two patients" in message for message in log)
    table = sdata.tables["deepspot_spots"]
    assert table.shape == (6, 1000)
    # The model's 100 µm tiles, although these spots are 55 µm wide.
    assert sdata.tables["lite0_stats_spots"].uns["deepspot"]["geometry"]["tile_um"] == 100.0
    assert table.X.min() >= 0
    assert np.isfinite(table.X).all()
