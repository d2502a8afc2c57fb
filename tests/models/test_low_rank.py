"""Projection of predictions on the leading components of the training targets."""

import numpy as np
import pytest

import deepspot as ds
from deepspot.models import _low_rank

PATIENTS = np.arange(144) // 48
NETWORK = {"width": 8, "members": 2}


def fit(bags, targets, **training):
    model = ds.models.DeepSpot(
        network=NETWORK, training={"epochs": 2, "max_epochs": 2, "rank": None} | training, seed=0
    )
    return model.fit(bags, targets, patients=PATIENTS)


def n_patterns(model, bags):
    genes = (model.predict(bags) - model.scaler.mean) / model.scaler.std
    return np.linalg.matrix_rank(genes, tol=1e-3 * np.linalg.norm(genes))


@pytest.fixture(scope="module")
def two_patterns(bags):
    """Thirty noisy genes that are mixtures of two dimensions of the embedding."""
    rng = np.random.default_rng(0)
    return bags.spot[:, :2] @ rng.normal(size=(2, 30)) + 3 * rng.normal(size=(144, 30)) + 5


@pytest.mark.parametrize("gate", ["select", "record", "off"])
def test_predictions_have_the_given_rank(bags, targets, gate):
    model = fit(bags, targets, rank=2, gate=gate)
    assert n_patterns(model, bags) == 2
    assert gate == "off" or model.card.gate.rank == 2
    assert n_patterns(fit(bags, targets, gate=gate), bags) == 6


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("standardize", [True, False])
def test_each_predictor_is_projected_alike(bags, targets, weight, standardize, monkeypatch):
    from deepspot.models._confidence import gate

    monkeypatch.setattr(gate, "SHARES", dict.fromkeys(gate.SHARES, weight))
    uneven = targets * [1, 10, 1, 1, 0.1, 1]
    full, low = (fit(bags, uneven, rank=rank, standardize=standardize) for rank in (None, 2))
    assert low.weight == weight
    mean, std = uneven.mean(axis=0), uneven.std(axis=0)
    directions = np.linalg.svd((uneven - mean) / std, full_matrices=False)[2][:2].T
    expected = (full.predict(bags) - mean) / std @ directions @ directions.T * std + mean
    np.testing.assert_allclose(low.predict(bags), expected, rtol=1e-3, atol=1e-3 * std.max())


def test_the_rank_is_chosen_on_held_out_patients(bags, two_patterns, monkeypatch):
    monkeypatch.setattr(_low_rank, "RANKS", (1, 2, 20))
    model = fit(bags, two_patterns, rank="select")
    assert model.card.gate.rank == 2
    assert model.card.gate.r_used > fit(bags, two_patterns).card.gate.r_used
    assert n_patterns(model, bags) == 2


def test_more_components_than_genes_change_nothing(bags, targets):
    np.testing.assert_array_equal(fit(bags, targets, rank=6).predict(bags), fit(bags, targets).predict(bags))
    assert fit(bags, targets, rank="select").card.gate.rank is None


def test_without_the_gate_nothing_is_selected(bags, two_patterns, monkeypatch):
    monkeypatch.setattr(_low_rank, "RANKS", (2,))
    expected = fit(bags, two_patterns, gate="off").predict(bags)
    np.testing.assert_array_equal(fit(bags, two_patterns, gate="off", rank="select").predict(bags), expected)


def test_unmeasured_genes(bags, targets):
    holed = targets.copy()
    holed[PATIENTS == 1, 3] = np.nan
    model = fit(bags, holed, rank=2)
    assert np.isfinite(model.predict(bags)).all()
    assert n_patterns(model, bags) == 2


def test_saved_and_loaded(bags, two_patterns, tmp_path):
    model = fit(bags, two_patterns, rank=3)
    model.save(tmp_path / "model")
    loaded = ds.models.load(tmp_path / "model")
    assert loaded.card.gate.rank == 3
    np.testing.assert_array_equal(loaded.predict(bags), model.predict(bags))


@pytest.mark.parametrize("rank", [0, -1, "all", 2.5, True])
def test_wrong_rank(rank):
    with pytest.raises(ValueError, match=r"`training` does not fit \(rank"):
        ds.models.DeepSpot(training={"rank": rank})
