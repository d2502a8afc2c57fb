from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepspot._core.validate import check_positive
from deepspot._features.bags import Bags
from deepspot._stats.metrics import pearson
from deepspot.errors import InputError
from deepspot.models._confidence.folds import make_folds
from deepspot.models._inputs import CONTEXT, Scaler, context_features

from .base import Baseline

FLAT = 1e-10  # share of the largest variance below which a direction is rounding


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Ridge regressions of all strengths on the same spots.

    Features are standardized and rotated to their principal components. There, ridge of any strength is one division,
    and without a limit on the components it is exactly ridge on the standardized features. Of scikit-learn, `RidgeCV`
    chooses by other scores than r within slides, and a `Ridge` for each strength takes about twice as long.
    """

    scaler: Scaler  # of the genes
    mean: np.ndarray  # (features,), with `scale` what features are standardized with; a constant one keeps its scale
    scale: np.ndarray
    components: np.ndarray  # (features, k) directions of the standardized features
    squares: np.ndarray  # (k,) sum of squares along each
    cross: np.ndarray  # (k, genes) products of components and standardized genes
    offset: np.ndarray  # (genes,) mean of the standardized genes

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


ALPHAS = tuple(10.0**power for power in np.arange(2, 7, 0.5))


class Ridge(Baseline):
    """Ridge regression on the context features of a spot, with its strength α tuned by cross-validation.

    Spot, mean sub-spot and maximum over the neighbors side by side are standardized, then regressed on standardized
    genes; where a slide did not measure a gene, the mean stands in. α is the one with the highest r on held-out folds:
    the mean over genes within a held-out slide, then over slides; undefined r counts as 0. A patient is never on both
    sides of a fold; with one patient a slide is not, and with one slide the folds are five strips across it (runs of
    rows, if positions are unknown). Users measured deep models losing to this one on the same embeddings, so it belongs
    beside every number of theirs.

    Parameters
    ----------
    alphas
        Strengths to choose from; a single one is taken as it is.
    context
        Sets to use, any of ``"spot"``, ``"subspots"``, ``"neighbors"``: those of the network to compare with.
    pca
        Number of principal components to keep, at most as many as there are; None keeps all, which is plain ridge.

    Attributes
    ----------
    alpha
        The chosen strength.
    scores
        Mean r on the held-out slides by strength; empty where there was nothing to choose.
    coef, intercept
        (features, genes) and (genes,) in float32, from features as they come to standardized genes.
    scaler
        Scale of the genes. It makes up the fitted state, with `coef`, `intercept` and `context`: prediction needs no
        more.

    References
    ----------
    Jaume et al., HEST-1k, 2024: there 256 principal components of the spot alone (``pca=256, context=("spot",)``) and
    a fixed α of 100 / (components × genes), far from the best.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.Ridge(context=("spot", "neighbors")).fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    _state = "coef"
    coef: np.ndarray
    intercept: np.ndarray
    scaler: Scaler

    def __init__(
        self, *, alphas: Sequence[float] = ALPHAS, context: Sequence[str] = CONTEXT, pca: int | None = None
    ) -> None:
        self.alphas = alphas
        self.context = context
        self.pca = pca
        self.alpha: float | None = None
        self.scores: dict[float, float] = {}

    def _fit(self, bags: Bags, targets: np.ndarray, rows: np.ndarray, slides: np.ndarray, patients: np.ndarray) -> None:
        strengths = [check_positive(alpha, "alphas") for alpha in self.alphas]
        if not strengths:
            raise InputError("`alphas` is empty: give at least one strength.")
        if self.pca is not None:
            check_positive(self.pca, "pca")
        features = context_features(bags, self.context)
        r: dict[float, list[float]] = {alpha: [] for alpha in strengths} if len(strengths) > 1 else {}
        splits = make_folds(rows, slides, patients, position=bags.position).splits if r else []
        for learn, test in splits:
            path = RidgePath.fit(features[learn], targets[learn], self.pca)
            rotated, known = path.rotate(features[test]), targets[test]
            parts = [np.flatnonzero(slides[test] == slide) for slide in np.unique(slides[test])]
            for alpha, values in r.items():
                predicted = rotated @ path.weights(alpha)
                values += [np.nan_to_num(pearson(predicted[part], known[part])).mean() for part in parts]
        scores = {alpha: float(np.mean(values)) for alpha, values in r.items()}
        best = max(strengths, key=lambda alpha: (scores.get(alpha, 0.0), alpha))  # of equals the stronger
        path = RidgePath.fit(features[rows], targets[rows], self.pca)
        self.coef, self.intercept = path.unfold(best)
        self.alpha, self.scores, self.scaler = best, scores, path.scaler

    def predict(self, bags: Bags, *, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression (n, genes) of all spots, or of the `rows` (n,), whose neighbors the others may be."""
        scores = self.predict_standardized(bags, rows=rows)
        return self.scaler.restore(scores).astype(np.float32)

    def predict_standardized(self, bags: Bags, *, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict standardized genes (n, genes), from `coef` and `intercept`."""
        self._check_fitted()
        features = context_features(bags, self.context, rows=rows)
        if features.shape[1] != len(self.coef):
            raise InputError(f"Ridge was fitted to {len(self.coef)} features, but the bags make {features.shape[1]}.")
        return features @ self.coef + self.intercept
