from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._logging import logger
from deepspot._settings import settings

from ._patients import _logistic
from ._patients._resampling import check_sizes, resample
from ._patients._results import Classification
from ._patients._rows import one_each

if TYPE_CHECKING:
    from anndata import AnnData


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
    """Measure how well profiles tell classes of patients apart, such as types of tumour.

    Patients are drawn at random to train on, in proportion to the classes, and all others are tested; this is repeated.
    In every split, a logistic regression with an L2 penalty is fitted to the standardised profiles. The strength of
    its penalty is the one of four with the smallest log loss in 3-fold cross-validation of the training patients.
    Nothing of the tested patients is used.

    The score is the macro F1: the mean over classes of the F1 of each, however rare it is. Beside every fit stands
    one with permuted labels. It shows what chance reaches, which depends on how many classes there are, and how common
    each is: 0.5 at most for two classes, and often less.

    Parameters
    ----------
    expression
        Profiles on a log scale, such as of :func:`deepspot.tl.pseudobulk`; clinical columns are in `obs`.
    label
        Column of `obs` with the classes.
    patient, tissue_area, genes, n_train, repeats, seed
        As in :func:`deepspot.tl.survival`. If sections of a patient have different labels, that of the largest counts.

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
    >>> found = ds.tl.classify(profiles, label="kind", patient="patient", n_train=40, repeats=5)
    >>> bool(found.summary().loc[40, "mean"] > 0.75)
    True
    """
    patients = one_each(
        expression, patient=patient, tissue_area=tissue_area, genes=genes, columns=[label], alike=False
    )  # fmt: skip
    labels = _labels(patients.obs[label], label)
    sizes = check_sizes(n_train, repeats, labels, f"obs[{label!r}]")
    seed = settings.seed if seed is None else seed
    truth = labels.to_numpy()

    def score(X: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, float]:
        from sklearn.metrics import f1_score

        found, strength = _logistic.predict(X[train], truth[train], X[test], seed=seed)
        return {"f1": float(f1_score(truth[test], found, average="macro")), "strength": strength}

    table = resample(patients.X, truth, score, n_train=sizes, repeats=repeats, seed=seed, name=Classification.SCORE)
    read = pd.DataFrame({"profile": patients.profiles, "label": labels})
    result = Classification(table, read, patients.X.shape[1], seed)
    logger.info("%r", result)
    return result


def _labels(column: pd.Series, name: str) -> pd.Series:
    missing = column.isna()
    if missing.any():
        raise ValueError(
            f"obs[{name!r}] is missing for {missing.sum()} patients, such as {list(column.index[missing][:5])}. Fill "
            "it in, or leave them out."
        )
    labels = column.astype(str).astype(object)
    if labels.nunique() == 1:
        raise ValueError(f"obs[{name!r}] is {labels.iloc[0]!r} for all patients, so there is nothing to tell apart.")
    return labels
