from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot.errors import InputError

from .profiles import check_known, one_profile_each
from .resampling import FOLDS, Classification, resample

if TYPE_CHECKING:
    from anndata import AnnData

# Inverse strengths `C` to choose from, for profiles whose mean squared length is 1.
STRENGTHS = (0.1, 1.0, 10.0, 100.0)


def classify(
    expression: AnnData,
    *,
    label: str,
    patient: str,
    tissue_area: str | None = None,
    genes: Sequence[str] | None = None,
    n_train: int | Sequence[int] = (75, 100, 125),
    repeats: int = 100,
    seed: int | None = None,
) -> Classification:
    """Measure how well profiles tell classes of patients apart, such as types of tumor.

    Patients are drawn at random to train on, in proportion to the classes, and all others are tested; this is repeated.
    In every split, a logistic regression with an L2 penalty is fitted to the standardized profiles. The strength of
    its penalty is the one of four with the smallest log loss in 3-fold cross-validation of the training patients.
    Nothing of the tested patients is used.

    The score is the macro F1: the mean over classes of the F1 of each, however rare it is. For every fit there is
    one with permuted labels. It shows what chance reaches, which depends on how many classes there are, and how common
    each is: 0.5 at most for two classes, and often less.

    Parameters
    ----------
    expression
        Profiles on a log scale, such as of :func:`deepspot.cohort.pseudobulk`; clinical columns are in `obs`.
    label
        Column of `obs` with the classes.
    patient, tissue_area, genes, n_train, repeats, seed
        As in :func:`deepspot.cohort.survival`. If sections of a patient have different labels, the largest counts.

    Returns
    -------
    The scores of all splits, and their summary.

    Raises
    ------
    KeyError
        If there is no such column or gene.
    TypeError
        If `expression` is no AnnData.
    ValueError
        If a label is missing, there is only one, no section of a patient is known to be the largest, there are too few
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
    >>> found = ds.cohort.classify(profiles, label="kind", patient="patient", n_train=40, repeats=5)
    >>> bool(found.summary().loc[40, "mean"] > 0.75)
    True
    """
    X, obs, profiles = one_profile_each(
        expression, patient=patient, tissue_area=tissue_area, genes=genes, columns=[label], alike=False
    )
    check_known(obs[label])
    labels = obs[label].astype(str).astype(object)
    if labels.nunique() == 1:
        raise InputError(f"obs[{label!r}] is {labels.iloc[0]!r} for all patients, so there is nothing to tell apart.")
    seed = settings.seed if seed is None else seed
    truth = labels.to_numpy()

    def score(X: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
        from sklearn.metrics import f1_score

        found, strength = fit_and_predict(X[train], truth[train], X[test], seed=seed)
        return {Classification.SCORE: float(f1_score(truth[test], found, average="macro")), "strength": strength}

    table = resample(X, labels, score, n_train=n_train, repeats=repeats, seed=seed, what=f"obs[{label!r}]")
    result = Classification(table, pd.DataFrame({"profile": profiles, "label": labels}), X.shape[1], seed)
    logger.info("%r", result)
    return result


def fit_and_predict(X: np.ndarray, labels: np.ndarray, unseen: np.ndarray, *, seed: int) -> tuple[np.ndarray, float]:
    """Labels (m,) of unseen patients (m, genes) by a logistic regression of training patients (n, genes), and its `C`.

    `C` is the one with the smallest log loss on folds of the training patients.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    spread = X.std(axis=0)
    varies = spread > 1e-12
    Z, unseen = ((part[:, varies] - X[:, varies].mean(axis=0)) / spread[varies] for part in (X, unseen))
    # A penalty on the length of the weights does not care how the axes are turned: n patients need n of them, not one
    # for every gene, and the result is the same.
    left, sizes, axes = np.linalg.svd(Z, full_matrices=False)
    length = max(np.sqrt((sizes**2).sum() / len(Z)), 1e-12)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    search = GridSearchCV(LogisticRegression(max_iter=2000), {"C": STRENGTHS}, scoring="neg_log_loss", cv=folds)
    search.fit(left * sizes / length, labels)
    return search.predict(unseen @ axes.T / length), float(search.best_params_["C"])
