from __future__ import annotations

from typing import Any

import numpy as np

from deepspot._bags import Bags
from deepspot._check import same_length
from deepspot._metrics import pearson
from deepspot.models._features import context_features
from deepspot.models._rows import labels, which_rows
from deepspot.models._scaler import Scaler

ALPHAS = tuple(10.0**power for power in np.arange(2, 7, 0.5))


class Ridge:
    """Ridge regression on the context features of a spot, with α tuned by cross-validation.

    Spot, mean sub-spot and maximum over the neighbours side by side are standardised, then regressed on standardised
    genes. The strength α is the one with the highest mean r over genes on the held-out folds. Users measured deep
    models losing to this one on the same embeddings, so it belongs beside every number of theirs.

    Parameters
    ----------
    alphas
        Strengths to choose from.

    Attributes
    ----------
    alpha
        The chosen strength.

    References
    ----------
    The HEST benchmark's regression (there with PCA to 256 dimensions and a fixed α).

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> spot = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(spot, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.Ridge().fit(bags, spot[:, :2]).predict(bags).shape
    (40, 2)
    """

    def __init__(self, alphas: tuple[float, ...] = ALPHAS) -> None:
        self.alphas = alphas
        self.alpha: float | None = None
        self.scaler: Scaler | None = None
        self.pipeline: Any = None

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
    ) -> Ridge:
        """Fit to measured expression.

        Parameters
        ----------
        bags
            Embeddings of n spots.
        targets
            (n, genes) log-expression; where a slide did not measure a gene (NaN) the mean stands in.
        rows
            Spots to learn from; by default all.
        slides, patients
            (n,) slide and patient of every spot. A patient is never on both sides of a fold; with one patient a slide
            is not, and with one slide the folds are five runs of neighbouring rows.
        """
        from sklearn.linear_model import Ridge as Regression
        from sklearn.model_selection import GridSearchCV, KFold, LeaveOneGroupOut
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        same_length(bags.spot, targets, "`bags` and `targets`")
        rows = which_rows(rows, len(bags))
        candidates = [labels(values, len(bags), name)[rows] for name, values in
                      (("patients", patients), ("slides", slides))]  # fmt: skip
        groups = next((group for group in candidates if len(np.unique(group)) > 1), None)
        features = context_features(bags)[rows]
        self.scaler = Scaler.fit(targets[rows])
        scores = np.nan_to_num(self.scaler.standardize(targets[rows]))
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Regression()),
            {"ridge__alpha": list(self.alphas)},
            scoring=_mean_r,
            cv=KFold(5) if groups is None else LeaveOneGroupOut(),
        )
        search.fit(features, scores, groups=groups)
        self.pipeline, self.alpha = search.best_estimator_, search.best_params_["ridge__alpha"]
        return self

    def predict(self, bags: Bags) -> np.ndarray:
        """Predict log-expression (n, genes)."""
        if self.pipeline is None or self.scaler is None:
            raise ValueError("Ridge is not fitted yet. Call `fit` first.")
        return self.scaler.restore(self.pipeline.predict(context_features(bags))).astype(np.float32)


def _mean_r(model: Any, features: np.ndarray, scores: np.ndarray) -> float:
    return float(np.nan_to_num(pearson(model.predict(features), scores)).mean())
