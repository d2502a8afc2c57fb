"""Names of elements, tables and columns that the package uses, and checks of keys and other arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import wraps
from inspect import signature
from math import isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from deepspot.errors import InputError, InputTypeError, MissingKeyError

MICRONS = "microns"
"""Coordinate system whose unit is 1 µm."""

DIAMETER = "diameter_um"
"""Column of a circles element: diameter of the measured tissue in µm (the radius is for drawing only)."""

PARENT = "parent"
"""Column of sub-spots and grids: index of the spot that contains the sub-spot or is nearest to the grid point."""

ARRAY = ("array_row", "array_col")
"""Columns with the position of a spot in the array of its technology."""

LINK = ("region", "spot_id")
"""Region and instance column of tables that this package links."""

SLIDE = "deepspot_slide"
"""Key in the `attrs` of a SpatialData: source file of a whole slide."""

PIXELS = "deepspot_pixels"
"""Key in the `attrs` of a SpatialData: coordinate system of the full-resolution pixels of the slide."""

COHORT = "deepspot_cohort"
"""Key in the `attrs` of a slide of a cohort: provenance."""

UNS = "deepspot"
"""Key in the `uns` of a table: provenance."""

FEATURES, PREDICTION, CORRECTED, PSEUDOBULK = "features", "prediction", "corrected", "pseudobulk"
"""Kinds of tables of this package: ``uns["deepspot"]["kind"]``."""

SCALE = "log1p of counts per 10,000"
"""Scale of expression in all tables of this package."""


def valid_name(name: str) -> str:
    """Convert any name (``"hf-hub:Org/model"``) to one that SpatialData accepts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("_.").rstrip("_") or "_"


def column_name(name: object) -> str:
    """Convert the name of a pathway to one of a column in `obsm`, which cannot be written with a slash."""
    return str(name).replace("/", "_")


def features_name(encoder: str, shapes_key: str) -> str:
    """Return the name of a feature table: ``<encoder>_<shapes>``."""
    return valid_name(f"{encoder}_{shapes_key}")


def prediction_name(shapes_key: str) -> str:
    """Return the name of a table of predicted genes: ``deepspot_<shapes>``."""
    return valid_name(f"deepspot_{shapes_key}")


def corrected_name(table_key: str) -> str:
    """Return the name of a table of corrected genes: ``<measured table>_corrected``."""
    return valid_name(f"{table_key}_corrected")


def subspots_name(shapes_key: str) -> str:
    """Return the name of the sub-spots of a shapes element: ``<shapes>_subspots``."""
    return valid_name(f"{shapes_key}_subspots")


def grid_name(shapes_key: str) -> str:
    """Return the name of the finer grid over a shapes element: ``<shapes>_grid``."""
    return valid_name(f"{shapes_key}_grid")


def key_in(key: str, available: Iterable[str], where: str) -> str:
    """Return `key` if it is available."""
    names = list(available)
    if not isinstance(key, Hashable):
        raise InputTypeError(f"A key of `{where}` must be text, got {key!r}. Available keys: {names}.")
    if key not in names:
        raise MissingKeyError(f"Key `{key!r}` not found in `{where}`. Available keys: {names}.")
    return key


def keys_in(keys: str | Iterable[str] | None, available: Iterable[str], where: str) -> list[str]:
    """Return `keys` without repetitions if all are available; by default, return all that are."""
    names = list(available)
    if isinstance(keys, bytes) or not isinstance(keys, Iterable | None):
        raise InputTypeError(f"Keys of `{where}` must be a name or a list of names, got {keys!r}.")
    wanted = names if keys is None else [keys] if isinstance(keys, str) else [str(key) for key in keys]
    return [key_in(key, names, where) for key in dict.fromkeys(wanted)]


def one_key(key: str | None, available: Iterable[str], where: str, argument: str) -> str:
    """Return `key` if it is available, or the only available key if it is None."""
    names = list(available)
    if key is not None:
        return key_in(key, names, where)
    if not names:
        raise MissingKeyError(
            f"`{where}` holds no suitable element, so `{argument}` cannot be chosen. Add an element first."
        )
    if len(names) > 1:
        raise InputError(f"`{where}` holds several candidates: {names}. Choose one with `{argument}=`.")
    return names[0]


P = ParamSpec("P")
R = TypeVar("R")

_TEXT = re.compile(r"(str|Literal\[[^\]]*\])( \| None)?")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check arguments that are annotated as a slide, a text, a number or a flag, and `device` and `batch_size`.

    Otherwise a key that is a list, or a device that does not exist, is noticed late and by another library.
    """
    parameters = signature(function).parameters

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in {**dict(zip(parameters, args, strict=False)), **kwargs}.items():
            if name in parameters:
                _check(name, str(parameters[name].annotation), value)
        return function(*args, **kwargs)

    return call


def _check(name: str, annotation: str, value: Any) -> None:
    if annotation.endswith("| None") and value is None:
        return
    if annotation == "SpatialData" and not (hasattr(value, "shapes") and hasattr(value, "tables")):
        raise InputTypeError(
            f"`{name}` must be a SpatialData, got {type(value).__name__}. Functions of `ds.io` read slides."
        )
    if _TEXT.fullmatch(annotation) and not isinstance(value, str):
        none = " or None" * annotation.endswith("None")
        raise InputTypeError(f"`{name}` must be text{none}, got {value!r}.")
    if annotation == "AnnData" and not (hasattr(value, "obs") and hasattr(value, "var_names")):
        raise InputTypeError(
            f"`{name}` must be an AnnData, got {type(value).__name__}. Read it with `anndata.read_h5ad`; "
            "`ds.cohort.pseudobulk` makes one of slides."
        )
    if annotation == "DeepSpot" and not hasattr(value, "predict"):
        raise InputTypeError(f"`{name}` must be a model, got {type(value).__name__}.")
    kind = annotation.removesuffix(" | None")
    if kind == "str | Path" and not isinstance(value, str | Path):
        raise InputTypeError(f"`{name}` must be a path, got {value!r}.")
    number = isinstance(value, Real) and not isinstance(value, bool)
    if kind in ("int", "float") and not (number and (kind == "float" or isinstance(value, Integral))):
        raise InputTypeError(f"`{name}` must be a {'whole ' * (kind == 'int')}number, got {value!r}.")
    if kind == "float" and not isfinite(value):
        raise InputError(f"`{name}` must be finite, got {value}.")
    if kind.removeprefix("str | ").startswith("Sequence[") and (
        isinstance(value, bytes) or not isinstance(value, Iterable)
    ):
        raise InputTypeError(f"`{name}` must be a list, got {value!r}.")
    if re.fullmatch(r"(dict|Mapping)\[.*\]", kind) and "SpatialData" not in kind and not isinstance(value, Mapping):
        raise InputTypeError(f"`{name}` must be a dictionary, got {value!r}.")
    if "SpatialData" in annotation and not isinstance(value, Iterable | Mapping) and not hasattr(value, "shapes"):
        raise InputTypeError(f"`{name}` must be a SpatialData, or a dictionary or list of several, got {value!r}.")
    if annotation == "bool" and type(value).__name__ not in ("bool", "bool_"):
        raise InputTypeError(f"`{name}` must be True or False, got {value!r}.")
    if name == "device" and annotation.startswith("str"):
        from .compute import choose_device

        choose_device(value)
    if name == "batch_size":
        from .validate import check_count

        check_count(value, name)
