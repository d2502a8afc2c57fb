import numpy as np

from deepspot._stats.metrics import pearson
from deepspot.models._baselines import TrainingMean


def test_training_mean_is_the_null_model(bags, targets):
    holed = targets.copy()
    holed[:5, 0] = np.nan
    predicted = TrainingMean().fit(bags, holed, rows=np.arange(100)).predict(bags)
    np.testing.assert_allclose(predicted[7], np.nanmean(holed[:100], axis=0), rtol=1e-6)
    assert np.isnan(pearson(predicted, targets)).all()


def test_a_gene_that_was_never_measured_is_predicted_as_0(bags, targets):
    holed = targets.copy()
    holed[:, 0] = np.nan
    assert (TrainingMean().fit(bags, holed).predict(bags)[:, 0] == 0).all()
