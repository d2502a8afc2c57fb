"""Ridge gate and reliability of a fit, from held-out units."""

import numpy as np
import pytest

from deepspot.models import DeepSpot, Ridge
from deepspot.models._confidence import assess
from deepspot.models._inputs import context_features

QUICK = {"network": {"width": 8, "members": 1}, "training": {"epochs": 2, "max_epochs": 2}, "seed": 0}
PATIENTS = np.arange(144) // 48


@pytest.fixture(scope="module")
def linear(bags):
    """Genes that ridge predicts, and a network after two epochs does not."""
    weights = np.random.default_rng(0).normal(size=(48, 3))
    return context_features(bags) @ weights


@pytest.fixture(scope="module")
def model(bags, linear):
    return DeepSpot(**QUICK).fit(bags, linear, patients=PATIENTS)


def test_ridge_predicts_if_it_is_better(model, bags, linear):
    gate = model.card.gate
    assert gate.verdict == "ridge"
    assert (gate.unit, gate.n) == ("patients", 3)
    assert gate.high < 0
    assert "ridge predicts" in repr(model)
    assert "+" in repr(model) or "-" in repr(model)
    ridge = Ridge().fit(bags, linear, patients=PATIENTS)
    np.testing.assert_allclose(model.predict(bags), ridge.predict(bags), atol=1e-5)
    assert model.members == []


def test_expected_r_is_that_of_the_final_predictor(model):
    assert np.mean(model.card.reliability.r) == pytest.approx(model.card.gate.r_used, abs=1e-3)
    assert model.card.gate.r_used == pytest.approx(model.card.gate.r_ridge)


def test_no_fit_uses_its_held_out_unit(bags, targets, monkeypatch):
    seen = []

    def spy(bags, targets, recipe, *, rows, validation, slides, weights):
        seen.append((set(PATIENTS[rows]), None if validation is None else set(PATIENTS[validation])))
        return train(bags, targets, recipe, rows=rows, validation=validation, slides=slides, weights=weights)

    train = assess.train_members
    monkeypatch.setattr(assess, "train_members", spy)
    DeepSpot(**QUICK).fit(bags, targets, patients=PATIENTS)
    assert sorted(sorted({0, 1, 2} - learned) for learned, _ in seen) == [[0], [1], [2]]
    assert all(validation < learned for learned, validation in seen)


def test_a_preset_that_reproduces_others_keeps_its_network(bags, linear):
    config = {**QUICK, "training": {**QUICK["training"], "gate": "record"}}
    model = DeepSpot(**config).fit(bags, linear, patients=PATIENTS)
    assert model.card.gate.verdict == "ridge"
    assert model.weight == 1
    assert not hasattr(model.ridge, "coef")
    alone = DeepSpot(**{**QUICK, "training": {**QUICK["training"], "gate": "off"}}).fit(bags, linear, patients=PATIENTS)
    np.testing.assert_array_equal(model.predict(bags), alone.predict(bags))


def test_with_one_patient_slides_are_held_out_and_with_one_slide_its_parts(bags, targets):
    slides = DeepSpot(**QUICK).fit(bags, targets, slides=PATIENTS)
    assert slides.card.gate.unit == "slides"
    assert "slides of one patient" in repr(slides)
    blocks = DeepSpot(**QUICK).fit(bags, targets)
    assert blocks.card.gate.unit == "blocks"
    assert blocks.card.gate.n == 5


def test_a_gene_of_the_held_out_patient_alone_does_not_count(bags, linear):
    holed = linear.copy()
    holed[PATIENTS > 0, 2] = np.nan
    model = DeepSpot(**QUICK).fit(bags, holed, patients=PATIENTS)
    assert model.card.reliability.r[2] is None
    assert model.card.reliability.r[0] > 0.5
