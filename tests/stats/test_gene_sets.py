import numpy as np
import pytest

from deepspot._stats.gene_sets import agreement_of_sets

N, GENES = 200, 60


@pytest.fixture
def sides():
    """Ten genes share a pattern that the prediction knows, all others are noise."""
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(N, 1))
    measured, predicted = rng.normal(size=(2, N, GENES))
    measured[:, :10] += pattern
    predicted[:, :10] += pattern
    return predicted, measured


def test_scores_of_a_set_and_of_random_sets(sides):
    found = agreement_of_sets(*sides, {"known": range(10), "noise": range(30, 40)}, seed=0).set_index("gene_set")
    z = [(values - values.mean(axis=0)) / values.std(axis=0) for values in sides]
    expected = np.corrcoef(*(values[:, :10].mean(axis=1) for values in z))[0, 1]
    assert found.loc["known", "r"] == pytest.approx(expected)
    assert found.loc["known", "r"] > found.loc["known", "r_random"] + 0.3
    assert found.loc["known", "p"] == pytest.approx(1 / 201)
    assert found.loc["noise", "p"] > 0.05
    assert list(found["n_genes"]) == [10, 10]
    again = agreement_of_sets(*sides, {"noise": range(30, 40), "known": range(10)}, seed=0).set_index("gene_set")
    assert again["r"].equals(found["r"].loc[again.index])


def test_a_shared_axis_is_no_evidence_for_a_set():
    """If all genes follow one pattern, every set agrees, and no more than random ones."""
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(N, 1))
    sides = [axis + rng.normal(size=(N, GENES)) for _ in range(2)]
    found = agreement_of_sets(*sides, {f"set {i}": range(i * 6, i * 6 + 6) for i in range(10)})
    assert (found["r"] > 0.7).all()
    assert found["p"].median() > 0.2


def test_genes_that_were_not_measured(sides):
    predicted, measured = sides
    measured[:, :3] = np.nan
    predicted[:, 20:25] = 1.0
    found = agreement_of_sets(predicted, measured, {"a": range(10), "none": [0, 1], "flat": range(20, 25)})
    assert list(found["n_genes"]) == [7, 0, 5]
    assert found.loc[1, ["r", "r_random", "p"]].isna().all()
    assert found.loc[2, "r"] == 0
