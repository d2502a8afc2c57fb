from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from deepspot._bags import Bags

from ._network import Network


@dataclass(frozen=True, eq=False)
class Reduction:
    """Principal components of spot embeddings: a network learns from these, several times faster and no worse.

    The projection is linear, and so is what φ does first: after training both are one layer, so that a fitted network
    takes embeddings as they come.

    Attributes
    ----------
    mean, components
        (d,) and (k, d).
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, spot: np.ndarray, k: int) -> Reduction:
        """Learn from the embeddings (n, d) of training spots."""
        from sklearn.decomposition import PCA

        pca = PCA(min(k, *spot.shape), svd_solver="full").fit(spot)
        return cls(pca.mean_.astype(np.float32), pca.components_.astype(np.float32))

    def bags(self, bags: Bags) -> Bags:
        """Bags with spots and sub-spots projected."""
        parts = None if bags.subspots is None else self._project(bags.subspots)
        return replace(bags, spot=self._project(bags.spot), subspots=parts)

    @torch.no_grad()
    def unfold(self, network: Network) -> Network:
        """The network that takes embeddings of length d and predicts the same."""
        state = network.state_dict()
        whole = Network(network.config, len(self.mean), len(state["rho.0.bias"]))
        mean, components = torch.from_numpy(self.mean), torch.from_numpy(self.components)
        for name in (name for name in state if name.startswith("phi.") and name.endswith(".weight")):
            bias = name.replace(".weight", ".bias")
            state[name] = state[name] @ components
            state[bias] = state[bias] - state[name] @ mean
        whole.rho = network.rho  # as many layers as are left of the ensemble
        whole.load_state_dict(state)
        return whole.eval()

    def _project(self, embeddings: np.ndarray) -> np.ndarray:
        return (embeddings.astype(np.float32) - self.mean) @ self.components.T
