"""Measured slides become one training set: patients, genes by name, counts on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.logging import logger
from deepspot._core.validate import key_in
from deepspot._sdata.tables import array_positions, match_rows, rows_of
from deepspot._stats.normalize import check_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass(frozen=True)
class MeasuredSlide:
    """Counts of the spots of one slide that have any.

    Attributes
    ----------
    name, patient
        Whose slide it is.
    counts
        (n, genes) raw counts.
    genes
        Their names.
    rows
        (n,) positions of these spots among the shapes.
    array
        (n, 2) their rows and columns in the spot array, if known.
    """

    name: str
    patient: str
    counts: csr_matrix
    genes: pd.Index
    rows: np.ndarray
    array: np.ndarray | None = None


def as_mapping(sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData]) -> dict[str, SpatialData]:
    """Name the slides: one, a list or a mapping."""
    from spatialdata import SpatialData

    if isinstance(sdatas, SpatialData):
        return {"slide": sdatas}
    if isinstance(sdatas, Mapping):
        named = {str(name): sdata for name, sdata in sdatas.items()}
    else:
        named = {f"slide_{number}": sdata for number, sdata in enumerate(sdatas, start=1)}
    if not named:
        raise ValueError("`sdatas` is empty. Pass a SpatialData, a list of them, or a mapping from names to them.")
    for name, sdata in named.items():
        if not isinstance(sdata, SpatialData):
            raise TypeError(f"Slide {name!r} is a {type(sdata).__name__}, not a SpatialData. Read it with `ds.io`.")
    return named


def patients_of(tables: Mapping[str, AnnData], patient_key: str | Mapping[str, str] | None) -> dict[str, str]:
    """Patient of every slide."""
    if patient_key is None:
        if len(tables) > 1:
            raise ValueError(
                "Several slides need `patient_key`: a column of `obs`, or a mapping from slides to patients. Without "
                "it nobody can keep a patient out of training, and no accuracy could be believed."
            )
        return dict.fromkeys(tables, "unknown")
    if isinstance(patient_key, Mapping):
        stated = {name: patient_key[key_in(name, patient_key, "patient_key")] for name in tables}
        unknown = [name for name, patient in stated.items() if pd.isna(patient)]
        if unknown:
            raise ValueError(f"`patient_key` names no patient for slides {unknown}. State whose they are.")
        return {name: str(patient).strip() for name, patient in stated.items()}
    patients = {}
    for name, table in tables.items():
        values = table.obs[key_in(patient_key, table.obs.columns, f"obs of slide {name!r}")].unique()
        if len(values) != 1 or pd.isna(values[0]):
            raise ValueError(f"Slide {name!r} must be of one patient, but obs[{patient_key!r}] says {list(values)}.")
        patients[name] = str(values[0]).strip()
    return patients


def measure(
    name: str, sdata: SpatialData, shapes_key: str, table_key: str, *, patient: str, layer: str | None
) -> MeasuredSlide:
    """Counts of a slide, matched to its shapes by instance."""
    counts, _, rows = matched_counts(name, sdata, shapes_key, table_key, layer=layer)
    array, genes = array_positions(sdata, shapes_key), sdata.tables[table_key].var_names
    return with_counts(name, patient, counts, genes, rows, array)


def with_counts(
    name: str, patient: str, counts: csr_matrix, genes: pd.Index, rows: np.ndarray, array: np.ndarray | None = None
) -> MeasuredSlide:
    """The spots that have any counts; `array` are the positions of all shapes."""
    seen = np.asarray(counts.sum(axis=1)).ravel() > 0
    if not seen.any():
        raise ValueError(f"Slide {name!r} has no spot with counts. Leave it out, or name another table or layer.")
    if not seen.all():
        logger.warning("Slide %r: %d spots without counts are left out.", name, int((~seen).sum()))
    return MeasuredSlide(name, patient, counts[seen], genes, rows[seen], None if array is None else array[rows[seen]])


def matched_counts(
    name: str, sdata: SpatialData, shapes_key: str, table_key: str, *, layer: str | None
) -> tuple[csr_matrix, np.ndarray, np.ndarray]:
    """Raw counts of the spots that a table shares with shapes, their rows in it, and their positions among these."""
    table = sdata.tables[table_key]
    where = f"X of table {table_key!r} of slide {name!r}"
    if layer is not None:
        where = f"Layer {layer!r} of table {table_key!r} of slide {name!r}"
        key_in(layer, table.layers, f"layers of table {table_key!r} of slide {name!r}")
    if not table.var_names.is_unique:
        raise ValueError(f"Gene names of slide {name!r} are not unique. Call `var_names_make_unique` on its table.")
    counts = check_counts(table.X if layer is None else table.layers[layer], where)
    ours, rows = match_rows(table, sdata, shapes_key)
    if len(ours) == 0:
        raise ValueError(
            f"Table {table_key!r} of slide {name!r} and shapes {shapes_key!r} have no spot in common: the table has "
            f"{list(rows_of(table, shapes_key)[:3])}, the shapes have "
            f"{list(sdata.shapes[shapes_key].index[:3])}. Give both the same identifiers, of the same type."
        )
    return counts[ours], ours, rows
