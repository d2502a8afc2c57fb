"""Regions that somebody drew: polygons, their labels and colours, from QuPath's GeoJSON or any table of shapes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.validate import key_in

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

# Where a label may be, best first: the class that QuPath gives an object, and the name that a person typed.
GUESSES = ("classification", "name")


@dataclass(frozen=True)
class Regions:
    """Polygons with a label each.

    Attributes
    ----------
    polygons
        (r,) valid shapely geometries with an area.
    labels
        (r,) text.
    colours
        Hexadecimal colour by label, as far as known.
    left_out
        Why objects were left out, and how many; empty if none was.
    """

    polygons: np.ndarray
    labels: list[str]
    colours: dict[str, str]
    left_out: str

    def cover(self, points: np.ndarray) -> np.ndarray:
        """Number of the region that covers each of (n, 2) points, or -1. Of several it is the smallest one."""
        import shapely

        point, region = shapely.STRtree(self.polygons).query(shapely.points(points), predicate="intersects")
        area = shapely.area(self.polygons)
        # The last one that is written stays; of equal ones that is the first.
        order = np.lexsort((-region, -area[region]))
        found = np.full(len(points), -1)
        found[point[order]] = region[order]
        return found


def read(path: Path) -> GeoDataFrame:
    """Read a GeoJSON file: a collection of features, one feature, or a bare list of them, as QuPath's scripts write."""
    from geopandas import GeoDataFrame

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content if isinstance(content, list) else content.get("features", [content])
        return GeoDataFrame.from_features(features)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is not GeoJSON ({type(error).__name__}: {error}). Export the annotations from QuPath with "
            "File > Export objects as GeoJSON."
        ) from error


def regions_of(shapes: GeoDataFrame, label_key: str | None) -> Regions:
    """Polygons and labels of a table of shapes; what has no area or no label is left out."""
    import shapely

    labels, colours = _labels(shapes, label_key)
    polygons = np.array(shapes.geometry.array, dtype=object)
    polygons = np.where(shapely.is_valid(polygons), polygons, shapely.make_valid(polygons))
    flat = ~(shapely.area(polygons) > 0)
    unnamed = np.array([label is None for label in labels], dtype=bool) & ~flat
    kept = ~flat & ~unnamed
    reasons = {"without an area (points or lines)": flat.sum(), "without a label": unnamed.sum()}
    left_out = " and ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
    if not kept.any():
        raise ValueError(f"There is no labelled polygon among the {len(shapes)} regions: {left_out or 'it is empty'}.")
    names = [label for label, keep in zip(labels, kept, strict=True) if keep and label is not None]
    return Regions(polygons[kept], names, colours, left_out)


def _labels(shapes: GeoDataFrame, label_key: str | None) -> tuple[list[str | None], dict[str, str]]:
    if label_key is not None:
        columns = [column for column in shapes.columns if column != shapes.geometry.name]
        key_in(label_key, columns, "columns of the regions")
    for column in GUESSES if label_key is None else [label_key]:
        if column in shapes:
            classes = [_class(value) for value in shapes[column]]
            if any(label is not None for label, _ in classes):
                return [label for label, _ in classes], {label: c for label, c in classes if label and c}
    if label_key is not None:
        raise ValueError(f"Column {label_key!r} of the regions holds no label at all.")
    return [str(value) for value in shapes.index], {}


def _class(value: Any) -> tuple[str | None, str | None]:
    """Label and colour of a value: text, or QuPath's ``{"name": …, "color": […]}``, which files may hold as text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return value, None
    if isinstance(value, dict):
        # Classes below another one have several names.
        name = value.get("name") or ": ".join(map(str, value.get("names") or []))
        return (str(name) if name else None), _colour(value.get("color", value.get("colorRGB")))
    missing = value is None or value != value or not str(value).strip()
    return (None if missing else str(value)), None


def _colour(value: Any) -> str | None:
    if isinstance(value, int | np.integer):  # older files: alpha, red, green and blue in one signed number
        return f"#{int(value) & 0xFFFFFF:06x}"
    if isinstance(value, Sequence | np.ndarray) and len(value) == 3:
        return "#" + "".join(f"{int(part):02x}" for part in value)
    return None
