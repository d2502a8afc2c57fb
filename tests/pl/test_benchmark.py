import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deepspot.models._cross_validation.result import CrossValidation
from deepspot.models._cross_validation.tables import tidy
from deepspot.pl._benchmark import benchmark
from deepspot.pl._style import GRAY


@pytest.fixture(scope="module")
def make():
    def make(levels, n_folds=4, **options):
        rng = np.random.default_rng(0)
        parts = [
            pd.DataFrame(
                {
                    "model": model,
                    "null": model.startswith("null"),
                    "fold": f"P{fold}",
                    "patient": f"P{fold}",
                    "slide": f"S{fold}",
                    "gene": [f"g{i}" for i in range(20)],
                    "rank": range(1, 21),
                    "r": level + rng.normal(0, 0.05, size=20),
                    "r_pooled": level,
                    "undefined": "no",
                }
            )
            for model, level in levels.items()
            for fold in range(n_folds)
        ]
        inner = pd.DataFrame(columns=["model", "fold", "inner_fold", "setting", "area"])
        table = tidy(pd.concat(parts, ignore_index=True))
        options = {"seed": 0, "patterns": pd.DataFrame()} | options
        return CrossValidation(table, inner, {model: [{}] for model in levels}, (5, 10, 5000), **options)

    return make


@pytest.fixture(scope="module")
def cv(make):
    return make({"linear": 0.1, "deepspot": 0.4, "null mean": 0.0})


def curves(ax):
    return {box.get_label().split(" (")[0]: box for box in ax.containers}


def test_every_system_has_its_curve_with_error_bars(cv):
    ax = benchmark(cv)
    assert set(curves(ax)) == {"linear", "deepspot", "null mean"}
    expected = cv.curve().query("model == 'deepspot'").groupby("n")["r"].median()
    line, _, (bars,) = curves(ax)["deepspot"]
    np.testing.assert_allclose(line.get_ydata(), expected)
    heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    spread = cv.curve().query("model == 'deepspot'").groupby("n")["r"].std(ddof=0) / np.sqrt(4)
    assert len(heights) == 3
    np.testing.assert_allclose(heights, 2 * spread, rtol=0.6)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["5", "10", "20"]


def test_the_legend_is_in_the_order_of_the_area_and_gives_it(cv):
    texts = [text.get_text() for text in benchmark(cv).get_legend().get_texts()]
    assert [text.split(" (")[0] for text in texts] == ["deepspot", "linear", "null mean"]
    assert texts[0] == f"deepspot ({cv.summary().loc['deepspot', 'median']:.2f})"
    assert texts[2] == "null mean (0.00)"


def test_null_models_are_gray_and_dashed_and_systems_differ_in_style(make):
    ax = benchmark(make({f"m{i}": 0.1 * i for i in range(11)} | {"null a": 0.0, "null b": 0.01}))
    looks = {
        name: (box[0].get_color(), box[0].get_linestyle(), box[0].get_marker()) for name, box in curves(ax).items()
    }
    assert len(set(looks.values())) == len(looks) == 13
    assert all((look[0] == GRAY) == name.startswith("null") for name, look in looks.items())
    assert all(look[1] != "-" for name, look in looks.items() if name.startswith("null"))


def test_a_system_keeps_its_color_whatever_its_rank(make):
    one, two = (curves(benchmark(make({"a": level, "b": 0.3}))) for level in (0.1, 0.5))
    assert one["a"][0].get_color() == two["a"][0].get_color()


def test_mean_instead_of_median(cv):
    ax = benchmark(cv, statistic="mean")
    expected = cv.curve().query("model == 'linear'").groupby("n")["r"].mean()
    np.testing.assert_allclose(curves(ax)["linear"][0].get_ydata(), expected)
    assert "mean of 4 patients" in ax.get_ylabel()
    with pytest.raises(ValueError, match="`statistic`"):
        benchmark(cv, statistic="mode")


def test_title_states_few_folds_or_no_patients(make, cv):
    assert benchmark(cv).get_title(loc="left") == ""
    assert "only 2 folds" in benchmark(make({"a": 0.2}, n_folds=2)).get_title(loc="left")
    ax = benchmark(make({"a": 0.2}, leave_out="slide"))
    assert "does not measure" in ax.get_title(loc="left").replace("\n", " ")
    assert "held-out slide" in ax.get_ylabel()


def test_draws_into_given_axes(cv):
    _, ax = plt.subplots()
    assert benchmark(cv, ax=ax) is ax
