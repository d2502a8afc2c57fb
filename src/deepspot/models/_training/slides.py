"""Measured slides become one training set: patients, genes by name, counts on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import key_in
from deepspot._sdata.measured import MeasuredCounts, measured_counts
from deepspot._sdata.tables import array_positions
from deepspot.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


@dataclass(frozen=True, eq=False)
class MeasuredSlide(MeasuredCounts):
    """Counts of the spots of one training slide that have any.

    Attributes
    ----------
    patient
        Whose slide it is.
    array
        (n, 2) rows and columns of the spots in the spot array, if known.
    """

    patient: str
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
        raise InputError("`sdatas` is empty. Pass a SpatialData, a list of them, or a mapping from names to them.")
    for name, sdata in named.items():
        if not isinstance(sdata, SpatialData):
            raise InputTypeError(
                f"Slide {name!r} is a {type(sdata).__name__}, not a SpatialData. Read it with `ds.io`."
            )
    return named


def patients_of(tables: Mapping[str, AnnData], patient_key: str | Mapping[str, str] | None) -> dict[str, str]:
    """Patient of every slide."""
    if patient_key is None:
        if len(tables) > 1:
            raise InputError(
                "Several slides need `patient_key`: a column of `obs`, or a mapping from slides to patients. Without "
                "it nobody can keep a patient out of training, and no accuracy could be believed."
            )
        return dict.fromkeys(tables, "unknown")
    if isinstance(patient_key, Mapping):
        stated = {name: patient_key[key_in(name, patient_key, "patient_key")] for name in tables}
        unknown = [name for name, patient in stated.items() if pd.isna(patient)]
        if unknown:
            raise InputError(f"`patient_key` names no patient for slides {unknown}. State whose they are.")
        return {name: str(patient).strip() for name, patient in stated.items()}
    patients = {}
    for name, table in tables.items():
        values = table.obs[key_in(patient_key, table.obs.columns, f"obs of slide {name!r}")].unique()
        if len(values) != 1 or pd.isna(values[0]):
            raise InputError(f"Slide {name!r} must be of one patient, but obs[{patient_key!r}] says {list(values)}.")
        patients[name] = str(values[0]).strip()
    return patients


def measure(
    name: str, sdata: SpatialData, shapes_key: str, table_key: str, *, patient: str, layer: str | None
) -> MeasuredSlide:
    """Counts of a training slide, matched to its shapes by instance."""
    counts = measured_counts(sdata, shapes_key, table_key, layer=layer, name=name).without_empty()
    array = array_positions(sdata, shapes_key)
    return MeasuredSlide(**vars(counts), patient=patient, array=None if array is None else array[counts.rows])
