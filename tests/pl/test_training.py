import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.sparse import csr_matrix

import deepspot as ds

SMALL = {
    "network": {"width": 8, "members": 2},
    "training": {"gate": "off", "epochs": 3, "max_epochs": 4},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def bags():
    spot = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    return ds.models.Bags(spot, spot[:, None], csr_matrix((40, 40), dtype=bool))


def test_one_curve_for_each_member(bags):
    model = ds.models.DeepSpot(**SMALL).fit(bags, bags.spot[:, :2])
    ax = ds.pl.training(model)
    assert [len(line.get_xdata()) for line in ax.lines] == [3, 3]
    assert "mse" in ax.get_ylabel()


def test_marks_the_best_epoch_of_the_search(bags):
    model = ds.models.DeepSpot(**SMALL).fit(bags, bags.spot[:, :2], patients=np.repeat(["a", "b"], 20))
    ax = ds.pl.training(model)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert f"best epoch: {model.card.epochs}" in labels
    right = next(other for other in ax.figure.axes if other is not ax)
    search = model.history[model.history["member"] == "search"]
    np.testing.assert_allclose(right.lines[0].get_ydata(), 1 - search["validation"])
    assert right.get_ylabel() == "mean r over genes"


def test_draws_into_given_axes(bags):
    model = ds.models.DeepSpot(**SMALL).fit(bags, bags.spot[:, :2])
    _, ax = plt.subplots()
    assert ds.pl.training(model, ax=ax) is ax


def test_without_history_says_why(bags, tmp_path):
    with pytest.raises(ValueError, match="not fitted"):
        ds.pl.training(ds.models.DeepSpot())
    ds.models.DeepSpot(**SMALL).fit(bags, bags.spot[:, :2]).save(tmp_path / "model")
    with pytest.raises(ValueError, match="loaded"):
        ds.pl.training(ds.models.load(tmp_path / "model"))
