import numpy as np
import pandas as pd
import pytest

import deepspot as ds


@pytest.fixture
def runs():
    return pd.DataFrame(
        {
            "patient": ["A", "A", "B", "C"],
            "spots": pd.array([900, 1100, 2000, pd.NA], dtype="Int64"),
            "preservation": ["FF", "FFPE", "FF", "FF"],
        }
    )


def widths(axes):
    return [[bar.get_width() for bars in ax.containers for bar in bars] for ax in axes]


def test_numbers_of_finished_slides(runs):
    axes = ds.pl.cohort_size(runs)
    assert widths(axes) == [[2], [3], [4000]]
    assert axes[0].get_yticklabels()[0].get_text() == "(1 not finished)"
    assert axes[2].texts[0].get_text() == "4,000"


def test_cohorts_and_groups(runs):
    other = pd.DataFrame({"patient": ["X"], "spots": [10], "preservation": [np.nan]})
    axes = ds.pl.cohort_size({"one": runs, "two": other}, groupby="preservation")
    # FF, FFPE and unknown of both cohorts; patient A counts in two groups.
    assert widths(axes)[0] == [2, 0, 1, 0, 0, 1]
    assert widths(axes)[2] == [2900, 0, 1100, 0, 0, 10]
    assert [text.get_text() for text in axes[-1].get_legend().get_texts()] == ["FF", "FFPE", "unknown"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["one\n(1 not finished)", "two"]


def test_bad_input(runs):
    with pytest.raises(KeyError, match="'stage'` not found in `columns of the results of 'one'"):
        ds.pl.cohort_size({"one": runs}, groupby="stage")
    with pytest.raises(ValueError, match="No slide is finished"):
        ds.pl.cohort_size(runs[3:])
    with pytest.raises(TypeError, match="DataFrame"):
        ds.pl.cohort_size("runs.csv")
