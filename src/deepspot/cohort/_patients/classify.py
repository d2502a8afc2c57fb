from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_seed
from deepspot.errors import InputError

from .profiles import check_known, one_profile_each
from .resampling import FOLDS, Classification, resample

if TYPE_CHECKING:
    from anndata import AnnData

# Candidate inverse strengths `C` of the penalty, for profiles with a mean squared length of 1.
STRENGTHS = (0.1, 1.0, 10.0, 100.0)


@checked
def classify(
    expression: AnnData,
    *,
    label_key: str,
    patient_key: str,
    tissue_area_key: str | None = None,
    genes: Sequence[str] | None = None,
    n_train: int | Sequence[int] = (75, 100, 125),
    n_repeats: int = 100,
    seed: int | None = None,
) -> Classification:
    """Measure how well profiles predict a class of patients, such as the type of tumor.

    Patients are split at random into training and test patients, stratified by class, and this is repeated. For each
    split, a logistic regression with an L2 penalty is fitted to the standardized profiles of the training patients. The
    strength of the penalty is the one of four with the smallest log loss in a 3-fold cross-validation of the training
    patients. The fit does not use the test patients.

    The score is the macro F1, the unweighted mean over classes of the F1 of each class. A control with permuted labels
    is fitted for each split. It shows the score of chance, which depends on the number of classes and their
    frequencies: at most 0.5 for two classes, and often less.

    Parameters
    ----------
    expression
        Profiles on a log scale, for example from :func:`deepspot.cohort.pseudobulk`, with clinical columns in `obs`.
    label_key
        Column of `obs` with the classes.
    patient_key, tissue_area_key, genes, n_train, n_repeats, seed
        As in :func:`deepspot.cohort.survival`. The label of a patient is that of the largest section.

    Returns
    -------
    Scores of all splits, and their summary.

    Raises
    ------
    KeyError
        If a column or gene does not exist.
    TypeError
        If `expression` is not an AnnData.
    ValueError
        If a label is missing, there is only one label, the largest section of a patient is unknown, there are too few
        patients of a class, or values are raw counts.

    References
    ----------
    DeepSpot, section 4.4.6.

    Examples
    --------
    >>> import deepspot as ds
    >>> import numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> kind = np.repeat(["primary", "metastasis"], 30)
    >>> X = np.random.default_rng(0).standard_normal((60, 20))
    >>> X[:, 0] += 3 * (kind == "primary")
    >>> names = [f"P{number}" for number in range(60)]
    >>> profiles = AnnData(X, obs=pd.DataFrame({"kind": kind, "patient": names}, index=names))
    >>> result = ds.cohort.classify(profiles, label_key="kind", patient_key="patient", n_train=40, n_repeats=5)
    >>> bool(result.summary().loc[40, "mean"] > 0.75)
    True
    """
    X, obs, profiles = one_profile_each(
        expression,
        patient_key=patient_key,
        tissue_area_key=tissue_area_key,
        genes=genes,
        outcome_keys=[label_key],
        same_outcome=False,
    )
    check_known(obs[label_key])
    labels = obs[label_key].astype(str).astype(object)
    if labels.nunique() == 1:
        raise InputError(f"obs[{label_key!r}] is {labels.iloc[0]!r} for all patients; at least two classes are needed.")
    seed = check_seed(seed)
    truth = labels.to_numpy()

    def score(X: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
        from sklearn.metrics import f1_score

        predicted, strength = fit_and_predict(X[train], truth[train], X[test], seed=seed)
        return {Classification.SCORE: float(f1_score(truth[test], predicted, average="macro")), "strength": strength}

    table = resample(X, labels, score, n_train=n_train, n_repeats=n_repeats, seed=seed, what=f"obs[{label_key!r}]")
    result = Classification(table, pd.DataFrame({"profile": profiles, "label": labels}), X.shape[1], seed)
    logger.info("%r", result)
    return result


def fit_and_predict(X: np.ndarray, labels: np.ndarray, unseen: np.ndarray, *, seed: int) -> tuple[np.ndarray, float]:
    """Fit to training patients (n, genes); return the labels (m,) of unseen patients (m, genes), and the chosen `C`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    spread = X.std(axis=0)
    varies = spread > 1e-12
    Z, unseen = ((part[:, varies] - X[:, varies].mean(axis=0)) / spread[varies] for part in (X, unseen))
    # The L2 penalty does not change with a rotation: n principal axes instead of all genes give the same result.
    left, sizes, axes = np.linalg.svd(Z, full_matrices=False)
    length = max(np.sqrt((sizes**2).sum() / len(Z)), 1e-12)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": STRENGTHS}, scoring="neg_log_loss", cv=folds)
    search.fit(left * sizes / length, labels)
    return search.predict(unseen @ axes.T / length), float(search.best_params_["C"])
