import pytest
import torch

from deepspot.models._whole_slide.histogene_network import HisToGeneNetwork
from deepspot.models._whole_slide.part import SlidePart


@pytest.fixture(scope="module")
def published(vectors, transformer):
    found = vectors("histogene")
    names = {
        "patch_embedding": "stem",
        "x_embed": "position.column",
        "y_embed": "position.row",
        "gene_head.0": "norm",
        "gene_head.1": "output",
        **transformer("vit.transformer.layers.0", "blocks.0"),
        **transformer("vit.transformer.layers.1", "blocks.1"),
    }
    network = HisToGeneNetwork(2352, torch.zeros(20), dim=16, layers=2, heads=16, n_pos=64, dropout=0.0)
    found.load(network, names)
    part = SlidePart(
        inputs=found.input("patches_flat"),
        positions=found.input("positions"),
        edges=torch.zeros(2, 0, dtype=torch.long),
        targets=torch.from_numpy(found.expected["target_expression"]).float(),
        weights=torch.ones(12, 20),
    )
    return found, network.eval(), part


def test_the_published_prediction(published, agree):
    found, network, part = published
    with torch.no_grad():
        agree("prediction", network(part), found.expected["pred"], atol=1e-5)
        exact = network.double()(part.double())
    network.float()
    agree("prediction, float64", exact, found.expected["pred_float64"], atol=1e-8)


def test_the_published_training(published, first_losses, agree):
    found, network, part = published
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = first_losses(
        network.train(), lambda: network.loss(part), optimizer, lambda: found.check_gradients(network)
    )
    agree("first five losses", losses, found.expected["loss_first5_adam_lr1e3"], rtol=1e-5)
