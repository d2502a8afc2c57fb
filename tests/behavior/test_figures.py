"""Figures return their axes, to be changed and saved as any figure of matplotlib."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import deepspot as ds


def test_maps_and_tiles_of_a_gene(predicted, model, encoder, tmp_path):
    gene = model.card.genes[0]
    ds.tl.predict(predicted, model, encoder=encoder, resolution="subspot")
    for draw in (ds.pl.spatial, ds.pl.gallery, ds.pl.superresolution):
        axes = draw(predicted, gene, **({"prediction_key": "deepspot_spots"} if draw is ds.pl.spatial else {}))
        assert len(axes) > 1
        assert all(isinstance(ax, Axes) for ax in axes)
    axes[0].figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1_000


def test_reliability_and_training_of_a_model(model):
    for draw in (ds.pl.reliability, ds.pl.training):
        ax = draw(model)
        assert isinstance(ax, Axes)
        assert ax.get_xlabel()
        _, mine = plt.subplots()
        assert draw(model, ax=mine) is mine
