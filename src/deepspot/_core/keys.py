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

ARTIFACT = "artifact"
"""Column of spots and regions: what is wrong with the image there."""

MICRONS = "microns"
"""Coordinate system whose unit is 1 µm."""

DIAMETER = "diameter_um"
"""Column of a circles element: diameter of the measured tissue in µm (the radius is for drawing only)."""

PARENT = "parent"
"""Column of sub-spots and grids: index of the spot that contains the sub-spot or is nearest to the grid point."""

ARRAY = ("array_row", "array_col")
"""Columns with the position of a spot in the array of its technology."""

LINK = ("region", "spot_id")
"""Region and instance column of tables that this package links to spots."""

LINK_OF_POLYGONS = ("region", "instance_id")
"""Region and instance column of tables that this package links to polygons: cells, nuclei and bins."""

SLIDE = "deepspot_slide"
"""Key in the `attrs` of a SpatialData: source file of a whole slide."""

PIXELS = "deepspot_pixels"
"""Key in the `attrs` of a SpatialData: coordinate system of the full-resolution pixels of the slide."""

COHORT = "deepspot_cohort"
"""Key in the `attrs` of a slide of a cohort: provenance."""

UNS = "deepspot"
"""Key in the `uns` of a table: provenance."""

LEARNED = "training_slide"
"""Entry of ``uns["deepspot"]``: whether the model learned from the slide (``"yes"``, ``"no"`` or ``"unknown"``)."""

# Results of `ds.tl.evaluate`: a dictionary in `uns["deepspot"]`, and a table in `uns`.
AGREEMENT, GENE_SETS = "agreement", "deepspot_gene_sets"

WITHIN = "within_spots"
"""Entry of ``uns["deepspot"]``: result of :func:`deepspot.tl.evaluate_resolution`."""

FEATURES, PREDICTION, CORRECTED, PSEUDOBULK = "features", "prediction", "corrected", "pseudobulk"
MORPHOLOGY = "morphology"
"""Kinds of tables of this package: ``uns["deepspot"]["kind"]``."""

SCALE = "log1p of counts per 10,000"
"""Scale of expression in all tables of this package."""


def valid_name(name: str) -> str:
    """Convert any name (``"hf-hub:Org/model"``) to one that SpatialData accepts."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip("_.").rstrip("_") or "unnamed"


MOST_LETTERS = 2_000
# Control characters, line ends, marks of text direction, and unpaired surrogates.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def is_label(text: str) -> bool:
    """Return whether a text can be a name in the card of a model, and so in logs, terminals and tables."""
    return len(text) <= MOST_LETTERS and not _CONTROL.search(text)


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


def pooled_name(key: str) -> str:
    """Return the name of the spots into which shapes or points are pooled: ``<shapes>_spots``."""
    return valid_name(f"{key}_spots")


def counts_name(shapes_key: str) -> str:
    """Return the name of the table of pooled counts: ``<shapes>_counts``."""
    return valid_name(f"{shapes_key}_counts")


def nuclei_name(image_key: str) -> str:
    """Return the name of the nuclei of an image: ``<image>_nuclei``."""
    return valid_name(f"{image_key}_nuclei")


def artifacts_name(image_key: str) -> str:
    """Return the name of the regions of an image with artifacts: ``<image>_artifacts``."""
    return valid_name(f"{image_key}_artifacts")


def morphology_name(shapes_key: str) -> str:
    """Return the name of the table with the nuclei of spots: ``nuclei_<shapes>``."""
    return valid_name(f"nuclei_{shapes_key}")


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


ADD_IMAGE = "Read the slide with its image: functions of `ds.io` take one."


def one_key(
    key: str | None, available: Iterable[str], where: str, argument: str, hint: str = "Add an element first."
) -> str:
    """Return `key` if it is available, or the only available key if it is None; the `hint` is what to do without any.

    All keys that the caller accepts must be `available`, as the error for another key lists them.
    """
    names = list(available)
    if key is not None:
        return key_in(key, names, where)
    if not names:
        raise MissingKeyError(f"`{where}` holds no suitable element, so `{argument}` cannot be chosen. {hint}")
    if len(names) > 1:
        raise InputError(f"`{where}` holds several candidates: {names}. Choose one with `{argument}=`.")
    return names[0]


P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the types of arguments, by their annotations, and that `device` and `batch_size` can be used.

    Otherwise a key that is a list, or a device that does not exist, is noticed late and by another library.
    """
    annotations = {name: str(parameter.annotation) for name, parameter in signature(function).parameters.items()}

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in {**dict(zip(annotations, args, strict=False)), **kwargs}.items():
            if name in annotations:
                _check(name, annotations[name], value)
        return function(*args, **kwargs)

    return call


def _has(*attributes: str) -> Callable[[Any], bool]:
    """Return a check of attributes, which does not import the class."""
    return lambda value: all(hasattr(value, attribute) for attribute in attributes)


def _is(kind: Any, *others: Any) -> Callable[[Any], bool]:
    """Return a check of a type, where a flag is no number and bytes are no list."""
    return lambda value: isinstance(value, kind) and not isinstance(value, others)


# Pattern of an annotation without "| None", check, and what the argument must be, with a hint after a full stop.
_KINDS = [
    (r"str|Literal\[[^\]]*\]", _is(str), "text"),
    (r"bool", lambda value: type(value).__name__ in ("bool", "bool_"), "True or False"),
    (r"int", _is(Integral, bool), "a whole number"),
    (r"float", lambda value: _is(Real, bool)(value) and isfinite(value), "a finite number"),
    (r"str \| Path", _is(str | Path), "a path"),
    (r"(str \| )?Sequence\[(?!SpatialData)[^|]*\]", _is(Iterable, bytes), "a list"),
    (r"(dict|Mapping)\[(?!.*SpatialData).*\]", _is(Mapping), "a dictionary"),
    (r"SpatialData", _has("shapes", "tables"), "a SpatialData. Functions of `ds.io` read slides"),
    (
        r"CrossValidation \| .+",
        lambda value: _has("scores", "patterns")(value) or _is(Iterable, str, bytes)(value) or _has("shapes")(value),
        "a cross-validation, or one or more slides",
    ),
    (
        r"str \| Path \| SpatialData.*",
        lambda value: _is((str, Path, Iterable), bytes)(value) or _has("shapes")(value),
        "one or more slides, or the folder of a cohort",
    ),
    (
        r"(?!CrossValidation|str \| Path).+SpatialData.*",
        lambda value: _is(Iterable, str, bytes)(value) or _has("shapes")(value),
        "one or more slides",
    ),
    (
        r"AnnData",
        _has("obs", "var_names"),
        "an AnnData. Read it with `anndata.read_h5ad`, or for profiles of patients use `ds.cohort.pseudobulk`",
    ),
    (r"DeepSpot|Model", _has("predict"), "a model"),
]


def _check(name: str, annotation: str, value: Any) -> None:
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return
    for pattern, fits, wanted in _KINDS:
        if re.fullmatch(pattern, kind) and not fits(value):
            kind_of, _, hint = f"{wanted}.".partition(". ")
            shown = repr(value) if isinstance(value, str | bytes | Real | list | dict) else type(value).__name__
            none = " or None" * (kind != annotation)
            raise InputTypeError(f"`{name}` must be {kind_of.rstrip('.')}{none}, got {shown:.100}. {hint}".rstrip())
    if "Path" in kind and isinstance(value, str | Path):
        from .validate import check_path

        check_path(value, name)
    if name == "device" and kind == "str":
        from .compute import choose_device

        choose_device(value)
    if name == "batch_size":
        from .validate import check_count

        check_count(value, name)
