from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import deepspot as ds
from deepspot.models._cross_validation.factories import System

VALUES = {
    "full": [0.30, 0.40, 0.50],
    "spot": [0.20, 0.35, 0.40],
    "radius 300": [0.31, 0.39, 0.52],
    "radius 600": [0.25, 0.30, 0.50],
    "both": [0.1, 0.1, 0.1],
    "tuned": [0.35, 0.45, 0.55],
    "training mean": [0.0, 0.0, 0.0],
}
GRID = {
    "full": [{"network": {"width": 8}}],
    "spot": [{"network": {"width": 8, "context": ("spot",)}}],
    "radius 300": [{"network": {"width": 8}, "tiles": {"radius_um": 300}}],
    "radius 600": [{"network": {"width": 8}, "tiles": {"radius_um": 600}}],
    "both": [{"network": {"width": 8, "context": ("spot",)}, "tiles": {"radius_um": 300}}],
    "tuned": [{"network": {"width": 8}, "lr": 1}, {"network": {"width": 8}, "lr": 2}],
    "training mean": [{}],
}


@pytest.fixture(scope="module")
def cv():
    rows = [
        {"model": model, "null": model == "training mean", "fold": fold, "patient": fold, "slide": fold, "gene": "g"}
        | {"rank": 1, "r": r, "r_pooled": r, "r_beyond_axis": r, "r_ceiling": 1.0, "undefined": "no"}
        for model, values in VALUES.items()
        for fold, r in zip("ABC", values, strict=True)
    ]
    return ds.models.CrossValidation(
        pd.DataFrame(rows),
        pd.DataFrame(),
        GRID,
        (1,),
        patterns=pd.DataFrame(),
        seed=0,
        slides=dict(zip("ABC", "ABC", strict=True)),
    )


def test_models_that_differ_in_one_parameter(cv):
    axes = ds.pl.ablation(cv, "full")
    assert [ax.get_title() for ax in axes] == ["network.context", "tiles.radius_um", "lr"]
    context, radius, _ = axes
    labels = [label.get_text().split("\n")[0] for label in radius.get_xticklabels()]
    assert labels == ["default", "300", "600"]
    assert [label.get_text().split("\n")[1] for label in context.get_xticklabels()] == ["(reference)", "-0.083"]
    dots = [line.get_ydata() for line in radius.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, np.transpose([VALUES["full"], VALUES["radius 300"], VALUES["radius 600"]]))


def test_another_reference(cv):
    radius, context = ds.pl.ablation(cv, "radius 300")
    assert [label.get_text().split("\n")[0] for label in context.get_xticklabels()] == ["default", "spot"]
    assert [label.get_text().split("\n")[0] for label in radius.get_xticklabels()] == ["300", "default", "600"]


def test_a_parameter_that_is_chosen_in_one_model(cv):
    found = replace(cv, grid=cv.grid | {"spot": [GRID["spot"][0] | {"tiles": {"radius_um": r}} for r in (200, 400)]})
    assert [ax.get_title() for ax in ds.pl.ablation(found, "full")] == ["tiles.radius_um", "lr"]
    (ax,) = ds.pl.ablation(replace(cv, grid={name: cv.grid[name] for name in ("full", "tuned")}), "tuned")
    assert [label.get_text().split("\n")[0] for label in ax.get_xticklabels()] == ["chosen", "default"]


def test_models_of_another_kind_are_left_out(cv):
    kinds = {name: System(name, dict if name == "spot" else list) for name in cv.grid}
    axes = ds.pl.ablation(replace(cv, systems=kinds), "full")
    assert "network.context" not in [ax.get_title() for ax in axes]


def test_axes_of_the_user(cv):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 3)
    assert ds.pl.ablation(cv, "full", ax=axes) == list(axes)
    with pytest.raises(ValueError, match="`ax` and the parameters"):
        ds.pl.ablation(cv, "full", ax=axes[0])


def test_nothing_to_compare(cv):
    with pytest.raises(KeyError, match="'full'"):
        ds.pl.ablation(cv, "ful")
    with pytest.raises(KeyError, match="'training mean'"):  # null models have no parameters
        ds.pl.ablation(cv, "training mean")
    with pytest.raises(ValueError, match="No model differs from 'both' in one parameter"):
        ds.pl.ablation(replace(cv, grid={name: cv.grid[name] for name in ("full", "both")}), "both")
