import numpy as np
import pytest
import torch

from deepspot._stats.metrics import pearson
from deepspot.models._cells.deepspot2cell_network import DeepSpot2CellNetwork


@pytest.fixture(scope="module")
def published(vectors):
    found = vectors("deepspot2cell")
    network = DeepSpot2CellNetwork(24, torch.zeros(20), width=12, n_ensemble=4, dropout=0.0, output_dropout=0.0)
    names = {
        f"{ensemble}.{member}.model": f"{ensemble}.{member}"
        for ensemble in ("phi_spot", "phi_cell", "rho")
        for member in range(4)
    }
    found.load(network, names)
    return found, network.eval()


def batch_of(found, *, inside: bool) -> dict[str, torch.Tensor]:
    """Return the published batch: the first tile around a spot is its own; all cells, or those in the spot."""
    tiles = found.input("neighb_embeddings")
    missing = torch.from_numpy(found.inputs["neighb_masks"])
    assert not missing[:, 0].any()
    number = torch.arange(tiles.shape[0] * tiles.shape[1]).reshape(tiles.shape[:2])
    batch = {
        "tiles": tiles.flatten(0, 1),
        "spot": number[:, 0],
        "neighbors": number[:, 1:],
        "real": (~missing[:, 1:]).float(),
        "subspots": found.input("cell_embeddings"),
        "target": found.input("spot_expression"),
        "mask": torch.ones(5, 20),
    }
    return batch | ({"present": found.input("cell_mask") * found.input("is_inside_spot")} if inside else {})


def double(batch):
    return {name: values.double() if values.is_floating_point() else values for name, values in batch.items()}


def test_the_published_prediction(published, agree):
    found, network = published
    with torch.no_grad():
        agree("spots", network(batch_of(found, inside=True)), found.expected["spot_pred"], atol=1e-5)
        every = batch_of(found, inside=False)
        cells = network.cells(every).unflatten(0, every["subspots"].shape[:2])
        agree("cells", cells, found.expected["cell_pred"], atol=1e-5)
        exact = network.double()(double(batch_of(found, inside=True)))
    network.float()
    agree("spots, float64", exact, found.expected["spot_pred_float64"], atol=1e-8)


def test_the_published_training(published, first_losses, agree):
    found, network = published
    batch = batch_of(found, inside=True)
    with torch.no_grad():
        agree("loss", network.loss(network(batch).clamp(min=0), batch), found.expected["val_loss"], rtol=1e-5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    losses = first_losses(
        network.train(), lambda: network.loss(network(batch), batch), optimizer, lambda: found.check_gradients(network)
    )
    agree("first five losses", losses, found.expected["loss_first5_lr1e3_wd1e2"], rtol=1e-4)


def test_the_published_correlation(published, agree):
    found, _ = published
    a, b = found.inputs["pearson_a"], found.inputs["pearson_b"]
    agree("correlation", np.nan_to_num(pearson(a, b)), found.expected["safe_pearson"], atol=1e-6)
