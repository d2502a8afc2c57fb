import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu

import deepspot as ds
from deepspot.pl._map.values import measured_values


@pytest.fixture
def regional(slide, add_table):
    """30 spots in three regions: "UP" is high in one, "FLAT" is noise."""
    rng = np.random.default_rng(0)
    names = np.repeat(["tumor", "stroma", "fat"], 10)
    values = np.column_stack([(names == "tumor") + rng.normal(0, 0.1, 30), rng.normal(0, 1, 30)])
    add_table(slide, values, ["UP", "FLAT"])
    slide.tables["deepspot_spots"].obs["annotation"] = pd.Categorical(names, ["tumor", "stroma", "fat"])
    return slide


def stars(ax):
    return [text.get_text() for text in ax.texts]


def names(ax):
    return [label.get_text().split("\n")[0] for label in ax.get_xticklabels()]


def test_stars_are_where_regions_differ(regional):
    ax = ds.pl.regions(regional, "UP")
    assert names(ax) == ["tumor", "stroma", "fat"]
    assert ax.get_xticklabels()[0].get_text() == "tumor\nn = 10"
    assert sorted(stars(ax)) == ["***", "***", "ns"]
    assert stars(ds.pl.regions(regional, "FLAT")) == ["ns"] * 3
    assert ax.get_title() == "UP predicted"
    assert "not independent samples" in ax.get_xlabel()


def test_dots_are_the_spots(regional):
    ax = ds.pl.regions(regional, "UP", groups=["fat", "tumor"])
    assert names(ax) == ["fat", "tumor"]
    dots = [c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets()) == 10]
    values = regional.tables["deepspot_spots"].X[:, 0]
    np.testing.assert_allclose(dots[0], values[20:], rtol=1e-6)
    np.testing.assert_allclose(dots[1], values[:10], rtol=1e-6)


def test_p_is_that_of_scipy_adjusted_for_the_pairs(regional):
    table = regional.tables["deepspot_spots"]
    table.X = table.X.copy()
    table.X[:, 1] = np.r_[np.arange(10), np.arange(10) + 3.4, np.arange(10) + 0.1]
    a, b, c = np.split(table.X[:, 1], 3)
    p = [mannwhitneyu(a, b).pvalue, mannwhitneyu(a, c).pvalue, mannwhitneyu(b, c).pvalue]
    assert p[0] < 0.05 < min(3 * p[0], p[1])
    assert stars(ds.pl.regions(regional, "FLAT")) == ["ns"] * 3
    assert stars(ds.pl.regions(regional, "FLAT", pairs=[("tumor", "stroma")])) == ["*"]
    assert stars(ds.pl.regions(regional, "FLAT", pairs=[])) == []


def test_many_regions_are_compared_with_the_highest(regional):
    table = regional.tables["deepspot_spots"]
    table.obs["block"] = pd.Categorical(np.repeat(list("abcde"), 6))
    table.X = np.column_stack([np.repeat([0, 1, 5, 2, 3], 6), np.zeros(30)]).astype(np.float32)
    ax = ds.pl.regions(regional, "UP", groupby="block")
    assert len(stars(ax)) == 4
    assert all(2 in np.round(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 4)


def test_a_gene_that_does_not_vary_is_drawn_without_stars(regional):
    regional.tables["deepspot_spots"].X = np.ones((30, 2), np.float32)
    ax = ds.pl.regions(regional, "UP")
    assert stars(ax) == ["ns"] * 3
    ax.figure.canvas.draw()


def test_measured_counts_are_put_on_the_log_scale(regional):
    regional.shapes["spots"]["annotation"] = pd.Categorical(np.repeat(["left", "right"], 15))
    gene = regional.tables["table"].var_names[0]
    ax = ds.pl.regions(regional, gene, table_key="table")
    assert names(ax) == ["left", "right"]  # of the shapes, as the table has no such column
    assert ax.get_title() == f"{gene} measured"
    expected = measured_values(regional, "spots", "table", [gene])[:, 0]
    dots = [c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets()) == 15]
    np.testing.assert_allclose(np.concatenate(dots), expected)


def test_layers_of_a_corrected_table(regional, add_table):
    layers = {"measured": np.full((30, 1), 2.0), "change": np.full((30, 1), -1.0)}
    add_table(regional, np.ones((30, 1)), ["UP"], "table_corrected", kind="corrected", layers=layers)
    regional.tables["table_corrected"].obs["annotation"] = (
        regional.tables["deepspot_spots"].obs["annotation"].to_numpy()
    )
    titles = [
        ds.pl.regions(regional, "UP", table_key="table_corrected", layer=layer).get_title()
        for layer in (None, "measured", "change")
    ]
    assert titles == ["UP corrected", "UP measured", "UP change"]
    with pytest.raises(ValueError, match="table_key"):
        ds.pl.regions(regional, "UP")


def test_spots_without_a_region_and_small_regions_are_left_out(regional):
    table = regional.tables["deepspot_spots"]
    labels = table.obs["annotation"].astype(object)
    labels.iloc[:5], labels.iloc[22:] = None, None
    table.obs["annotation"] = pd.Categorical(labels, ["tumor", "stroma", "fat"])
    ax = ds.pl.regions(regional, "UP")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["tumor\nn = 5", "stroma\nn = 10"]
    with pytest.raises(ValueError, match="'fat': 2"):
        ds.pl.regions(regional, "UP", groups=["tumor", "fat"])


def test_block_test_is_written_under_the_figure(regional):
    uns = regional.tables["deepspot_spots"].uns
    uns["markers"] = pd.DataFrame(
        {"group": ["tumor", "fat", "tumor"], "gene": ["UP", "UP", "FLAT"], "p_block_adj": [0.031, np.nan, 0.5]}
    )
    uns["deepspot_markers"] = {"groupby": "annotation"}
    assert "adjusted p tumor 0.031" in ds.pl.regions(regional, "UP").get_xlabel()
    uns["deepspot_markers"] = {"groupby": "leiden"}
    assert "0.031" not in ds.pl.regions(regional, "UP").get_xlabel()


def test_draws_into_given_axes_and_does_not_change_the_object(regional):
    before = regional.tables["deepspot_spots"].X.copy()
    _, ax = plt.subplots()
    assert ds.pl.regions(regional, "UP", ax=ax) is ax
    np.testing.assert_array_equal(regional.tables["deepspot_spots"].X, before)


@pytest.mark.parametrize(
    ("gene", "options", "error", "message"),
    [
        ("GENE", {}, KeyError, "'GENE'"),
        ("UP", {"groupby": "regions"}, KeyError, "annotation"),
        ("UP", {"groups": ["tumor", "lumen"]}, KeyError, "'lumen'"),
        ("UP", {"groups": ["tumor"]}, ValueError, "at least two"),
        ("UP", {"pairs": [("tumor", "lumen")]}, KeyError, "'lumen'"),
        ("UP", {"pairs": [("tumor", "tumor")]}, ValueError, "two different"),
        ("UP", {"layer": "raw"}, KeyError, "'raw'"),
        ("UP", {"table_key": "tables"}, KeyError, "'tables'"),
    ],
)
def test_invalid_input_raises(regional, gene, options, error, message):
    with pytest.raises(error, match=message):
        ds.pl.regions(regional, gene, **options)


@pytest.fixture
def several(add_table):
    """Six slides of different level and spread; "UP" is high in the tumor."""
    slides = ds.datasets.toy(6, 1, n_rows=5, n_cols=6)
    rng = np.random.default_rng(0)
    names = np.repeat(["tumor", "stroma"], 15)
    for number, sdata in enumerate(slides.values()):
        values = (names == "tumor") + rng.normal(0, 0.3, 30)
        add_table(sdata, (number + (number + 1) * values)[:, None], ["UP"])
        sdata.tables["deepspot_spots"].obs["annotation"] = pd.Categorical(names, ["tumor", "stroma"])
    return slides


def test_several_slides_are_standardized_and_tested_by_slide(several):
    ax = ds.pl.regions(several, "UP")
    assert ax.get_title() == "UP predicted, 6 slides"
    assert ax.get_ylabel() == "standard deviations from the mean of the slide"
    assert ax.get_xticklabels()[0].get_text() == "tumor\nn = 90 spots\n6 slides"
    assert stars(ax) == ["*"]  # p = 2 / 2**6 over six slides, not over 180 spots
    means = []
    for sdata in several.values():
        values = sdata["deepspot_spots"].X[:, 0]
        z = (values - values.mean()) / values.std()
        means.append([z[:15].mean(), z[15:].mean()])
    dots = [c.get_offsets()[:, 1] for c in ax.collections if len(c.get_offsets()) == 6]
    np.testing.assert_allclose(np.sort(np.array(dots).T, axis=0), np.sort(means, axis=0), rtol=1e-5)
    assert "Significance over slides" in ax.get_xlabel()


def test_fewer_than_six_slides_are_not_significant(several):
    few = dict(list(several.items())[:5])
    ax = ds.pl.regions(few, "UP")
    assert stars(ax) == ["ns"]
    assert "At least 6 slides are needed" in ax.get_xlabel()


def test_a_gene_that_is_constant_on_a_slide(several):
    several["P3_S1"]["deepspot_spots"].X[:] = 1
    with pytest.raises(ValueError, match="'UP' is constant on slide 'P3_S1'"):
        ds.pl.regions(several, "UP")
