"""One profile for each patient: the largest section, and genes that all patients have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from deepspot._core.keys import UNS
from deepspot._core.logging import logger
from deepspot._core.validate import check_genes, key_in
from deepspot._stats.log_scale import NEXT, look_like_counts

if TYPE_CHECKING:
    from anndata import AnnData

WHERE = "obs of the profiles"
REGION = "region"


@dataclass(frozen=True, eq=False)
class Patients:
    """Profiles of patients, one each.

    Attributes
    ----------
    X
        (patients, genes) float64, without missing values.
    obs
        What is known of the rows that were kept, by the name of the patient.
    profiles
        (patients,) names of these rows.
    """

    X: np.ndarray
    obs: pd.DataFrame
    profiles: np.ndarray


def one_each(
    expression: AnnData,
    *,
    patient: str,
    tissue_area: str | None,
    genes: Sequence[str] | None,
    columns: Sequence[str],
    alike: bool,
) -> Patients:
    """Keep the largest section of every patient.

    Parameters
    ----------
    expression
        Profiles.
    patient, tissue_area
        Columns of `obs`: whose they are, and by which the largest is chosen.
    genes
        Genes to keep, by default all.
    columns
        Columns of `obs` with what is to be predicted; they must be there.
    alike
        Whether these must be the same for all sections of a patient.
    """
    from anndata import AnnData

    if not isinstance(expression, AnnData):
        raise TypeError(
            f"`expression` must be an AnnData with a row for each profile, got {type(expression).__name__}. Make one "
            "with `ds.tl.pseudobulk`, or `AnnData(table_of_genes, obs=table_of_patients)`."
        )
    obs = expression.obs
    for column in [patient, *columns, *([] if tissue_area is None else [tissue_area])]:
        key_in(column, obs.columns, WHERE)
    _check_regions(expression)
    nobody = obs.index[obs[patient].isna()]
    if len(nobody):
        raise ValueError(
            f"obs[{patient!r}] is missing for {list(nobody[:5])}. State whose they are, or leave them out."
        )
    names = obs[patient].astype(str).str.strip().to_numpy()
    if alike:
        _check_alike(obs, names, columns)
    rows = _largest(obs, names, patient, tissue_area)
    X = _values(expression, genes)[rows]
    known = np.isfinite(X).all(axis=0)
    if not known.any():
        raise ValueError(
            "Every gene is missing for some patient. Leave out those without profiles: "
            f"{list(names[rows][~np.isfinite(X).any(axis=1)][:5])}."
        )
    if not known.all():
        logger.warning("%d of %d genes are missing for some patient and are left out.", (~known).sum(), len(known))
    return Patients(X[:, known], obs.iloc[rows].set_axis(names[rows]), obs.index.to_numpy()[rows])


def _check_regions(expression: AnnData) -> None:
    """Profiles of several regions of a slide are no sections to choose the largest of."""
    if expression.uns.get(UNS, {}).get("groupby") and expression.obs[REGION].nunique() > 1:
        regions = pd.unique(expression.obs[REGION]).tolist()
        raise ValueError(
            f"These are profiles of several regions, {regions}. Choose one: "
            f"`profiles[profiles.obs[{REGION!r}] == {regions[0]!r}]`."
        )


def _check_alike(obs: pd.DataFrame, names: np.ndarray, columns: Sequence[str]) -> None:
    for column in columns:
        differ = obs[column].groupby(names).nunique(dropna=False) > 1
        if differ.any():
            who = str(differ.index[differ][0])
            raise ValueError(
                f"Sections of one patient differ in obs[{column!r}]: patient {who!r} has "
                f"{pd.unique(obs[column][names == who]).tolist()}. It must be the same for a patient."
            )


def _largest(obs: pd.DataFrame, names: np.ndarray, patient: str, tissue_area: str | None) -> np.ndarray:
    """Positions of the rows to keep, in their order."""
    several = pd.Series(names).duplicated(keep=False).to_numpy()
    if not several.any():
        return np.arange(len(names))
    who = pd.unique(names[several])
    if tissue_area is None:
        raise ValueError(
            f"{len(who)} patients have several sections by obs[{patient!r}], such as {list(who[:3])}. Name a column "
            "with `tissue_area=`, to keep the largest of each (`tissue_area='spots'` goes by the number of spots), or "
            "keep one row of each patient yourself."
        )
    area = pd.to_numeric(obs[tissue_area]).to_numpy(dtype=float)
    unknown = several & ~np.isfinite(area)
    if unknown.any():
        raise ValueError(
            f"obs[{tissue_area!r}] is missing for sections of patients who have several: "
            f"{list(obs.index[unknown][:5])}. Fill it in, or leave these sections out."
        )
    order = np.lexsort((np.arange(len(names)), -np.nan_to_num(area)))  # of equally large ones the first
    kept = np.sort(order[~pd.Series(names[order]).duplicated().to_numpy()])
    largest = pd.Series(area).groupby(names).transform("max").to_numpy()
    ties = pd.Series(names[several & (area == largest)]).duplicated().sum()
    logger.info(
        "%d patients have several sections: the one with the largest %s is kept%s.", len(who), tissue_area,
        f", and the first where {ties} are as large" if ties else "",
    )  # fmt: skip
    return kept


def _values(expression: AnnData, genes: Sequence[str] | None) -> np.ndarray:
    if not expression.var_names.is_unique:
        raise ValueError("Gene names of the profiles are not unique. Call `var_names_make_unique` on them first.")
    X = expression.X
    if genes is not None:
        X = X[:, expression.var_names.get_indexer(check_genes(genes, expression.var_names, "the profiles"))]
    X = X.toarray() if issparse(X) else X
    X = np.asarray(X, dtype=np.float64)
    if look_like_counts(X):
        raise ValueError(
            f"X of the profiles holds whole numbers, so these seem to be raw counts; a log scale is needed. {NEXT}."
        )
    return X
