import itertools

import numpy as np
import pytest
import torch

from deepspot.models._network.config import NetworkConfig
from deepspot.models._network.network import BagDataset, Network, infer

CONTEXTS = [("spot",), ("spot", "subspots"), ("spot", "neighbors"), ("spot", "subspots", "neighbors")]


def build(**fields) -> Network:
    torch.manual_seed(1)
    return Network(NetworkConfig(width=8, **fields), dim=16, n_genes=5).eval()


def whole(bags, network):
    return BagDataset(bags, network.config.context).__getitems__(list(range(len(bags))))


def test_phi_is_shared_by_the_three_sets():
    shapes = {name: tuple(value.shape) for name, value in build().named_parameters()}
    assert shapes == {"phi.0.weight": (8, 16), "phi.0.bias": (8,), "rho.0.weight": (5, 24), "rho.0.bias": (5,)}


def test_forward_is_the_formula_of_the_paper(bags):
    network = build()
    w, b = (value.detach().numpy() for value in (network.phi[0].weight, network.phi[0].bias))
    v, c = (value.detach().numpy() for value in (network.rho[0].weight, network.rho[0].bias))

    def phi(x):
        return np.maximum(x @ w.T + b, 0)

    row = 13
    near = bags.neighbors[row].indices
    assert len(near) == 8
    pooled = [phi(bags.spot[row]), phi(bags.subspots[row].astype(np.float32)).mean(0), phi(bags.spot[near]).max(0)]
    with torch.no_grad():
        ours = network(whole(bags, network))[row].numpy()
    np.testing.assert_allclose(ours, v @ np.concatenate(pooled) + c, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("s", [1, 4, 9])
def test_a_sum_over_fewer_subspots_is_scaled(s):
    represented = torch.rand(5, s, 8)
    total, mean = build(subspot_pooling="sum"), build(subspot_pooling="mean")
    torch.testing.assert_close(total.pool_subspots(represented, 9), 9 * represented.mean(1))
    torch.testing.assert_close(mean.pool_subspots(represented, 9), represented.mean(1))
    assert torch.equal(total.pool_subspots(represented), represented.sum(1))
    assert torch.equal(total.pool_subspots(represented, s), represented.sum(1))


def test_a_spot_without_neighbors_pools_to_zero():
    pooled = build().pool_neighbors(torch.rand(2, 3, 8), torch.tensor([[1.0, 1, 0], [0, 0, 0]]))
    assert pooled[0].min() > 0
    assert pooled[1].abs().max() == 0


def test_bags_without_any_neighbor(lonely):
    network = build()
    batch = whole(lonely, network)
    assert batch["neighbors"].shape == (len(lonely), 0)
    assert network(batch).shape == (len(lonely), 5)


def test_order_of_subspots_and_neighbors_does_not_matter(bags):
    network = build(n_phi=3)
    batch = whole(bags, network)
    shuffled = {**batch, "subspots": batch["subspots"].flip(1)}
    shuffled |= {"neighbors": batch["neighbors"].flip(1), "real": batch["real"].flip(1)}
    torch.testing.assert_close(network(batch), network(shuffled))


@pytest.mark.parametrize(("average", "expected"), [("mean", 4.0), ("median", 2.0)])
def test_phi_ensemble_is_averaged_by_mean_or_median(average, expected):
    network = build(n_phi=3, phi_average=average)
    for phi, value in zip(network.phi, (1.0, 2.0, 9.0), strict=True):
        torch.nn.init.zeros_(phi.weight)
        torch.nn.init.constant_(phi.bias, value)
    assert network.represent(torch.rand(1, 16)).unique().item() == expected


@pytest.mark.parametrize(("context", "average"), list(itertools.product(CONTEXTS, ["mean", "median"])))
def test_collapse_of_rho_is_exact(bags, context, average):
    network = build(n_phi=4, n_rho=10, context=context, phi_average=average, subspot_pooling="sum")
    batch = whole(bags, network)
    with torch.no_grad():
        before = network(batch)
        after = network.collapse()(batch)
    assert len(network.rho) == 1
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("context", CONTEXTS)
def test_inference_by_lookup_equals_the_batched_network(bags, context, monkeypatch):
    monkeypatch.setattr("deepspot.models._network.network.ROWS", 50)
    network = build(n_phi=2, context=context)
    with torch.no_grad():
        expected = network(whole(bags, network)).numpy()
    np.testing.assert_allclose(infer([network], bags, "cpu"), expected, rtol=1e-5, atol=1e-6)
    some = np.random.default_rng(0).permutation(len(bags))[:70]
    np.testing.assert_allclose(infer([network], bags, "cpu", rows=some), expected[some], rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only(bags):
    network = build()
    batch = whole(bags, network)
    assert torch.equal(network(batch), network(batch))
    network.train()
    assert not torch.equal(network(batch), network(batch))


def test_lecun_init_has_the_variance_of_lecun():
    torch.manual_seed(0)
    network = Network(NetworkConfig(init="lecun"), dim=400, n_genes=300)
    assert network.phi[0].weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert network.phi[0].bias.abs().max() == 0
