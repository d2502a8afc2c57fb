import numpy as np
import pytest
from sklearn.decomposition import PCA

from deepspot.models import DeepSpot, NetworkConfig
from deepspot.models._network.network import Network, infer
from deepspot.models._network.train_members import project, unproject


@pytest.mark.parametrize("config", [NetworkConfig(width=8), NetworkConfig(width=8, n_phi=3, phi_average="median")])
def test_the_network_on_embeddings_predicts_the_same_as_on_components(bags, config):
    pca = PCA(5).fit(bags.spot)
    small = Network(config, 5, 4).collapse().eval()
    whole = unproject(small, pca)
    assert whole.phi[0].in_features == bags.dim
    np.testing.assert_allclose(infer([whole], bags, "cpu"), infer([small], project(bags, pca), "cpu"), atol=1e-5)


def test_all_components_together_contain_all_information(bags):
    pca = PCA().fit(bags.spot)
    back = project(bags, pca).subspots @ pca.components_ + pca.mean_
    np.testing.assert_allclose(back, bags.subspots.astype(np.float32), atol=1e-4)


def test_components_come_from_the_training_rows_alone(bags, targets):
    config = {"network": {"width": 8, "members": 1}, "training": {"epochs": 2, "pca": 4, "gate": "off"}, "seed": 0}
    rows = np.arange(60)
    spoilt = bags.spot.copy()
    spoilt[100:] += 50
    other = type(bags)(spoilt, bags.subspots, bags.neighbors)
    one, two = (DeepSpot(**config).fit(b, targets, rows=rows).predict(bags) for b in (bags, other))
    np.testing.assert_array_equal(one[:30], two[:30])
