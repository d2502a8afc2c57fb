import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import deepspot as ds

# Standard deviation of the scores of each pathway, so the order of the figure is known.
SPREAD = {"WNT": 1.0, "MAPK": 8.0, "p53": 0.5, "Hypoxia": 4.0, "JAK-STAT": 3.0, "EGFR": 6.0, "VEGF": 2.0}
FALLING = ["MAPK", "EGFR", "Hypoxia", "JAK-STAT", "VEGF", "WNT"]


@pytest.fixture
def scored(slide, add_table):
    n = len(slide.shapes["spots"])
    add_table(slide, np.ones((n, 1)), ["A"])
    table = slide.tables["deepspot_spots"]
    z = np.linspace(-1, 1, n)
    scores = {name: 10 + sd * np.roll(z, 7 * i) for i, (name, sd) in enumerate(SPREAD.items())}
    table.obsm["score_mlm"] = pd.DataFrame(scores, index=table.obs_names)
    return slide


def drawn(ax):
    (collection,) = ax.collections
    return collection


def test_draws_those_that_vary_most(scored):
    axes = ds.pl.pathways(scored)
    assert [ax.get_title() for ax in axes] == FALLING
    scores = scored.tables["deepspot_spots"].obsm["score_mlm"]
    for ax in axes:
        score = scores[ax.get_title()]
        np.testing.assert_allclose(drawn(ax).get_array(), score - score.mean(), atol=1e-9)
    assert [ax.get_title() for ax in ds.pl.pathways(scored, n_top=2)] == FALLING[:2]


def test_a_table_of_one_spot_raises(scored):
    scored.tables["deepspot_spots"] = scored.tables["deepspot_spots"][:1].copy()
    with pytest.raises(ValueError, match=r"two scores to compare.*`pathways=`"):
        ds.pl.pathways(scored)


def test_all_share_one_scale_around_zero(scored):
    axes = ds.pl.pathways(scored, pathways=["p53", "MAPK"])
    assert [ax.get_title() for ax in axes] == ["p53", "MAPK"]
    scores = scored.tables["deepspot_spots"].obsm["score_mlm"][["p53", "MAPK"]].to_numpy()
    limit = np.quantile(np.abs(scores - scores.mean(axis=0)), 0.99)
    for ax in axes:
        np.testing.assert_allclose(drawn(ax).get_clim(), (-limit, limit))
    assert len(axes[0].figure.axes) == 3  # one color bar
    label = axes[0].figure.axes[-1].get_ylabel()
    assert label == "t-value of decoupler's mlm, less its mean\nabove (red) or below the mean of the slide"
    figure = axes[0].figure
    figure.canvas.draw()
    shown = figure.axes[-1].yaxis.label.get_window_extent()
    assert shown.y0 >= 0
    assert shown.y1 <= figure.bbox.height


def test_draws_the_scores_themselves_if_requested(scored):
    axes = ds.pl.pathways(scored, pathways=["p53", "MAPK"], relative=False)
    scores = scored.tables["deepspot_spots"].obsm["score_mlm"]
    np.testing.assert_allclose(drawn(axes[1]).get_array(), scores["MAPK"])
    assert drawn(axes[1]).get_clim()[0] == -drawn(axes[1]).get_clim()[1] < -10  # white is at 0
    assert "mean" not in axes[0].figure.axes[-1].get_ylabel()


def test_scores_of_nothing_have_a_scale_all_the_same(scored):
    scored.tables["deepspot_spots"].obsm["score_mlm"] *= 0
    assert drawn(ds.pl.pathways(scored, pathways="WNT")[0]).get_clim() == (-1, 1)


def test_rows_are_matched_by_instance(scored):
    before = drawn(ds.pl.pathways(scored, pathways="WNT")[0]).get_array().copy()
    order = np.random.default_rng(1).permutation(len(before))
    scored.tables["deepspot_spots"] = scored.tables["deepspot_spots"][order].copy()
    np.testing.assert_allclose(drawn(ds.pl.pathways(scored, pathways="WNT")[0]).get_array(), before)


def test_takes_scores_under_another_key_and_given_axes(scored):
    table = scored.tables["deepspot_spots"]
    table.obsm["score_ulm"] = table.obsm["score_mlm"] * 2
    _, grid = plt.subplots(1, 2)
    axes = ds.pl.pathways(scored, pathways=["WNT", "VEGF"], score_key="score_ulm", ax=grid, relative=False)
    assert axes == list(grid)
    np.testing.assert_allclose(drawn(axes[0]).get_array(), table.obsm["score_mlm"]["WNT"] * 2)
    assert axes[0].figure.axes[-1].get_ylabel().startswith("score_ulm\n")
    with pytest.raises(ValueError, match="`ax` and the panels"):
        ds.pl.pathways(scored, ax=grid)


def test_missing_results_raise(scored):
    with pytest.raises(KeyError, match=r"'NFkB'.*obsm\['score_mlm'\]"):
        ds.pl.pathways(scored, pathways="NFkB")
    with pytest.raises(ValueError, match="`pathways` is empty"):
        ds.pl.pathways(scored, pathways=[])
    with pytest.raises(ValueError, match="n_top"):
        ds.pl.pathways(scored, n_top=0)
    with pytest.raises(KeyError, match=r"Table 'table'.*ds\.tl\.pathways"):
        ds.pl.pathways(scored, table_key="table")
    scored.tables["again"] = scored.tables["deepspot_spots"].copy()
    with pytest.raises(ValueError, match="table_key"):
        ds.pl.pathways(scored)
    assert len(ds.pl.pathways(scored, table_key="again")) == 6


def test_does_not_change_the_object(scored):
    before = scored.tables["deepspot_spots"].obsm["score_mlm"].copy()
    ds.pl.pathways(scored)
    pd.testing.assert_frame_equal(before, scored.tables["deepspot_spots"].obsm["score_mlm"])
