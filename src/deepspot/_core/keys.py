from __future__ import annotations

import re
from collections.abc import Iterable

from deepspot.errors import InputError, MissingKeyError

MICRONS = "microns"
"""Coordinate system in which one unit is one µm."""

DIAMETER = "diameter_um"
"""Column of a circles element: diameter of the measured tissue in µm (the circle's radius is only drawn)."""

PARENT = "parent"
"""Column of circles that were made of spots: index of the spot that a sub-spot is of, or a grid point nearest to."""

ARRAY = ("array_row", "array_col")
"""Columns with the position of a spot in the array of its technology."""

SLIDE = "deepspot_slide"
"""Key in the `attrs` of a SpatialData under which a whole slide says where its file is."""

COHORT = "deepspot_cohort"
"""Key in the `attrs` of a slide of a cohort under which it says how it was made."""

UNS = "deepspot"
"""Key in `uns` under which this package keeps provenance."""

FEATURES, PREDICTION, CORRECTED, PSEUDOBULK = "features", "prediction", "corrected", "pseudobulk"
"""What a table of this package holds: ``uns["deepspot"]["kind"]``."""

SCALE = "log1p of counts per 10,000"
"""The one scale of expression."""

LINK = ("region", "spot_id")
"""Region and instance column of tables that are linked by this package."""


def valid_name(name: str) -> str:
    """Turn any name (``"hf-hub:Org/model"``) into one that SpatialData accepts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("_.").rstrip("_") or "_"


def features_name(encoder: str, shapes_key: str) -> str:
    """Name of a feature table: ``<encoder>_<shapes>``."""
    return valid_name(f"{encoder}_{shapes_key}")


def prediction_name(shapes_key: str) -> str:
    """Name of a table of predicted genes: ``deepspot_<shapes>``."""
    return valid_name(f"deepspot_{shapes_key}")


def corrected_name(table_key: str) -> str:
    """Name of a table of corrected genes: ``<measured table>_corrected``."""
    return valid_name(f"{table_key}_corrected")


def subspots_name(shapes_key: str) -> str:
    """Name of the sub-spots of a shapes element: ``<shapes>_subspots``."""
    return valid_name(f"{shapes_key}_subspots")


def grid_name(shapes_key: str) -> str:
    """Name of the finer grid over a shapes element: ``<shapes>_grid``."""
    return valid_name(f"{shapes_key}_grid")


def key_in(key: str, available: Iterable[str], where: str) -> str:
    """Return `key` if it is one of `available`."""
    names = list(available)
    if key not in names:
        raise MissingKeyError(f"Key `{key!r}` not found in `{where}`. Available keys: {names}.")
    return key


def keys_in(keys: str | Iterable[str] | None, available: Iterable[str], where: str) -> list[str]:
    """Return the names that were asked for, each once, if all are available; all of them by default."""
    names = list(available)
    wanted = names if keys is None else [keys] if isinstance(keys, str) else [str(key) for key in keys]
    return [key_in(key, names, where) for key in dict.fromkeys(wanted)]


def one_key(key: str | None, available: Iterable[str], where: str, argument: str) -> str:
    """Return `key`, or the only candidate when no key is given."""
    names = list(available)
    if key is not None:
        return key_in(key, names, where)
    if not names:
        raise MissingKeyError(
            f"`{where}` holds nothing that fits, so `{argument}` cannot be chosen. Add an element first."
        )
    if len(names) > 1:
        raise InputError(f"`{where}` holds several candidates: {names}. Choose one with `{argument}=`.")
    return names[0]
