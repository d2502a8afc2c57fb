import numpy as np
import pytest

import deepspot as ds
from deepspot.models import ModelCard, NetworkConfig, TrainingConfig
from deepspot.models._confidence.reliability import Reliability


def model_with(reliability, genes):
    model = ds.models.DeepSpot()
    model.card = ModelCard(
        genes=genes,
        dim=3,
        network=NetworkConfig(),
        training=TrainingConfig(),
        preset="default",
        seed=0,
        reliability=reliability,
    )
    return model


@pytest.fixture
def model():
    r = [0.1, 0.6, None, -0.2, 0.4]
    low, high = [-0.1, 0.4, None, -0.5, None], [0.3, 0.8, None, 0.1, None]
    found = Reliability(unit="patients", n=4, r=r, r_low=low, r_high=high, r_n=[4, 4, 0, 4, 1])
    return model_with(found, ["A", "B", "C", "D", "E"])


def test_genes_are_ranked_and_those_with_intervals_above_0_are_blue(model):
    ax = ds.pl.reliability(model)
    sure, unsure, without = ax.get_lines()[:3]
    np.testing.assert_allclose(sure.get_ydata(), [0.6])
    np.testing.assert_allclose(unsure.get_ydata(), [0.1, -0.2])
    np.testing.assert_allclose(without.get_ydata(), [0.4])
    assert "4 held-out patients" in ax.get_title()
    assert "1 genes: interval above 0" in [text.get_text() for text in ax.get_legend().get_texts()]


def names(ax):
    (upper,) = ax.child_axes
    return [label.get_text() for label in upper.get_xticklabels()]


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("wanted", [None, [f"GENE{number}" for number in range(0, 24, 2)]])
def test_names_legend_and_limits_do_not_collide(bars, wanted):
    r = np.linspace(0.9, -0.4, 400)
    low, high = (np.clip(r - 0.8, -1, 1), np.clip(r + 0.8, -1, 1)) if bars else ([None] * 400, [None] * 400)
    found = Reliability(unit="patients", n=4, r=list(r), r_low=list(low), r_high=list(high), r_n=[4] * 400)
    ax = ds.pl.reliability(model_with(found, [f"GENE{number}" for number in range(400)]), genes=wanted)
    ax.figure.canvas.draw()
    (upper,) = ax.child_axes
    labels = [label.get_window_extent() for label in upper.get_xticklabels()]
    assert len(labels) == (6 if wanted is None else 12)
    boxes = [*labels, ax.title.get_window_extent(), ax.get_legend().get_window_extent()]
    boxes += [ax.xaxis.label.get_window_extent(), ax.get_window_extent()]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    low, high = ax.get_ylim()
    assert low < max(-1, min(r) - 0.8 * bars)
    assert high > min(1, max(r) + 0.8 * bars)


def test_wanted_genes_are_named(model):
    ax = ds.pl.reliability(model, genes=["E"])
    assert names(ax) == ["E"]
    with pytest.raises(KeyError, match="Available keys"):
        ds.pl.reliability(model, genes=["XYZ"])


def test_slides_of_one_patient_are_no_evidence_of_the_next(model):
    found = model.card.reliability.model_copy(update={"unit": "slides"})
    assert "expect less on another patient" in ds.pl.reliability(model_with(found, list("ABCDE"))).get_title()


def test_unknown_reliability_raises():
    with pytest.raises(ValueError, match="not fitted"):
        ds.pl.reliability(ds.models.DeepSpot())
    with pytest.raises(ValueError, match="reliability of the model is unknown"):
        ds.pl.reliability(model_with(None, ["A"]))
