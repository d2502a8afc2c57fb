"""Projection of predicted genes on the leading principal components of the training targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from ._inputs import Scaler

if TYPE_CHECKING:
    from ._network.network import Network

# Ranks to choose from. Fewer components have the same mean r, but remove more of what genes do not share.
RANKS = (10, 20, 50)


def candidate_ranks(rank: int | Literal["select"] | None, n_genes: int) -> list[int | None]:
    """Return the ranks to choose from, given that of the training configuration.

    None is no projection, and comes last. A projection on as many components as genes changes nothing.
    """
    wanted = RANKS if rank == "select" else [rank] if rank else []
    fewer: list[int | None] = [number for number in wanted if number < n_genes]
    return [*fewer, None] if rank == "select" or not fewer else fewer


def loadings(targets: np.ndarray, scaler: Scaler, rank: int, weights: np.ndarray) -> np.ndarray:
    """Return the leading principal directions (genes, `rank`) of targets (n, genes), which `scaler` standardizes.

    Spots count by their `weights` (n,), unmeasured values as the mean of the gene. There are fewer directions if there
    are fewer spots or genes.
    """
    from sklearn.utils.extmath import randomized_svd

    standardized = np.nan_to_num(scaler.standardize(targets)) * np.sqrt(weights)[:, None]
    return randomized_svd(standardized, min(rank, *standardized.shape), random_state=0)[2].T


def project(genes: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Project standardized genes (..., genes) on directions (genes, k)."""
    return (genes @ directions) @ directions.T


def project_members(members: Sequence[Network], scale: np.ndarray, directions: np.ndarray) -> None:
    """Change the weights of networks with collapsed ρ so that their predictions are projected on the directions.

    `scale` (genes,) converts the output of the networks to standardized genes.
    """
    import torch

    with torch.no_grad():
        for member in members:
            for value in member.rho[0].parameters():
                value.copy_(torch.from_numpy((project(value.numpy().T * scale, directions) / scale).T))
