"""Training of the members of an ensemble, on principal components of the embeddings if that is faster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from deepspot._features.bags import Bags
from deepspot.models._inputs import Scaler

from .fit import History, Recipe, fit_network
from .network import BagDataset, Network


def train_members(
    bags: Bags,
    targets: np.ndarray,
    recipe: Recipe,
    *,
    rows: np.ndarray,
    validation: np.ndarray | None,
    slides: np.ndarray,
) -> tuple[list[Network], Scaler, pd.DataFrame, int]:
    """Train the members of an ensemble; return them with collapsed ρ, the scaler, the loss curves and the epochs.

    With `validation`, one network is first trained and standardized without these rows to find the number of epochs.
    Then all members are trained on all rows.
    """
    slides = np.unique(slides, return_inverse=True)[1]
    curves, epochs = [], recipe.training.epochs
    if validation is not None and len(validation):
        fitted = rows[~np.isin(rows, validation)]
        data, scaler, _ = _standardize(bags, targets, recipe, fitted, slides)
        name, _, history = fit_network(0, recipe, scaler, recipe.training.max_epochs, data, fitted, validation)
        curves.append(_curve(name, history))
        epochs = int(np.argmin(history["validation"])) + 1
    data, scaler, reduction = _standardize(bags, targets, recipe, rows, slides)
    members = []
    for number in range(1, recipe.network.members + 1):
        name, member, history = fit_network(number, recipe, scaler, epochs, data, rows)
        members.append(member.collapse() if reduction is None else reduction.unfold(member.collapse()))
        curves.append(_curve(name, history))
    return members, scaler, pd.concat(curves, ignore_index=True), epochs


@dataclass(frozen=True, eq=False)
class Reduction:
    """Principal components of spot embeddings: mean (d,) and components (k, d).

    The projection is linear and so is the first layer of φ. After training they are merged, so that the fitted network
    takes embeddings.
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, spot: np.ndarray, k: int) -> Reduction:
        """Find k principal components of the embeddings (n, d) of training spots."""
        from sklearn.decomposition import PCA

        pca = PCA(min(k, *spot.shape), svd_solver="full").fit(spot)
        return cls(pca.mean_.astype(np.float32), pca.components_.astype(np.float32))

    def bags(self, bags: Bags) -> Bags:
        """Return the bags with projected spots and sub-spots."""
        subspots = None if bags.subspots is None else self._project(bags.subspots)
        return replace(bags, spot=self._project(bags.spot), subspots=subspots)

    @torch.no_grad()
    def unfold(self, network: Network) -> Network:
        """Return a network that takes embeddings of length d and predicts the same as one with collapsed ρ."""
        state = network.state_dict()
        mean, components = torch.from_numpy(self.mean), torch.from_numpy(self.components)
        for number in range(len(network.phi)):
            weight, bias = f"phi.{number}.weight", f"phi.{number}.bias"
            state[weight] = state[weight] @ components
            state[bias] = state[bias] - state[weight] @ mean
        return Network.from_state(network.config, state)

    def _project(self, embeddings: np.ndarray) -> np.ndarray:
        return (embeddings.astype(np.float32) - self.mean) @ self.components.T


def _standardize(
    bags: Bags, targets: np.ndarray, recipe: Recipe, rows: np.ndarray, slides: np.ndarray
) -> tuple[BagDataset, Scaler, Reduction | None]:
    """Standardize the targets and project the bags, both fitted on the `rows`."""
    scaler, k, reduction = Scaler.fit(targets[rows]), recipe.training.pca, None
    if not recipe.training.standardize:
        scaler = Scaler(scaler.mean, np.ones_like(scaler.std))
    if k is not None and k < bags.dim:
        reduction = Reduction.fit(bags.spot[np.unique(rows)], k)
        bags = reduction.bags(bags)
    return BagDataset(bags, recipe.network.context, scaler.standardize(targets), slides), scaler, reduction


def _curve(name: str, history: History) -> pd.DataFrame:
    curve = pd.DataFrame({"epoch": np.arange(1, len(history["train"]) + 1), "train": history["train"]})
    return curve.assign(validation=history["validation"] or np.nan, member=name)
