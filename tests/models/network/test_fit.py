import numpy as np
import pytest
import torch

from deepspot.models._network.fit import make_loss

MEAN, STD = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0.5, 1.0, 2.0])
NAMES = ["mse", "pearson", "poisson", "cosine", "mse_cosine"]


def loss(name, prediction, target, mask=None, weight=None):
    mask = torch.ones_like(target) if mask is None else mask
    return make_loss(name, MEAN, STD)(prediction, target, mask, torch.ones(len(target)) if weight is None else weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_masked_gene_has_no_effect(name):
    torch.manual_seed(0)
    prediction, target = torch.rand(4, 3), torch.rand(4, 3)
    mask = torch.tensor([1.0, 1.0, 0.0]).expand(4, 3)
    changed = target.clone()
    changed[:, 2] = 0
    predicted = prediction.clone()
    predicted[:, 2] = 0
    assert loss(name, prediction, target, mask) == pytest.approx(loss(name, predicted, changed, mask).item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_spot_of_weight_2_counts_as_two_spots(name):
    torch.manual_seed(0)
    prediction, target = torch.rand(4, 3), torch.rand(4, 3)
    weighted = loss(name, prediction, target, weight=torch.tensor([2.0, 1.0, 1.0, 1.0]))
    twice = loss(name, prediction[[0, 0, 1, 2, 3]], target[[0, 0, 1, 2, 3]])
    assert weighted.item() * 4 == pytest.approx(twice.item() * 5, rel=1e-5)


def test_mse_uses_measured_entries_only():
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    assert loss("mse", torch.tensor([[1.0, 3.0, 9.0]]), torch.zeros(1, 3), mask).item() == 5.0


def test_pearson_is_one_minus_r_across_the_genes_of_a_spot():
    torch.manual_seed(0)
    prediction, target = torch.rand(5, 3), torch.rand(5, 3)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(prediction.numpy(), target.numpy(), strict=True)]
    assert loss("pearson", prediction, target).item() == pytest.approx(1 - np.mean(r), abs=1e-5)


def test_cosine_does_not_depend_on_scale():
    torch.manual_seed(0)
    target = torch.rand(5, 3)
    assert loss("cosine", 7 * target, target).item() == pytest.approx(0, abs=1e-6)


def test_mse_cosine_is_the_sum_of_both():
    torch.manual_seed(0)
    pair = torch.rand(5, 3), torch.rand(5, 3)
    assert loss("mse_cosine", *pair).item() == pytest.approx((loss("mse", *pair) + loss("cosine", *pair)).item())


def test_poisson_is_lowest_where_rate_equals_expression():
    target = (torch.tensor([[2.0, 3.0, 1.0]]) - MEAN) / STD
    right = loss("poisson", target, target)
    assert right < loss("poisson", target + 0.2, target)
    assert right < loss("poisson", target - 0.2, target)
