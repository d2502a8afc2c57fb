"""Truth: real sections, real encoder. One patient, so this shows that the code learns, and no more."""

import numpy as np
import pytest

import deepspot as ds
from deepspot._stats.metrics import pearson
from deepspot.tl._train.slides import measure
from deepspot.tl._train.targets import targets

# Without sub-spots there is one tile per spot to embed instead of ten.
CONTEXT = {"context": ("spot", "neighbors"), "members": 1}


@pytest.fixture(scope="module")
def sections(data):
    return {name: ds.datasets.her2st(name) for name in ("C3", "C4", "C5")}


@pytest.fixture(scope="module")
def agreement(sections):
    test = sections["C5"]
    training = {name: sections[name] for name in ("C3", "C4")}
    model = ds.tl.train(training, patient_key="patient", genes=100, min_detected=0.3, network=CONTEXT, seed=0)
    ds.tl.predict(test, model, unclipped=True)
    truth = measure("C5", test, "spots", "table", patient="C", layer=None)
    predicted = test.tables["deepspot_spots"].layers["unclipped"][truth.rows]
    return predicted, targets([truth], model.card.genes)[0][0]


def test_an_unseen_section_is_predicted(agreement):
    r = pearson(*agreement)
    assert r.mean() > 0.2
    assert (r > 0).mean() > 0.95


def test_shuffled_spots_are_not(agreement):
    predicted, measured = agreement
    shuffled = np.random.default_rng(0).permutation(predicted)
    assert abs(pearson(shuffled, measured).mean()) < 0.08


def test_tiles_are_as_wide_as_the_spots_of_this_technology(sections, agreement):
    assert sections["C5"].tables["deepspot_spots"].n_vars == 100
    assert sections["C3"].tables["lite0_stats_spots"].uns["deepspot"]["geometry"]["tile_um"] == 100.0


def test_the_embedded_model_predicts_mouse_brain_but_warns(data, log):
    import anndata as ad

    folder = data / "visium_mouse_brain_crop"
    adata = ad.read_h5ad(folder / "test_data.h5ad")
    sdata = ds.io.from_anndata(adata, folder / "test_img.jpg", spot_pitch_um=100)
    sdata.shapes["spots"] = sdata.shapes["spots"].iloc[:6]
    ds.tl.predict(sdata)
    assert any("HER2-positive breast cancer of two patients" in message for message in log)
    table = sdata.tables["deepspot_spots"]
    assert table.shape == (6, 1000)
    # The model's 100 µm tiles, although these spots are 55 µm wide.
    assert sdata.tables["lite0_stats_spots"].uns["deepspot"]["geometry"]["tile_um"] == 100.0
    assert table.X.min() >= 0
    assert np.isfinite(table.X).all()
