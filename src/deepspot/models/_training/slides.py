"""Training slides: names, patients and measured counts."""

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


# Spots without which a correlation over the spots of a slide is undefined, or always 1.
FEWEST = 3


@dataclass(frozen=True, eq=False)
class MeasuredSlide(MeasuredCounts):
    """Counts of the spots of a slide that have any, its patient, and their array positions (n, 2) if known.

    `thumbnail` is that of :func:`deepspot.models._training.copies.thumbnail`.
    """

    patient: str
    array: np.ndarray | None = None
    thumbnail: tuple[np.ndarray, np.ndarray] | None = None


def as_mapping(slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData]) -> dict[str, SpatialData]:
    """Return slides by name, given as one slide, a sequence or a mapping."""
    from spatialdata import SpatialData

    if isinstance(slides, SpatialData):
        return {"slide": slides}
    if isinstance(slides, Mapping):
        named = {str(name): sdata for name, sdata in slides.items()}
    else:
        named = {f"slide_{number}": sdata for number, sdata in enumerate(slides, start=1)}
    if not named:
        raise InputError("`slides` is empty. Pass a SpatialData, a list of them, or a mapping from names to them.")
    for name, sdata in named.items():
        if not isinstance(sdata, SpatialData):
            raise InputTypeError(
                f"Slide {name!r} is a {type(sdata).__name__}, not a SpatialData. Read it with `ds.io`."
            )
    return named


def patients_of(
    tables: Mapping[str, AnnData], patient_key: str | Mapping[str, str] | pd.Series | None
) -> dict[str, str]:
    """Return the patient of every slide."""
    if patient_key is None:
        if len(tables) > 1:
            raise InputError(
                "Several slides need `patient_key`: a column of `obs`, or a mapping from slides to patients. It is "
                "needed to hold out whole patients; accuracy on patients in the training set would be too high."
            )
        return dict.fromkeys(tables, "unknown")
    if isinstance(patient_key, Mapping | pd.Series):
        repeated = pd.Index([str(name) for name in patient_key.keys()])  # noqa: SIM118 - of a Series, these are not values
        if repeated.has_duplicates:
            raise InputError(
                f"`patient_key` names slide {repeated[repeated.duplicated()][0]!r} several times. Name it once."
            )
        patient_key = {str(name): patient for name, patient in patient_key.items()}
        stated = {name: patient_key[key_in(name, patient_key, "patient_key")] for name in tables}
        unknown = [name for name, patient in stated.items() if pd.isna(patient)]
        if unknown:
            raise InputError(f"`patient_key` names no patient for slides {unknown}. Add their patients.")
        return {name: str(patient).strip() for name, patient in stated.items()}
    if not isinstance(patient_key, str):
        raise InputTypeError(
            "`patient_key` must be a column of `obs`, or a mapping (or a Series) from slides to patients, got "
            f"{type(patient_key).__name__}."
        )
    patients = {}
    for name, table in tables.items():
        values = table.obs[key_in(patient_key, table.obs.columns, f"obs of slide {name!r}")].unique()
        if len(values) != 1 or pd.isna(values[0]):
            raise InputError(
                f"Slide {name!r} must be of one patient, but obs[{patient_key!r}] contains {list(values)}."
            )
        patients[name] = str(values[0]).strip()
    return patients


def slide_columns(tables: Mapping[str, AnnData]) -> dict[str, dict[str, str]]:
    """Return the columns of `obs` that have one text in all spots of each slide, with the text of every slide."""
    columns: dict[str, dict[str, str]] = {}
    for column in set.intersection(*(set(table.obs.columns) for table in tables.values())):
        values = {name: table.obs[column].unique() for name, table in tables.items()}
        single = all(len(found) == 1 and isinstance(found[0], str) for found in values.values())
        links = {link for table in tables.values() for link in table.uns.get("spatialdata_attrs", {}).values()}
        if single and column not in {str(link) for link in links}:
            columns[str(column)] = {name: found[0] for name, found in values.items()}
    return dict(sorted(columns.items()))


def text_of_slides(
    groupby: str | Mapping[str, str] | pd.Series, names: Sequence[str], columns: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Return the group of each slide: a column with one text for each slide, or a mapping from slides to groups."""
    if isinstance(groupby, str):
        return dict(columns[key_in(groupby, columns, "columns of obs with one text for each slide")])
    stated = {str(name): value for name, value in groupby.items()}
    unknown = [name for name in names if name not in stated or pd.isna(stated[name])]
    if unknown:
        raise InputError(f"`groupby` has no group for slides {unknown}. Add them.")
    return {name: str(stated[name]) for name in names}


def measure(
    name: str, sdata: SpatialData, shapes_key: str, table_key: str, *, patient: str, layer: str | None
) -> MeasuredSlide:
    """Return the counts of a training slide, matched to its shapes by instance."""
    counts = measured_counts(sdata, shapes_key, table_key, layer=layer, name=name).without_empty()
    if len(counts.rows) < FEWEST:
        raise InputError(
            f"Slide {name!r} of patient {patient!r} has {len(counts.rows)} measured spots with counts; at least "
            f"{FEWEST} are needed to compute a correlation. Leave the slide out."
        )
    try:
        f"{name}{patient}".encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Slide {name!r} of patient {patient!r}: the name has characters that files cannot store. Rename it."
        ) from error
    array = array_positions(sdata, shapes_key)
    return MeasuredSlide(**vars(counts), patient=patient, array=None if array is None else array[counts.rows])
