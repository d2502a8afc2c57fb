import pytest
import torch

from deepspot.models._network.network import median


@pytest.mark.parametrize("members", range(1, 13))
@pytest.mark.parametrize("leading", [(7,), (3, 4), ()])
def test_it_is_that_of_torch(members, leading):
    torch.manual_seed(members)
    x = torch.randn(*leading, members, 5).relu()
    assert torch.equal(median(x), x.median(-2).values)


def test_rows_beyond_what_is_compared_at_once():
    x = torch.randn(300, 4, 512)
    assert torch.equal(median(x), x.median(-2).values)


@pytest.mark.parametrize("members", [1, 2, 5, 10])
def test_so_is_its_gradient(members):
    torch.manual_seed(0)
    ours = torch.randn(6, members, 5, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.randn(6, 5)
    (median(ours) * weight).sum().backward()
    (theirs.median(-2).values * weight).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_members_that_agree_share_the_gradient():
    x = torch.ones(1, 4, 1, requires_grad=True)
    median(x).sum().backward()
    assert x.grad.flatten().tolist() == [0.25] * 4
