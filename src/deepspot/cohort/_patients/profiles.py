"""Selection of one profile for each patient, and checks of profiles and outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from deepspot._core.keys import UNS, key_in
from deepspot._core.logging import logger
from deepspot._core.validate import check_genes
from deepspot._stats.log_scale import look_like_counts, look_linear
from deepspot.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from anndata import AnnData

REGION = "region"


def one_profile_each(
    expression: AnnData,
    *,
    patient_key: str,
    tissue_area_key: str | None,
    genes: Sequence[str] | None,
    outcome_keys: Sequence[str],
    same_outcome: bool,
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Select the largest section of each patient.

    Returns the values (patients, genes) of genes that no patient lacks, `obs` by patient, and the names of the
    profiles (patients,). With `same_outcome`, sections of one patient must not differ in their outcome.
    """
    from anndata import AnnData

    if not isinstance(expression, AnnData):
        raise InputTypeError(
            f"`expression` must be an AnnData with a row for each profile, got {type(expression).__name__}. Make one "
            "with `ds.cohort.pseudobulk`, or `AnnData(table_of_genes, obs=table_of_patients)`."
        )
    obs = expression.obs
    for key in [patient_key, *outcome_keys, *([] if tissue_area_key is None else [tissue_area_key])]:
        key_in(key, obs.columns, "obs of the profiles")
    if expression.uns.get(UNS, {}).get("groupby") and obs[REGION].nunique() > 1:
        regions = pd.unique(obs[REGION]).tolist()
        raise InputError(
            f"These are profiles of several regions, {regions}. Choose one: "
            f"`profiles[profiles.obs[{REGION!r}] == {regions[0]!r}]`."
        )
    unnamed = obs.index[obs[patient_key].isna()]
    if len(unnamed):
        raise InputError(
            f"obs[{patient_key!r}] is missing for {list(unnamed[:5])}. Fill it in, or leave these profiles out."
        )
    patients = obs[patient_key].astype(str).str.strip().to_numpy()
    for key in outcome_keys if same_outcome else []:
        differ = obs[key].groupby(patients).nunique(dropna=False) > 1
        if differ.any():
            first = str(differ.index[differ][0])
            raise InputError(
                f"Sections of one patient differ in obs[{key!r}]: patient {first!r} has "
                f"{pd.unique(obs[key][patients == first]).tolist()}. It must be the same for a patient."
            )
    rows = _largest_sections(obs, patients, patient_key, tissue_area_key)
    X = log_values(expression, "the profiles", genes)[rows]
    known = np.isfinite(X).all(axis=0)
    if not known.any():
        raise InputError(
            "Every gene is missing for some patient. Leave out those without profiles: "
            f"{list(patients[rows][~np.isfinite(X).any(axis=1)][:5])}."
        )
    if not known.all():
        logger.warning("%d of %d genes are missing for some patient and are left out.", (~known).sum(), len(known))
    return X[:, known], obs.iloc[rows].set_axis(patients[rows]), obs.index.to_numpy()[rows]


def log_values(table: AnnData, what: str, genes: Sequence[str] | None = None) -> np.ndarray:
    """Return the values (n, genes) of a table; raise if they seem to be raw counts."""
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
    if look_linear(X):
        raise InputError(
            f"X of {what} holds values of up to {np.nanmax(X):,.0f}, so these are no logarithms. Pass values on a log "
            "scale, such as `np.log2(tpm + 1)`."
        )
    return X


def check_known(column: pd.Series) -> None:
    """Raise if an outcome is missing for a patient."""
    missing = column.index[column.isna()]
    if len(missing):
        raise InputError(
            f"obs[{column.name!r}] is missing for {len(missing)} patients, such as {list(missing[:5])}. Fill it in, or "
            "leave them out."
        )


def _largest_sections(
    obs: pd.DataFrame, patients: np.ndarray, patient_key: str, tissue_area_key: str | None
) -> np.ndarray:
    """Return the rows of the largest section of each patient, in their order; of equally large ones, the first."""
    several = pd.Series(patients).duplicated(keep=False).to_numpy()
    if not several.any():
        return np.arange(len(patients))
    names = pd.unique(patients[several])
    if tissue_area_key is None:
        raise InputError(
            f"{len(names)} patients have several sections by obs[{patient_key!r}], such as {list(names[:3])}. Name a "
            "column with `tissue_area_key=` to keep the largest of each (`tissue_area_key='spots'` uses the number of "
            "spots), or keep one row of each patient yourself."
        )
    area = pd.to_numeric(obs[tissue_area_key]).to_numpy(dtype=float)
    unknown = several & ~np.isfinite(area)
    if unknown.any():
        raise InputError(
            f"obs[{tissue_area_key!r}] is missing for sections of patients who have several: "
            f"{list(obs.index[unknown][:5])}. Fill it in, or leave these sections out."
        )
    by_patient = pd.Series(np.nan_to_num(area)).groupby(patients, sort=False)
    largest = area == by_patient.transform("max").to_numpy()
    ties = pd.Series(patients[several & largest]).duplicated().sum()
    hint = f" (the first of them for {ties} ties)" if ties else ""
    logger.info(
        "%d patients have several sections: the one with the largest %s is kept%s.", len(names), tissue_area_key, hint
    )
    return np.sort(by_patient.idxmax().to_numpy())
