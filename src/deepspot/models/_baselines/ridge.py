from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deepspot._core.validate import check_count, check_positive
from deepspot._features.bags import Bags
from deepspot._stats.metrics import pearson
from deepspot.errors import InputError
from deepspot.models._confidence.folds import make_folds
from deepspot.models._inputs import CLIP, CONTEXT, Scaler, context_features

from .base import Baseline

FLAT = 1e-10  # share of the largest variance below which a component is rounding error
ALPHAS = tuple(np.logspace(2, 6.5, 10).tolist())


@dataclass(frozen=True, eq=False)
class RidgePath:
    """Ridge regressions of any strength on the same spots.

    Features are standardized and projected to their principal components, where ridge of any strength is one division.
    With all components it equals ridge on the standardized features. scikit-learn's `RidgeCV` has no score within
    slides, and a `Ridge` for each strength takes about twice as long.
    """

    scaler: Scaler  # of the genes
    mean: np.ndarray  # (features,) mean and scale of the features; a constant feature has scale 1
    scale: np.ndarray
    components: np.ndarray  # (features, k) principal directions of the standardized features
    squares: np.ndarray  # (k,) sum of squares along each
    cross: np.ndarray  # (k, genes) products of components and standardized genes
    offset: np.ndarray  # (genes,) mean of the standardized genes

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        targets: np.ndarray,
        n_components: int | None = None,
        weights: np.ndarray | None = None,
    ) -> RidgePath:
        """Fit to features (n, d) and targets (n, genes), in which NaN is replaced by the mean of the gene.

        `weights` (n,) of the spots in the squared error are 1 by default.
        """
        from sklearn.preprocessing import StandardScaler

        root = np.ones((len(features), 1)) if weights is None else np.sqrt(weights, dtype=np.float64)[:, None]
        standard = StandardScaler().fit(features, sample_weight=weights)
        x = root * standard.transform(features).astype(np.float64)  # squared below
        scaler = Scaler.fit(targets)
        y = root * np.nan_to_num(scaler.standardize(targets))
        components = _principal(x, n_components)
        rotated = x @ components
        squares, cross = (rotated**2).sum(axis=0), rotated.T @ y  # weighted means of x are 0: y need not be centered
        return cls(
            scaler, standard.mean_, standard.scale_, components, squares, cross, (root * y).sum(0) / (root**2).sum()
        )

    def bounds(self, clip: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest value (d,) of the features, `clip` standard deviations from their mean."""
        reach = np.inf if clip is None else clip * self.scale
        return (self.mean - reach).astype(np.float32), (self.mean + reach).astype(np.float32)

    def rotate(self, features: np.ndarray) -> np.ndarray:
        """Return the principal components (n, k) of features (n, d)."""
        return ((features - self.mean) / self.scale) @ self.components

    def weights(self, alpha: float) -> np.ndarray:
        """Return the weights (k, genes) of ridge of strength `alpha` on the principal components."""
        return self.cross / (self.squares + alpha)[:, None]

    def unfold(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """Return coefficients (d, genes) on the original features and intercepts (genes,), both in float32."""
        coef = (self.components @ self.weights(alpha)) / self.scale[:, None]
        return coef.astype(np.float32), (self.offset - self.mean @ coef).astype(np.float32)


def _principal(x: np.ndarray, n_components: int | None) -> np.ndarray:
    """Return principal directions from the smaller Gram matrix; a full SVD takes ten times as long."""
    wide = x.shape[0] < x.shape[1]
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    keep = np.flatnonzero(values > FLAT * values[-1])[::-1][:n_components]
    return x.T @ (vectors[:, keep] / np.sqrt(values[keep])) if wide else vectors[:, keep]


@dataclass(eq=False, kw_only=True)
class Ridge(Baseline):
    """Ridge regression on the context features of a spot, with its strength α tuned by cross-validation.

    The features are the spot, the mean of its sub-spots and the maximum over its neighbors, concatenated and
    standardized; the targets are standardized genes, with the mean for unmeasured values. α has the highest r on
    held-out folds: the mean over genes within a held-out slide, then over slides; undefined r counts as 0. No patient
    is on both sides of a fold; with one patient the folds are over its slides, and with one slide they are five strips
    (runs of rows, if positions are unknown). It is a strong baseline: deep models have been reported to lose to it on
    the same embeddings.

    Parameters
    ----------
    alphas
        Strengths to choose from; a single one is not tuned.
    context
        Sets to use, any of ``"spot"``, ``"subspots"``, ``"neighbors"``; for a comparison those of the network.
    pca
        Maximum number of principal components; None keeps all, which is plain ridge.
    clip
        In prediction, features are clipped to this number of standard deviations from their mean in the training set,
        because a linear model extrapolates without bounds. None does not clip.

    Attributes
    ----------
    alpha
        The chosen strength.
    scores
        Mean r on the held-out slides by strength; empty with a single strength.
    coef, intercept
        (features, genes) and (genes,) in float32, from unscaled features to standardized genes.
    low, high
        (features,) bounds of the features in prediction, in float32.
    scaler
        Scale of the genes. With `coef`, `intercept`, `low`, `high` and `context` it is all that prediction needs.

    References
    ----------
    Jaume et al., HEST-1k, 2024: 256 principal components of the spot alone (``pca=256, context=("spot",)``) and a fixed
    α of 100 / (components × genes), far from the best. It does not clip features.

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
    alphas: Sequence[float] = ALPHAS
    context: Sequence[str] = CONTEXT
    pca: int | None = None
    clip: float | None = CLIP
    alpha: float | None = field(init=False, default=None)
    scores: dict[float, float] = field(init=False, default_factory=dict, repr=False)
    coef: np.ndarray = field(init=False, repr=False)
    intercept: np.ndarray = field(init=False, repr=False)
    low: np.ndarray = field(init=False, repr=False, default_factory=lambda: np.full(1, -np.inf, dtype=np.float32))
    high: np.ndarray = field(init=False, repr=False, default_factory=lambda: np.full(1, np.inf, dtype=np.float32))
    scaler: Scaler = field(init=False, repr=False)

    def _fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        rows: np.ndarray,
        slides: np.ndarray,
        patients: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> None:
        weights = np.ones(len(bags)) if weights is None else weights
        strengths = [check_positive(alpha, "alphas") for alpha in self.alphas]
        if not strengths:
            raise InputError("`alphas` is empty: give at least one strength.")
        if self.pca is not None:
            check_count(self.pca, "pca")
        if self.clip is not None:
            check_positive(self.clip, "clip")
        features = context_features(bags, self.context)
        r: dict[float, list[float]] = {alpha: [] for alpha in strengths} if len(strengths) > 1 else {}
        splits = make_folds(rows, slides, patients, position=bags.position).splits if r else []
        for train, test in splits:
            path = RidgePath.fit(features[train], targets[train], self.pca, weights[train])
            rotated, known = path.rotate(features[test].clip(*path.bounds(self.clip))), targets[test]
            parts = [np.flatnonzero(slides[test] == slide) for slide in np.unique(slides[test])]
            for alpha, values in r.items():
                predicted = rotated @ path.weights(alpha)
                values += [np.nan_to_num(pearson(predicted[part], known[part])).mean() for part in parts]
        scores = {alpha: float(np.mean(values)) for alpha, values in r.items()}
        best = max(strengths, key=lambda alpha: (scores.get(alpha, 0.0), alpha))  # of equals the stronger
        path = RidgePath.fit(features[rows], targets[rows], self.pca, weights[rows])
        self.coef, self.intercept = path.unfold(best)
        self.low, self.high = path.bounds(self.clip)
        self.alpha, self.scores, self.scaler = best, scores, path.scaler

    def predict(self, bags: Bags, *, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression (n, genes) of all spots, or of `rows` (n,), whose neighbors may be other spots."""
        scores = self.predict_standardized(bags, rows=rows)
        return self.scaler.restore(scores).astype(np.float32)

    def predict_standardized(self, bags: Bags, *, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict standardized genes (n, genes), from `coef` and `intercept`."""
        features = context_features(bags, self.context, rows=rows)
        if features.shape[1] != len(self.coef):
            raise InputError(f"Ridge was fitted to {len(self.coef)} features, but the bags have {features.shape[1]}.")
        return features.clip(self.low, self.high) @ self.coef + self.intercept


def fit_weighted(
    bags: Bags,
    targets: np.ndarray,
    *,
    context: Sequence[str],
    rows: np.ndarray,
    slides: np.ndarray,
    patients: np.ndarray,
    weights: np.ndarray,
) -> Ridge:
    """Fit ridge with `weights` (n,) of the spots in the squared error. The input is not checked again."""
    ridge = Ridge(context=context)
    ridge._fit(bags, targets, rows, slides, patients, weights)
    return ridge
