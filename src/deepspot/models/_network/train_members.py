"""Training of the members of an ensemble, on principal components of the embeddings if that is faster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from deepspot._features.bags import Bags
from deepspot.models._inputs import Scaler

from .fit import History, Recipe, fit_network
from .network import BagDataset, Network

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


def train_members(
    bags: Bags,
    targets: np.ndarray,
    recipe: Recipe,
    *,
    rows: np.ndarray,
    validation: np.ndarray | None,
    slides: np.ndarray,
    weights: np.ndarray,
) -> tuple[list[Network], Scaler, pd.DataFrame, int]:
    """Train the members of an ensemble; return them with collapsed ρ, the scaler, the loss curves and the epochs.

    `weights` (n,) are those of the spots in the loss. With `validation`, one network is first trained and standardized
    without these rows to find the number of epochs. Then all members are trained on all rows.
    """
    slides = np.unique(slides, return_inverse=True)[1]
    curves, epochs = [], recipe.training.epochs
    if validation is not None and len(validation):
        fitted = rows[~np.isin(rows, validation)]
        data, scaler, _ = _standardize(bags, targets, recipe, fitted, slides, weights)
        name, _, history = fit_network(0, recipe, scaler, recipe.training.max_epochs, data, fitted, validation)
        curves.append(_curve(name, history))
        epochs = int(np.argmin(history["validation"])) + 1
    data, scaler, pca = _standardize(bags, targets, recipe, rows, slides, weights)
    members = []
    for number in range(1, recipe.network.members + 1):
        name, member, history = fit_network(number, recipe, scaler, epochs, data, rows)
        members.append(member.collapse() if pca is None else unproject(member.collapse(), pca))
        curves.append(_curve(name, history))
    return members, scaler, pd.concat(curves, ignore_index=True), epochs


def project(bags: Bags, pca: PCA) -> Bags:
    """Replace the embeddings of spots and sub-spots by their principal components."""

    def components(embeddings: np.ndarray) -> np.ndarray:
        return (embeddings.astype(np.float32) - pca.mean_) @ pca.components_.T

    subspots = None if bags.subspots is None else components(bags.subspots)
    if subspots is not None and bags.present is not None:
        subspots *= bags.present[..., None]
    return replace(bags, spot=components(bags.spot), subspots=subspots)


@torch.no_grad()
def unproject(network: Network, pca: PCA) -> Network:
    """Return a network that takes embeddings and predicts the same as one with collapsed ρ on principal components.

    The projection and the first layer of φ are linear, so they are merged.
    """
    state = network.state_dict()
    mean, components = torch.from_numpy(pca.mean_), torch.from_numpy(pca.components_)
    for number in range(len(network.phi)):
        weight, bias = f"phi.{number}.weight", f"phi.{number}.bias"
        state[weight] = state[weight] @ components
        state[bias] = state[bias] - state[weight] @ mean
    return Network.from_state(network.config, state)


def _standardize(
    bags: Bags, targets: np.ndarray, recipe: Recipe, rows: np.ndarray, slides: np.ndarray, weights: np.ndarray
) -> tuple[BagDataset, Scaler, PCA | None]:
    """Standardize the targets and project the bags, both fitted on the `rows`."""
    from sklearn.decomposition import PCA

    scaler, k, pca = Scaler.fit(targets[rows]), recipe.training.pca, None
    if not recipe.training.standardize:
        scaler = Scaler(scaler.mean, np.ones_like(scaler.std))
    if k is not None and k < bags.dim:
        spot = bags.spot[np.unique(rows)].astype(np.float32)
        pca = PCA(min(k, *spot.shape), svd_solver="full").fit(spot)
        bags = project(bags, pca)
    return BagDataset(bags, recipe.network.context, scaler.standardize(targets), slides, weights), scaler, pca


def _curve(name: str, history: History) -> pd.DataFrame:
    curve = pd.DataFrame({"epoch": np.arange(1, len(history["train"]) + 1), "train": history["train"]})
    return curve.assign(validation=history["validation"] or np.nan, member=name)
