"""Networks of cells from their architecture. Imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepspot.models._inputs import Scaler
from deepspot.models._network.config import NetworkConfig

from .cell_sum_network import CellSumNetwork
from .config import CellNetworkConfig
from .deepcell_network import DeepCellNetwork
from .deepspot2cell_network import DeepSpot2CellNetwork
from .network import CellNetwork, Standardize

# Dropout rate of the output of the published systems.
OUTPUT_DROPOUT = 0.1


def build(
    config: CellNetworkConfig,
    dim: int,
    genes: Scaler,
    *,
    spots: nn.Module,
    cells: nn.Module,
    n_cells: float = 0.0,
    loss: str = "mse",
    collapsed: bool = False,
) -> CellNetwork:
    """Return an untrained network.

    Parameters
    ----------
    config, dim
        Architecture, and length of an embedding.
    genes
        Mean and standard deviation of the genes.
    spots, cells
        Scale of the embeddings of spot tiles and of cells.
    n_cells
        Mean number of cells of a spot if rates are counts, else 0; see :class:`CellSumNetwork`.
    loss
        Loss of DeepCell.
    collapsed
        Whether the ρ of DeepCell are one layer, as in a fitted model.
    """
    options: dict[str, Any] = {"width": config.width, "dropout": config.dropout}
    scales: dict[str, Any] = {"scale_of_spots": spots, "scale_of_cells": cells}
    mean, std = torch.from_numpy(genes.mean), torch.from_numpy(genes.std)
    if config.system == "cell_sum":
        return CellSumNetwork(dim, mean, std, **options, **scales, n_cells=n_cells)
    if config.system == "deepspot2cell":
        return DeepSpot2CellNetwork(
            dim, mean, **options, **scales, n_ensemble=config.n_ensemble, output_dropout=OUTPUT_DROPOUT
        )
    network = NetworkConfig(
        context=config.context,
        n_phi=config.n_ensemble,
        n_rho=1 if collapsed else config.n_ensemble,
        phi_average="median",
        output_dropout=OUTPUT_DROPOUT,
        **options,
    )
    return DeepCellNetwork(network, dim, genes, aggregation=config.aggregation, loss=loss, scale=spots)


def with_state(config: CellNetworkConfig, dim: int, n_genes: int, state: dict[str, Tensor]) -> CellNetwork:
    """Return a fitted network with these parameters and buffers."""
    network = _empty(config, dim, n_genes)
    network.load_state_dict(state, assign=True)
    return network.eval()


def shapes(config: CellNetworkConfig, dim: int, n_genes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters and buffers of a fitted network by name."""
    return {name: tuple(value.shape) for name, value in _empty(config, dim, n_genes).state_dict().items()}


def _empty(config: CellNetworkConfig, dim: int, n_genes: int) -> CellNetwork:
    """Return a network without weights, which takes no memory, however large a card says that it is."""

    def scale() -> nn.Module:
        return Standardize(Scaler(*np.empty((2, dim), dtype=np.float32))) if config.standardized else nn.Identity()

    with torch.device("meta"):
        network = build(
            config,
            dim,
            Scaler(*np.zeros((2, n_genes), dtype=np.float32)),
            spots=scale(),
            cells=scale(),
            collapsed=True,
        )
    return network.to("meta")
