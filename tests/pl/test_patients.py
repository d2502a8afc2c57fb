"""Figures of patients: survival, classes, and agreement with bulk RNA."""

import numpy as np
import pandas as pd
import pytest

import deepspot as ds

SCORES = {"survival": "concordance", "classification": "f1"}


def resampled(name, mean=0.7):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"n_train": np.repeat([75, 100], 20), "repeat": np.tile(np.arange(20), 2)})
    table[SCORES[name]] = rng.normal(mean, 0.03, 40)
    table["permuted"] = rng.normal(0.5, 0.03, 40)
    if name == "survival":
        return ds.cohort.Survival(table, pd.DataFrame({"event": [True] * 150}), 10, 0, 0.5)
    return ds.cohort.Classification(table, pd.DataFrame({"label": ["a"] * 150}), 10, 0)


@pytest.mark.parametrize("name", SCORES)
def test_points_are_the_means_and_lines_the_splits(name):
    result = resampled(name)
    ax = getattr(ds.pl, name)(result)
    summary = result.summary()
    points = {
        round(float(line.get_ydata()[0]), 2): line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1
    }
    assert list(points) == [0.84, 1.16, 1.84, 2.16]
    np.testing.assert_allclose(list(points.values()), summary[["mean", "permuted"]].to_numpy().ravel())
    spans = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
    np.testing.assert_allclose(spans[0], summary.loc[75, ["low", "high"]])
    np.testing.assert_allclose(spans[3], summary.loc[100, ["permuted_low", "permuted_high"]])
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["75 training patients, 75 tested", "100 training patients, 50 tested"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_chance_is_drawn_if_it_is_known():
    texts = [text.get_text() for text in ds.pl.survival(resampled("survival")).get_legend().get_texts()]
    assert texts == ["true outcomes", "outcomes permuted", "chance (0.5)"]
    texts = [text.get_text() for text in ds.pl.classification(resampled("classification")).get_legend().get_texts()]
    assert texts == ["true labels", "labels permuted"]


def test_several_results_have_names_and_colors():
    ax = ds.pl.survival({"bulk RNA": resampled("survival", 0.6), "FFPE": resampled("survival")})
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels.index("bulk RNA") == 0
    assert labels.index("FFPE") == 3
    assert len({line.get_color() for line in ax.lines if line.get_marker() == "o"}) == 2
    assert len(ax.get_legend().get_texts()) == 3


@pytest.mark.parametrize("name", ["survival", "classification", "bulk_agreement"])
def test_other_results_are_refused(name):
    draw = getattr(ds.pl, name)
    other = resampled("classification" if name == "survival" else "survival")
    with pytest.raises(
        TypeError, match=f"can be drawn here, or a mapping from names to them, not a {type(other).__name__}"
    ):
        draw({"x": other})
    with pytest.raises(ValueError, match="nothing to draw"):
        draw({})


@pytest.fixture(scope="module")
def agreement():
    rng = np.random.default_rng(0)
    genes = [f"G{number}" for number in range(300)]
    table = pd.concat(
        [
            pd.DataFrame({"group": group, "gene": genes, "r": np.linspace(high, 0, 300), "q": 1.0, "undefined": "no"})
            for group, high in (("FF", 0.8), ("FFPE", 0.6))
        ]
    )
    matched = pd.DataFrame({"group": np.repeat(["FF", "FFPE"], [30, 20]), "bulk": np.arange(50)})
    null = {group: rng.normal(0, 0.1, (50, 300)).astype(np.float32) for group in ("FF", "FFPE")}
    return ds.cohort.BulkAgreement(table, matched, pd.DataFrame(), null, pd.DataFrame(index=genes), 0)


def test_lines_of_agreement(agreement):
    ax = ds.pl.bulk_agreement({"DeepSpot": agreement, "other": agreement}, top=(100, 200, 300))
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3]
    curve = agreement.curve(top=(100, 200, 300))
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-", "--"]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    np.testing.assert_allclose(lines[1].get_ydata(), curve[curve["group"] == "FFPE"]["r"])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "DeepSpot, FF (30 slides)",
        "DeepSpot, FFPE (20 slides)",
        "other, FF (30 slides)",
        "other, FFPE (20 slides)",
        "shuffled profiles (95 %)",
    ]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["100", "200", "300"]
    assert len(ax.collections) == 4
    with pytest.raises(ValueError, match="`statistic` must be"):
        ds.pl.bulk_agreement(agreement, statistic="max")


def test_given_axes_are_used(agreement):
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2)
    assert ds.pl.survival(resampled("survival"), ax=axes[0]) is axes[0]
    assert ds.pl.bulk_agreement(agreement, statistic="median", ax=axes[1]) is axes[1]
