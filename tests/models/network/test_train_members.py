import numpy as np
import pytest

from deepspot.models import DeepSpot, NetworkConfig
from deepspot.models._network.network import Network, infer
from deepspot.models._network.train_members import Reduction


@pytest.mark.parametrize("config", [NetworkConfig(width=8), NetworkConfig(width=8, n_phi=3, phi_average="median")])
def test_the_network_that_takes_whole_embeddings_predicts_the_same(bags, config):
    reduction = Reduction.fit(bags.spot, 5)
    small = Network(config, 5, 4).collapse().eval()
    whole = reduction.unfold(small)
    assert whole.phi[0].in_features == bags.dim
    np.testing.assert_allclose(infer([whole], bags, "cpu"), infer([small], reduction.bags(bags), "cpu"), atol=1e-5)


def test_as_many_components_as_dimensions_lose_nothing(bags):
    reduction = Reduction.fit(bags.spot, bags.dim)
    back = reduction.bags(bags).subspots @ reduction.components + reduction.mean
    np.testing.assert_allclose(back, bags.subspots.astype(np.float32), atol=1e-4)


def test_components_come_from_the_training_rows_alone(bags, targets):
    config = {"network": {"width": 8, "members": 1}, "training": {"epochs": 2, "pca": 4, "gate": "off"}, "seed": 0}
    rows = np.arange(60)
    spoilt = bags.spot.copy()
    spoilt[100:] += 50
    other = type(bags)(spoilt, bags.subspots, bags.neighbors)
    one, two = (DeepSpot(**config).fit(b, targets, rows=rows).predict(bags) for b in (bags, other))
    np.testing.assert_array_equal(one[:30], two[:30])
