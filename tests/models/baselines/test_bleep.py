import numpy as np
import pytest
import torch

from deepspot.models._baselines import BLEEP
from deepspot.models._baselines.bleep_network import Projection, contrastive_loss


def test_more_neighbors_than_spots_are_the_mean_of_all(world):
    rows = np.repeat(np.arange(20), 3)
    predicted = BLEEP(k=200, epochs=1).fit(world.train, world.image[0], rows=rows).predict(world.test)
    np.testing.assert_allclose(predicted, np.tile(world.image[0][:20].mean(axis=0), (144, 1)), rtol=1e-5)


def test_one_neighbor_is_a_training_spot(world):
    predicted = BLEEP(k=1, epochs=2).fit(world.train, world.image[0]).predict(world.test)
    known = world.image[0].astype(np.float32)
    assert all((known == row).all(axis=1).any() for row in predicted)


def test_only_spots_with_the_gene_are_averaged(world):
    holed = world.image[0].copy()
    holed[1:, 0] = np.nan
    predicted = BLEEP(k=10, epochs=1).fit(world.train, holed).predict(world.test)
    np.testing.assert_allclose(predicted[:, 0], holed[0, 0], rtol=1e-6)
    assert predicted[:, 1].std() > 0


def test_a_repeated_spot_counts_once(world):
    rows = np.concatenate([np.arange(50), np.zeros(100, int)])
    model = BLEEP(k=10, epochs=1).fit(world.train, world.image[0], rows=rows)
    assert model.keys.shape == (50, 256)
    np.testing.assert_array_equal(model.expression, world.image[0][:50].astype(np.float32))


def test_the_loss_is_the_published_one():
    torch.manual_seed(0)
    images, genes = torch.randn(2, 5, 256) / 16
    for temperature in (1.0, 2.0):
        targets = torch.softmax((images @ images.T + genes @ genes.T) / 2 / temperature, dim=-1)
        logits = genes @ images.T / temperature
        ours = contrastive_loss(images, genes, temperature)
        rows = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
        columns = -(targets.T * logits.T.log_softmax(dim=1)).sum(dim=1)
        torch.testing.assert_close(ours, ((rows + columns) / 2).mean())


def test_a_projection_is_linear_gelu_linear_and_a_residual():
    torch.manual_seed(0)
    project, vectors = Projection(7).eval(), torch.randn(4, 7)
    first = project.first(vectors)
    second = project.second[1](torch.nn.functional.gelu(first))
    torch.testing.assert_close(project(vectors), torch.nn.functional.layer_norm(first + second, (256,)))


def test_no_neighbors_are_refused(world):
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        BLEEP(k=0).fit(world.train, world.image[0])
