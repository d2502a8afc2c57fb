import json

import numpy as np
import pytest

from deepspot._stats.normalize import normalize
from deepspot.models._cross_validation.factories import System
from deepspot.models._cross_validation.measures import BY_GENE
from deepspot.models._cross_validation.records import read
from deepspot.models._cross_validation.statistics import score


@pytest.fixture(scope="module")
def two(cohort):
    return cohort(2)


@pytest.fixture(scope="module")
def three(cohort):
    return cohort(3)


@pytest.fixture
def systems(tuned, mean_only):
    return [tuned, System("mean", mean_only, null=True)]


def test_the_table_is_tidy(cohort, run, systems):
    table, inner = run(cohort(3, 2), systems, genes=20)
    assert list(table) == [
        "model",
        "null",
        "fold",
        "patient",
        "slide",
        "gene",
        "rank",
        "r",
        "r_pooled",
        "r_beyond_axis",
        "r_ceiling",
        "undefined",
        *BY_GENE,
    ]
    assert len(table) == 2 * 3 * 2 * 20
    assert not table.duplicated(["model", "slide", "gene"]).any()
    for _, part in table.groupby(["model", "slide"]):
        assert list(part["rank"]) == list(range(1, 21))
    assert len(inner) == 3 * 3 * 2  # settings, outer folds, two inner patients
    assert (table["null"] == (table["model"] == "mean")).all()


def test_planted_signal_is_predicted_and_the_mean_has_no_r(three, run, systems):
    table, inner = run(three, systems)
    assert table.loc[table["model"] == "ls", "r"].mean() > 0.5
    assert (table.loc[table["model"] == "mean", "undefined"] == "prediction").all()
    assert (inner["area"] > 0).all()


def test_without_a_signal_r_is_zero(cohort, run, systems):
    table, _ = run(cohort(3, n_spots=60, signal=0.0), systems)
    assert abs(table.loc[table["model"] == "ls", "r"].mean()) < 0.06


class Offset:
    """Prediction with a shift between slides, which only lowers pooled r."""

    def fit(self, bags, targets, *, rows=None, slides=None, patients=None):
        self.genes = targets.shape[1]
        return self

    def predict(self, bags):
        return np.tile(bags.spot[:, :1] + bags.spot[0, 1] * 100, (1, self.genes))


def test_r_within_slides_and_r_over_pooled_slides(cohort, run):
    slides, bags, centers = cohort(2, 2)
    table, _ = run((slides, bags, centers), [System("offset", Offset)], genes=5)
    part = table[(table["fold"] == "P1") & (table["rank"] == 1)]
    assert part["r_pooled"].nunique() == 1
    gene = part["gene"].iloc[0]
    column = slides[0].genes.get_loc(gene)
    measured = [normalize(slide.counts).toarray()[:, column] for slide in slides[2:]]
    predicted = [Offset().fit(None, np.zeros((1, 1))).predict(bags[s.name])[:, 0] for s in slides[2:]]
    for r, *pair in zip(part["r"], predicted, measured, strict=True):
        assert r == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-4)
    pooled = np.corrcoef(np.concatenate(predicted), np.concatenate(measured))[0, 1]
    assert part["r_pooled"].iloc[0] == pytest.approx(pooled, abs=1e-4)
    assert (part["r"] - pooled).abs().min() > 0.01


def test_a_model_that_predicts_another_shape_is_named(two, run):
    class Wrong(Offset):
        def predict(self, bags):
            return np.zeros(len(bags))

    with pytest.raises(ValueError, match="Model 'wrong' predicted an array of shape"):
        run(two, [System("wrong", Wrong)])


def test_a_failure_says_which_model_and_fold(two, run):
    class Broken(Offset):
        def fit(self, *_, **__):
            raise ArithmeticError

    with pytest.raises(ArithmeticError) as error:
        run(two, [System("broken", Broken)])
    assert "model 'broken'" in error.value.__notes__[0]
    assert "fold 'P0'" in error.value.__notes__[0]


def test_stored_predictions_can_be_scored_again(three, run, systems, tmp_path):
    slides = three[0]
    table, _ = run(three, systems, folder=tmp_path)
    by_name = {slide.name: slide for slide in slides}
    found = 0
    for path in tmp_path.glob("*.npz"):
        arrays = read(path)
        if "prediction_0" not in arrays:
            continue
        about = json.loads(str(np.load(path)["about"]))
        slide = by_name[about["slides"][0]]
        measured = normalize(slide.counts).toarray()[:, slide.genes.get_indexer(about["genes"])]
        r, _ = score(arrays["prediction_0"], measured[arrays["rows_0"]])
        mine = table[(table["model"] == about["model"]) & (table["slide"] == slide.name)]
        np.testing.assert_array_equal(r, mine["r"])
        found += 1
    assert found == 2 * 3
