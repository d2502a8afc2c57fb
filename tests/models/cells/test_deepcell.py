import numpy as np
import pytest
import torch

from deepspot.models._cells.deepcell_network import LOSSES, DeepCellNetwork
from deepspot.models._inputs import Scaler
from deepspot.models._network.config import NetworkConfig

CELL_ONLY, INIT = "cell_only::", "published_init::"


@pytest.fixture(scope="module")
def found(vectors):
    return vectors("deepcell")


@pytest.fixture(scope="module")
def make(found):
    def layer(parameter: str) -> str:
        return parameter.rpartition(".")[0]

    def network(context=("spot", "neighbors"), prefix="", n_phi=4, **options) -> DeepCellNetwork:
        unscaled = Scaler(np.zeros(20, np.float32), np.ones(20, np.float32))
        config = NetworkConfig(context=context, width=16, n_phi=n_phi, n_rho=4, phi_average="median", dropout=0.0)
        made = DeepCellNetwork(config, 24, unscaled, **options)
        names = {f"{prefix}phi_cell.{i}.model.0": f"phi.{i}" for i in range(n_phi)}
        names |= {f"{prefix}rho.{i}.model.2": f"rho.{i}" for i in range(4)}
        found.load(made, names, {name: found.parameters[name] for name in found.parameters if layer(name) in names})
        return made.eval()

    return network


@pytest.fixture(scope="module")
def batch(found):
    near = found.input("x_neighbors")
    number = torch.arange(6, 36).reshape(6, 5)
    return {
        "tiles": torch.cat([found.input("x_cell")[:, 0], near.flatten(0, 1)]),
        "spot": torch.arange(6),
        "neighbors": number,
        "real": torch.ones(6, 5),  # as published, embeddings of 0 count
        "target": found.input("y"),
        "mask": torch.ones(6, 20),
    }


def test_the_published_prediction(found, make, batch, agree):
    expected = found.expected
    with torch.no_grad():
        agree("φ", make().represent(found.input("x_cell")[:, 0]), expected["phi_cell"], atol=1e-5)
        for aggregation in ("max", "mean", "sum"):
            predicted = make(aggregation=aggregation)(batch)
            agree(f"{aggregation} of neighbors", predicted, expected[f"pred_{aggregation}"], atol=1e-4)
        agree("three φ", make(n_phi=3)(batch), expected["pred_max_3phi"], atol=1e-4)
        agree("cell only", make(("spot",), CELL_ONLY)(batch), expected["pred_cell_only"], atol=1e-4)
        double = {name: values.double() if values.is_floating_point() else values for name, values in batch.items()}
        exact = make().double()(double)
    agree("prediction, float64", exact, expected["pred_max_float64"], atol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_the_published_losses(found, make, batch, name, agree):
    predicted = torch.from_numpy(found.expected["pred_max"])
    agree(f"loss {name}", make(loss=name).loss(predicted, batch), found.expected[f"loss_{name}"], rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_unmeasured_genes_do_not_count(found, make, batch, name):
    predicted = torch.from_numpy(found.expected["pred_max"])
    mask = torch.from_numpy(np.random.default_rng(0).random((6, 20)) < 0.6).float()
    network, target = make(loss=name), batch["target"]
    one, other = (batch | {"mask": mask, "target": target.masked_fill(mask == 0, filled)} for filled in (0.0, 9.0))
    assert network.loss(predicted, one).item() == network.loss(predicted, other).item()
    assert network.loss(predicted, one).item() != network.loss(predicted, batch).item()


def test_the_published_training(found, make, batch, first_losses, agree):
    network = make().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    losses = first_losses(
        network, lambda: network.loss(network(batch), batch), optimizer, lambda: found.check_gradients(network)
    )
    agree("first five losses", losses, found.expected["loss_first5_adamw_lr1e3_wd1e2"], rtol=1e-5)


def test_the_published_initial_weights(found, make):
    """The layers are made in the published order: the same seed gives the same weights."""
    config = NetworkConfig(context=("spot", "neighbors"), width=16, n_phi=4, n_rho=4)
    torch.manual_seed(16)
    fresh = DeepCellNetwork(config, 24, Scaler(np.zeros(20, np.float32), np.ones(20, np.float32)))
    known = make(prefix=INIT)
    for (name, ours), theirs in zip(fresh.named_parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
