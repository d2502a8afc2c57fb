from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepspot.models._scaler import Scaler

FLAT = 1e-10  # share of the largest variance below which a direction is rounding


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Ridge regressions of all strengths on the same spots.

    Features are standardised and rotated to their principal components. There, ridge of any strength is one division,
    and without a limit on the components it is exactly ridge on the standardised features.

    Attributes
    ----------
    scaler
        Scale of the genes.
    mean, scale
        (features,) what features are standardised with; a constant one keeps its scale.
    components
        (features, k) directions of the standardised features.
    squares
        (k,) sum of squares along each.
    cross
        (k, genes) products of components and standardised genes.
    offset
        (genes,) mean of the standardised genes.
    """

    scaler: Scaler
    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray
    squares: np.ndarray
    cross: np.ndarray
    offset: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, targets: np.ndarray, n_components: int | None = None) -> RidgePath:
        """Learn from features (n, d) and targets (n, genes), NaN where the mean of the gene stands in."""
        from sklearn.preprocessing import StandardScaler

        standard = StandardScaler().fit(features)
        x = standard.transform(features).astype(np.float64)  # squares below need the digits
        scaler = Scaler.fit(targets)
        y = np.nan_to_num(scaler.standardize(targets))
        components = _principal(x, n_components)
        rotated = x @ components
        squares, cross = (rotated**2).sum(axis=0), rotated.T @ y  # components have mean 0, so that of y does not matter
        return cls(scaler, standard.mean_, standard.scale_, components, squares, cross, y.mean(axis=0))

    def rotate(self, features: np.ndarray) -> np.ndarray:
        """Principal components (n, k) of features (n, d)."""
        return ((features - self.mean) / self.scale) @ self.components

    def weights(self, alpha: float) -> np.ndarray:
        """Ridge (k, genes) of strength `alpha` on the principal components."""
        return self.cross / (self.squares + alpha)[:, None]

    def unfold(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (d, genes) on features as they come, and intercepts (genes,), both in float32."""
        coef = (self.components @ self.weights(alpha)) / self.scale[:, None]
        return coef.astype(np.float32), (self.offset - self.mean @ coef).astype(np.float32)


def _principal(x: np.ndarray, n_components: int | None) -> np.ndarray:
    # The smaller of the two Gram matrices: a full SVD takes ten times as long as the regressions themselves.
    wide = x.shape[0] < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    keep = np.flatnonzero(values > FLAT * values[-1])[::-1][:n_components]
    return x.T @ (vectors[:, keep] / np.sqrt(values[keep])) if wide else vectors[:, keep]
