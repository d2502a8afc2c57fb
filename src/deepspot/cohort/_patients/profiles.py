"""One profile for each patient: the largest section, and genes that all patients have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from deepspot._core.keys import UNS, key_in
from deepspot._core.logging import logger
from deepspot._core.validate import check_genes
from deepspot._stats.log_scale import look_like_counts
from deepspot.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from anndata import AnnData

REGION = "region"


def one_profile_each(
    expression: AnnData,
    *,
    patient: str,
    tissue_area: str | None,
    genes: Sequence[str] | None,
    columns: Sequence[str],
    alike: bool,
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Keep the largest section of every patient.

    `columns` must be in `obs`, and if they are `alike` the same for all sections of a patient. Returns values
    (patients, genes) without the genes that some patient lacks, the rows of `obs` by the patient, and the names of the
    profiles.
    """
    from anndata import AnnData

    if not isinstance(expression, AnnData):
        raise InputTypeError(
            f"`expression` must be an AnnData with a row for each profile, got {type(expression).__name__}. Make one "
            "with `ds.cohort.pseudobulk`, or `AnnData(table_of_genes, obs=table_of_patients)`."
        )
    obs = expression.obs
    for column in [patient, *columns, *([] if tissue_area is None else [tissue_area])]:
        key_in(column, obs.columns, "obs of the profiles")
    # Profiles of several regions of a slide are no sections to choose the largest of.
    if expression.uns.get(UNS, {}).get("groupby") and obs[REGION].nunique() > 1:
        regions = pd.unique(obs[REGION]).tolist()
        raise InputError(
            f"These are profiles of several regions, {regions}. Choose one: "
            f"`profiles[profiles.obs[{REGION!r}] == {regions[0]!r}]`."
        )
    nobody = obs.index[obs[patient].isna()]
    if len(nobody):
        raise InputError(
            f"obs[{patient!r}] is missing for {list(nobody[:5])}. State whose they are, or leave them out."
        )
    names = obs[patient].astype(str).str.strip().to_numpy()
    for column in columns if alike else []:
        differ = obs[column].groupby(names).nunique(dropna=False) > 1
        if differ.any():
            who = str(differ.index[differ][0])
            raise InputError(
                f"Sections of one patient differ in obs[{column!r}]: patient {who!r} has "
                f"{pd.unique(obs[column][names == who]).tolist()}. It must be the same for a patient."
            )
    rows = _largest(obs, names, patient, tissue_area)
    X = log_values(expression, "the profiles", genes)[rows]
    known = np.isfinite(X).all(axis=0)
    if not known.any():
        raise InputError(
            "Every gene is missing for some patient. Leave out those without profiles: "
            f"{list(names[rows][~np.isfinite(X).any(axis=1)][:5])}."
        )
    if not known.all():
        logger.warning("%d of %d genes are missing for some patient and are left out.", (~known).sum(), len(known))
    return X[:, known], obs.iloc[rows].set_axis(names[rows]), obs.index.to_numpy()[rows]


def log_values(table: AnnData, what: str, genes: Sequence[str] | None = None) -> np.ndarray:
    """Values (n, genes) of some or all genes of a table, as far as can be known on a log scale."""
    if not table.var_names.is_unique:
        raise InputError(
            f"Gene names of {what} are not unique: {list(table.var_names[table.var_names.duplicated()][:3])}. Keep one "
            "each, or call `var_names_make_unique`."
        )
    X = table.X
    if genes is not None:
        X = X[:, table.var_names.get_indexer(check_genes(genes, table.var_names, what))]
    X = np.asarray(X.toarray() if issparse(X) else X, dtype=np.float64)
    if look_like_counts(X):
        raise InputError(
            f"X of {what} holds whole numbers, so these seem to be raw counts. Pass values on a log scale: "
            "`np.log2(tpm + 1)` of bulk RNA, or call `sc.pp.normalize_total` and `sc.pp.log1p` on a copy."
        )
    return X


def check_known(column: pd.Series) -> None:
    """Raise if an outcome is missing for some patient."""
    missing = column.index[column.isna()]
    if len(missing):
        raise InputError(
            f"obs[{column.name!r}] is missing for {len(missing)} patients, such as {list(missing[:5])}. Fill it in, or "
            "leave them out."
        )


def _largest(obs: pd.DataFrame, names: np.ndarray, patient: str, tissue_area: str | None) -> np.ndarray:
    """Positions of the rows to keep, in their order."""
    several = pd.Series(names).duplicated(keep=False).to_numpy()
    if not several.any():
        return np.arange(len(names))
    who = pd.unique(names[several])
    if tissue_area is None:
        raise InputError(
            f"{len(who)} patients have several sections by obs[{patient!r}], such as {list(who[:3])}. Name a column "
            "with `tissue_area=`, to keep the largest of each (`tissue_area='spots'` goes by the number of spots), or "
            "keep one row of each patient yourself."
        )
    area = pd.to_numeric(obs[tissue_area]).to_numpy(dtype=float)
    unknown = several & ~np.isfinite(area)
    if unknown.any():
        raise InputError(
            f"obs[{tissue_area!r}] is missing for sections of patients who have several: "
            f"{list(obs.index[unknown][:5])}. Fill it in, or leave these sections out."
        )
    by_patient = pd.Series(np.nan_to_num(area)).groupby(names, sort=False)
    largest = by_patient.transform("max").to_numpy()
    ties = pd.Series(names[several & (area == largest)]).duplicated().sum()
    hint = f", and the first where {ties} are as large" if ties else ""
    logger.info(f"{len(who)} patients have several sections: the one with the largest {tissue_area} is kept{hint}.")
    return np.sort(by_patient.idxmax().to_numpy())  # of equally large ones the first
